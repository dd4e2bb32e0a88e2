"""Upper bounds of what a reader accepts from others: each number, text and file is checked before it is used.

A plan, a ledger and a release may come from anybody. No figure of theirs sizes a loop, a set or an array before it has
passed its bound here.
"""

# --- figures --------------------------------------------------------------------------------------

DELTA = 0.01
"""Delta must be below this; a delta above 1 / sum N_i is warned about as well (`undertone.study.claim`)."""
EPSILON = 100.0
ATTEMPTS = 1_000_000
"""Rounds and attempts."""
SITES = 1000
"""As many as secure aggregation allows."""
UNITS = 10**9
"""N_i of one site."""
DIMENSION = 1 << 32
"""The longest row; for a longer one, s C / sqrt(d) would be below 64."""
SCALE = 1 << 62
SIGMA = 1 << 38
"""Sigma in grid units: the largest that the sampler draws exactly."""
SENSITIVITY = 1 << 24
"""Delta in grid units: s C is at most 2^22, and no relation multiplies it by more than four."""
SHARDS = 4096
"""Of a site; each is worked on by itself in every round."""
WORD = (1 << 31) - 1
"""Site clamp and noise margin, which share a word of 32 bits."""
RATIO = 1e30
"""Noise to signal, and an epsilon that is shown but not claimed."""
READY_SECONDS = 86_400.0
"""Of a plan's public time, for each unit of a site."""
OPTION = 1 << 53
"""The magnitude of a method's numeric option."""

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
