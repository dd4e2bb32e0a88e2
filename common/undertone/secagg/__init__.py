"""The seam for secure aggregation: how sites' integer vectors become one opened sum."""
