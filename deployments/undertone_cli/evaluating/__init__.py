"""Releases held against real images: what `undertone evaluate` and the diagnostics of a simulation share.

All of it reads private images without noise, so its results stay where the images are (PRIVACY 19).
"""
