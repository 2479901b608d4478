"""The trainer at scale: `python -m experiments.train`, see `experiments.train.__main__`."""
