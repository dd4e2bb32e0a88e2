"""The stages a contribution passes through, each with a type of its own.

    central noise         Contributions -> ClippedSum -> MaskedVector -> Sum -> NoisedSum -> Release
    distributed noise     Contributions -> ClippedSum -> ClippedSumWithNoiseShare -> MaskedVector -> SumWithNoiseShares
                                        -> NoisedSum -> Release

A step cannot be skipped by accident: each function takes the type before it and returns the next,
and the bound travels with the value. `tests/arch` checks by syntax tree who may build which.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PER_ROW = "add/remove one unit, quantised per row"
PER_SHARD = "add/remove one unit of a shard, quantised per shard"
# What one unit moves, in rows of length s C at most: its own comes or goes; its shard's becomes another.
_ROWS_MOVED = {PER_ROW: 1, PER_SHARD: 2}


@dataclass(frozen=True)
class Sensitivity:
    """How far one unit can move an integer sum: L2 bound `l2` (Delta) under `relation`."""

    l2: int
    relation: str = PER_ROW

    @classmethod
    def of(cls, clip_units: int, relation: str) -> "Sensitivity":
        """Delta of sums of rows of length s C = `clip_units` at most: s C, or 2 s C where rows are of shards."""
        return cls(_ROWS_MOVED[relation] * clip_units, relation)


@dataclass(frozen=True)
class Contributions:
    """One row per sampled unit, unclipped: `rows` [n, d] float32, n >= 0. Never leaves a node."""

    rows: NDArray[np.float32]


@dataclass(frozen=True)
class ClippedSum:
    """A site's clamped integer sum: `values` [d] int64 and what one unit can change of it."""

    values: NDArray[np.int64]
    sensitivity: Sensitivity


@dataclass(frozen=True)
class ClippedSumWithNoiseShare:
    """A site's clamped sum with its noise share: `values` [d] int64. Built by `add_noise_share` alone.

    `sigma_local` is in integer units; `entry_hash` names the entry of the site's ledger that paid for it.
    """

    values: NDArray[np.int64]
    sigma_local: int
    entry_hash: str


@dataclass(frozen=True)
class MaskedVector:
    """What leaves a node: `words` [d] uint32 in the ring of 2^wire_bits, and the aggregation that can open it."""

    words: NDArray[np.uint32]
    aggregation: str
    wire_bits: int = 32


@dataclass(frozen=True)
class Sum:
    """The opened integer sum over `sites`: `values` [d] int64. Still private."""

    values: NDArray[np.int64]
    sensitivity: Sensitivity
    sites: tuple[str, ...]


@dataclass(frozen=True)
class SumWithNoiseShares:
    """The opened sum over `sites`, each of which added its noise share: `values` [d] int64."""

    values: NDArray[np.int64]
    sigma_local: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class NoisedSum:
    """Q + Z: the first value that may be looked at. Built by the gate alone, from a receipt.

    `entry_hash` names the ledger entry that paid for it; `sigma` is in integer units.
    """

    values: NDArray[np.int64]
    sigma: int
    sites: tuple[str, ...]
    entry_hash: str


@dataclass(frozen=True)
class Release:
    """What leaves a study: a folder with weights, statement, ledger and manifest."""

    folder: Path
