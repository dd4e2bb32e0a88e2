"""The bounds of a clipped row on the grid of integers, for whoever cuts one (PRIVACY 4)."""

MARGIN = 1.0 - 2.0**-10
"""Rows are clipped a little inside C, so that float rounding rarely carries one past the check in integers."""
LARGEST_CLIP_UNITS = 1 << 22
"""The largest s C: 2^18 squares of such values fit an int64, 511 rows a sum in int32."""
SMALLEST_CLIP_UNITS = 1 << 10
"""The smallest s C: on a coarser grid, cutting towards zero would cost more than one part in a thousand of C."""
