"""Samples in one to four calls, measured: `python -m experiments.few_step`."""
