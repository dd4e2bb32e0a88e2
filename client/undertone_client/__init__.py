"""The hospital's program: reads private images, answers with clipped integers."""
