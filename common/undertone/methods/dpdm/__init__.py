"""The method that trains a whole small diffusion model."""
