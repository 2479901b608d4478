"""Numerics that know nothing of diffusion."""
