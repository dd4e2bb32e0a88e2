"""A site's answers within an attempt."""
