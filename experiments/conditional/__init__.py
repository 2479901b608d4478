"""Posteriors of a diffusion prior, measured: `python -m experiments.conditional`."""
