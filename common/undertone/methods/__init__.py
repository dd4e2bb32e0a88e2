"""What can be adapted: one folder per method, one line in the registry (docs/methods.md#add-a-method)."""
