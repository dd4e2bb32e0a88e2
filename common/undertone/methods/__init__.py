"""What can be adapted: one file per method, one line in the registry."""
