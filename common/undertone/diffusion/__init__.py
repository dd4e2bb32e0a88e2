"""What a diffusion model is trained on: losses, and captions that are left out."""
