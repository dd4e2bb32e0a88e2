"""Public pre-training: procedural images and the script that made `embedded:tiny`."""
