"""What networks cost, worked out without running them."""
