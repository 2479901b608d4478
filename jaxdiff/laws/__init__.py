"""Laws in closed form, their fits to data, and how far two laws are apart."""
