"""Runnable experiments: each a frozen config, `main(config)`, a JSON of figures and a picture."""
