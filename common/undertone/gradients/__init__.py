"""Per-unit gradients and their clipped sums, at nearly the cost of an ordinary training step."""
