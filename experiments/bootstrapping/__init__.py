"""Time bootstrapping, measured: see `experiments.bootstrapping.__main__`."""
