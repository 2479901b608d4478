"""What to regress onto, and how."""
