"""Training a diffusion model on images: the loop, the denoisers, their first weights."""
