"""The score-based density formula, measured: `python -m experiments.density`."""
