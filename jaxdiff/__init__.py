"""jaxdiff: score-based diffusion in JAX."""
