"""Held-out log-densities beside those of other libraries: see `experiments.density_table.__main__`."""
