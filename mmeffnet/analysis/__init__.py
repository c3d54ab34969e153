"""What networks cost and how they differ: measured, counted and drawn."""
