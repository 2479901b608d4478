"""Samples with weights: laws that no flow reaches, by many particles that compete."""
