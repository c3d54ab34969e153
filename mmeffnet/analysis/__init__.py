"""What networks cost and how they differ: worked out, measured, counted and drawn."""
