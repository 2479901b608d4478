"""From a network to a denoiser."""
