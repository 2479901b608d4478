"""The documentation as pages: `python -m experiments.site --out site`."""
