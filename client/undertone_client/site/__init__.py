"""SITE_DIR: what a node owns, on disk."""
