"""Data seen through an operator and noise: what a denoiser makes of an observation."""
