"""From a denoiser to that of another law: each a pure transform."""
