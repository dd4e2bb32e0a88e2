"""How alike two sets of images are, on features that nothing private shaped."""
