"""Batches of units, and the one comparison that every gradient test makes: the engine beside the oracle."""

from collections.abc import Sequence
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undertone.gradients import engine as engine_module
from undertone.gradients.clipping import LARGEST_CLIP_UNITS, MARGIN
from undertone.gradients.engine import GradientEngine, LossPerRow, UnitBatch
from undertone.gradients.oracle import clip_and_sum, rows_one_at_a_time

TOLERANCE = 1e-5
NORM_TOLERANCE = 1e-4  # Gram matrices in float32; the integers are checked by themselves


def units_of(*counts: int, shuffled: bool = False) -> UnitBatch:
    """One unit for each count of rows, all of a unit's rows of equal weight; `shuffled` mixes their order."""
    unit = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    weight = 1 / torch.tensor(counts, dtype=torch.float64)[unit]
    if shuffled:
        order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(len(unit)))
        unit, weight = unit[order], weight[order]
    return UnitBatch(unit, weight, len(counts))


def weighted() -> UnitBatch:
    """Ragged units whose rows weigh unequally, one row nothing at all (a filler)."""
    unit = torch.tensor([2, 0, 1, 2, 2, 1])
    weight = torch.tensor([0.25, 1.0, 0.9, 0.75, 0.0, 0.1], dtype=torch.float64)
    return UnitBatch(unit, weight, 3)


BATCHES = {
    "one row each": units_of(1, 1, 1, 1, 1),
    "K draws": units_of(3, 3, 3),
    "K draws, out of order": units_of(2, 2, 2, 2, shuffled=True),
    "ragged patients": units_of(4, 1, 2, 1, shuffled=True),
    "unequal weights": weighted(),
    "one unit": units_of(3),
}


def rows_in(batch: UnitBatch) -> int:
    """How many rows the forward pass has."""
    return len(batch.unit_of_row)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """|found - true| / |true|."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def assert_agrees(
    model: nn.Module, parameters: Sequence[str], loss: LossPerRow, batch: UnitBatch, tolerance: float = TOLERANCE
) -> None:
    """Rows, norms and clipped sums equal the oracle's, with a bound that clips about half of the units."""
    engine = GradientEngine(model, parameters)
    true = rows_one_at_a_time(model, parameters, loss, batch)
    assert np.linalg.norm(true, axis=1).min() > 0
    assert engine.d == true.shape[1]
    for found_row, true_row in zip(engine.rows(loss, batch), true, strict=True):
        assert relative(found_row.astype(np.float64), true_row) <= tolerance
    norms = np.linalg.norm(true, axis=1)
    clip_norm = float(np.median(norms))
    found_norms = engine.norms(loss, batch)
    assert found_norms.dtype == np.float64
    np.testing.assert_allclose(found_norms, norms, rtol=NORM_TOLERANCE)
    expected, _ = clip_and_sum(true, clip_norm * MARGIN)
    # Made in pieces, and from stored gradients, as of a model that is small.
    total = clipped_sum(engine, loss, batch, clip_norm)
    with mock.patch.object(engine_module, "FEW", 1 << 24):
        stored = clipped_sum(engine, loss, batch, clip_norm)
    assert np.linalg.norm(stored - total) <= 2 * NORM_TOLERANCE * np.linalg.norm(expected)
    # Each value of each unit loses less than a grid unit.
    cut = clip_norm * batch.units * np.sqrt(engine.d) / (LARGEST_CLIP_UNITS / 2)
    assert np.linalg.norm(total - expected) <= cut + (tolerance + NORM_TOLERANCE) * np.linalg.norm(expected)


def clipped_sum(
    engine: GradientEngine, loss: LossPerRow, batch: UnitBatch, clip_norm: float, counted: Sequence[bool] | None = None
) -> NDArray[np.float64]:
    """The engine's integer sum on the finest grid, as floats."""
    scale, clip_units = grid_for(clip_norm)
    return engine.clipped_sum(loss, batch, scale=scale, clip_units=clip_units, counted=counted) / scale


def grid_for(clip_norm: float) -> tuple[int, int]:
    """The largest power of two s with s C <= 2^22, and s C."""
    scale = 1 << max(int(np.floor(np.log2(LARGEST_CLIP_UNITS / clip_norm))), 0)
    return scale, min(int(scale * clip_norm), LARGEST_CLIP_UNITS)
