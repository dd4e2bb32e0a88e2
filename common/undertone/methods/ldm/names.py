"""Names of tensors: the table of a class embedding in a UNet, and its rows in w and in a release."""

TABLE = "class_embedding.weight"
CLASS = "class."
"""Before the name of a class of the study."""
NULL = "null"
"""The null label's row, which is told where a caption is left out."""
