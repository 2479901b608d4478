"""Initialization-aware sampling, measured: `python -m experiments.initialization`."""
