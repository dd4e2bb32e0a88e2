"""What methods share that train a whole small diffusion model."""
