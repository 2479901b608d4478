"""How likely a datum is."""
