"""The most that a reader takes from others: every number, text and file is held against these before it is used.

A plan, a ledger and a release may come from anybody. A loop, a set or an array is sized by none of their figures before
the figure has passed its bound here.
"""

# --- figures --------------------------------------------------------------------------------------

DELTA = 0.01
"""Delta lies below; a delta above one in the number of units is warned of besides (`undertone.claim`)."""
EPSILON = 100.0
ATTEMPTS = 1_000_000
"""Rounds and attempts."""
SITES = 1000
"""As many as secure aggregation allows."""
UNITS = 10**9
"""N_i of one site."""
DIMENSION = 1 << 32
"""The longest row: of one that is longer, C / sqrt(d) would be less than 64 grid units."""
SCALE = 1 << 62
SIGMA = 1 << 38
"""Noise in grid units: as much as the sampler draws exactly."""
SENSITIVITY = 1 << 24
"""Delta in grid units: s C is at most 2^22, and no relation makes more of it than four times as much."""
WORD = (1 << 31) - 1
"""Of a vector's 32 bits: site clamp and noise margin."""
RATIO = 1e30
"""Noise to signal, and an epsilon that is shown and claimed by nobody."""
OPTION = 1 << 53
"""A method's number, either sign."""

# --- texts, lists and tables, in characters and entries -------------------------------------------

NAME = 200
TEXT = 2000
PATH = 4096
MODEL_FILES = 2000
OPTIONS = 100
ITEMS = 1000

# --- files, in bytes ------------------------------------------------------------------------------

PLAN_BYTES = 1 << 20
STATEMENT_BYTES = 4 << 20
MANIFEST_BYTES = 1 << 16
SIGNATURE_BYTES = 256
RELEASE_FILES = 100
ENTRY_BYTES = 1 << 17
"""One entry of a ledger."""
