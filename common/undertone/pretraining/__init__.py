"""Public pre-training: drawn images, the two training stages, stock diffusers folders at the end."""
