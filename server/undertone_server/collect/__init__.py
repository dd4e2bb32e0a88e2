"""Asking the sites: who they are, what they answer, and one sum of it."""
