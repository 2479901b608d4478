"""Diffusion of tokens, measured; see `experiments.discrete.__main__`."""
