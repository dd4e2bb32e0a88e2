"""Rows and latents are bit-identical whoever else is at the site (PRIVACY 3, 14)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.images import write_folder
from tests.support.world import World
from undertone.data.identical import with_digests
from undertone.data.records import read_records
from undertone.methods.ldm.method import DPLDM, DPLDMOptions
from undertone.methods.protocol import UnitRecords
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI, DPAggTIOptions
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone_client.compute.latents import cached_latents
from undertone_client.compute.padding import padded
from undertone_client.compute.row_worker import RowWorker
from undertone_client.compute.sum_worker import SumWorker

SLOTS, CAPTION = 8, "a <private>"
METHOD = DPAggTI(DPAggTIOptions(steps=3, learning_rate=0.05))
SUMMING = DPLDM(DPLDMOptions(draws=2, learning_rate=0.1, min_time=0.2, optimiser="sgd", momentum=0.0, directions=0))


@pytest.fixture(scope="module", params=["random", "embedded"])
def pinned(request: pytest.FixtureRequest, tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base)) if request.param == "random" else pin("embedded:tiny")


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


def unit(base: LoadedBase, number: int) -> UnitRecords:
    """A unit whose records and randomness follow from its number."""
    rng = np.random.Generator(np.random.Philox(key=number))
    images = rng.standard_normal((1 + number % 3, *base.latent_shape), dtype=np.float32)
    return UnitRecords(images, (CAPTION,) * len(images), rng)


def rows(base: LoadedBase, pinned: PinnedBase, numbers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Rows of units named by number."""
    batch = padded([unit(base, number) for number in numbers], SLOTS)
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


# --- on processors with many threads, where a place in the batch can decide how a sum is split --------------


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("summed", [False, True])
def test_a_node_makes_equal_rows_whoever_is_missing(
    base: LoadedBase, pinned: PinnedBase, threads: int, summed: bool
) -> None:
    """Units in a batch where this machine keeps them apart, else one at a time: one less moves no other row."""
    notes, units = list[str](), [unit(base, number) for number in range(11)]
    if summed:
        own = load_base(pinned)  # without the other method's word
        everyone, fewer, first = (_sum(own, some, threads) for some in (units, units[1:], units[:1]))
        assert first.any()
        np.testing.assert_array_equal(everyone - fewer, first)
        return
    state = METHOD.initial_state(pinned)
    worker = RowWorker("cpu", "float32", base, notes.append, make=lambda base, *rest: METHOD.rows(base, state, *rest))
    worker.caption = CAPTION
    worker.settle(f"{threads} threads", "auto", SLOTS)
    for one, same in zip(worker.rows(units)[1:], worker.rows(units[1:]), strict=True):
        assert one is not None
        assert same is not None
        assert one.any()
        np.testing.assert_array_equal(one, same)


def test_without_the_studys_word_nothing_is_measured(base: LoadedBase, pinned: PinnedBase) -> None:
    """Rows of words are zero then, whatever the device does; so the node gives random units the caption."""
    state = METHOD.initial_state(pinned)
    worker = RowWorker("cpu", "float32", base, print, 2, make=lambda base, *rest: METHOD.rows(base, state, *rest))
    assert not worker.keeps_apart()
    worker.caption = CAPTION
    assert worker.keeps_apart() or torch.get_num_threads() > 2


def test_a_node_measures_with_the_studys_word(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    monkeypatch.setattr(RowWorker, "keeps_apart", lambda worker: not captions.append(worker.caption))
    world = make_world({"north": 8, "east": 4}, micro_batch=4)
    assert world.ask("prepare").error == ""
    assert captions == ["a <dummy>"]


def _sum(base: LoadedBase, units: Sequence[UnitRecords], threads: int) -> NDArray[np.int64]:
    state = SUMMING.initial_state(base.pinned)[: SUMMING.dimension(base.pinned)]
    worker = SumWorker(
        "cpu",
        "float32",
        base,
        lambda _text: None,
        make=lambda base, batch: SUMMING.clipped_sum(base, state, batch, scale=1 << 20, clip_units=1 << 20),
    )
    worker.settle(f"{threads} threads", "auto", SLOTS)
    found = worker.sum(units, lambda _lost: None)
    assert found is not None
    return found


def test_a_node_makes_equal_latents_whoever_is_missing(
    base: LoadedBase, pinned: PinnedBase, threads: int, tmp_path: Path
) -> None:
    """Also those of other shards: rows of shards stand by themselves, images in the encoder's batches do not."""
    write_folder(tmp_path / "images", 40)
    table = with_digests(read_records(tmp_path / "images", "record", None, "a picture"), lambda _count: None)
    found = []
    for first in (0, 1):
        some = replace(table, records=table.records[first:])
        (cache := tmp_path / f"cache-{first}").mkdir()
        there = np.ones(len(some.records), dtype=np.bool_)
        latents = cached_latents(cache, some, there, there, pinned, base, lambda _text: None, lambda _count: None)
        found.append(latents.of([*range(1 - first, len(some.records))]))
    np.testing.assert_array_equal(*found)


def test_dummies_leave_no_room_for_a_unit_and_full_batches_get_none(base: LoadedBase, pinned: PinnedBase) -> None:
    assert len(rows(base, pinned, range(8))) == 8
    latents = np.ones((2, *base.latent_shape), dtype=np.float32)
    unit = UnitRecords(latents, ("a", "b"), np.random.Generator(np.random.Philox(key=1)))
    assert padded([unit], 1) == [unit]
    assert all(not dummy.latents.any() for dummy in padded([unit], 4)[1:])
