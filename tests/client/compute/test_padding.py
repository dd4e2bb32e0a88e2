"""Rows in a batch of fixed shape are bit-identical whoever stands beside them (PRIVACY 3, 14)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from undertone.methods.protocol import UnitRecords
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI, DPAggTIOptions
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone_client.compute.padding import padded

SLOTS = 8
METHOD = DPAggTI(DPAggTIOptions(steps=3, learning_rate=0.05))


@pytest.fixture(scope="module", params=["random", "embedded"])
def pinned(request: pytest.FixtureRequest, tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base)) if request.param == "random" else pin("embedded:tiny")


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


def rows(base: LoadedBase, pinned: PinnedBase, numbers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Rows of units named by number, each with records and randomness that follow from its number."""

    def unit(number: int) -> UnitRecords:
        rng = np.random.Generator(np.random.Philox(key=number))
        images = rng.standard_normal((1 + number % 3, *base.latent_shape), dtype=np.float32)
        return UnitRecords(images, ("a <private>",) * len(images), rng)

    batch = padded([unit(number) for number in numbers], SLOTS)
    assert len(batch) == SLOTS
    found = METHOD.rows(base, METHOD.initial_state(pinned), batch, lambda _steps: None)
    return dict(zip(numbers, found, strict=False))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_equal_to_the_bit_whoever_stands_beside_it(base: LoadedBase, pinned: PinnedBase, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        everyone = rows(base, pinned, range(8))
        for others in ([3], [3, 0, 1], [7, 6, 5, 4, 3, 2, 1, 0], [9, 10, 3, 11]):
            found = rows(base, pinned, others)
            for number in set(others) & set(everyone):
                np.testing.assert_array_equal(found[number], everyone[number])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_latents_are_equal_to_the_bit_whichever_images_share_their_batch(base: LoadedBase, threads: int) -> None:
    """Also those of other shards: rows of shards stand by themselves, images in the encoder's batches do not."""
    shape = (24, base.image_size, base.image_size, 3)
    images = np.random.Generator(np.random.Philox(key=24)).integers(0, 256, shape, dtype=np.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = base.encode(images[:16])
        np.testing.assert_array_equal(base.encode(images[8:])[:8], first[8:])
        alone = np.zeros_like(images[:16])
        alone[5] = images[0]
        np.testing.assert_array_equal(base.encode(alone)[5], first[0])
    finally:
        torch.set_num_threads(before)


def test_dummies_leave_no_room_for_a_unit_and_full_batches_get_none(base: LoadedBase, pinned: PinnedBase) -> None:
    assert len(rows(base, pinned, range(8))) == 8
    latents = np.ones((2, *base.latent_shape), dtype=np.float32)
    unit = UnitRecords(latents, ("a", "b"), np.random.Generator(np.random.Philox(key=1)))
    assert padded([unit], 1) == [unit]
    assert all(not dummy.latents.any() for dummy in padded([unit], 4)[1:])
