"""Benchmarks: one question a file, ratios measured in one run."""
