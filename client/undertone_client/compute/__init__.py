"""Rows from records: latents, workers, and what is kept of an attempt."""
