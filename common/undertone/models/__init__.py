"""Base models: finding, pinning, loading and sampling."""
