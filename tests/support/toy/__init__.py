"""A toy method, as its author would write it: the folder that `tests.support.added.added_method` adds."""
