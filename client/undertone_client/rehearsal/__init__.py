"""Rehearsals: every message of a plan on drawn images, in a SITE_DIR of their own; nothing private is read."""
