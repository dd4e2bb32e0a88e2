"""A site's sum, block by block, is the sum of all its rows clamped once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.failpoints import Killed, at
from tests.support.world import World
from undertone.errors import FolderError, PlanChanged, ProtocolError
from undertone.models.layout import state_sha256
from undertone.privacy.quantise import Grid, clip_and_quantise, site_sum, site_sum_of_integers, sum_of_blocks
from undertone.privacy.stages import Contributions
from undertone_client.round.contribution import site_total
from undertone_client.site.attempt_store import AttemptStore

GRID = Grid(scale=1 << 10, clip_units=4096, site_clamp=6000, modulus_bits=32)  # a clamp that three rows reach
ATTEMPT = ("d" * 64, 1, 1)
STATE = "s" * 64


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 40), st.lists(st.integers(0, 40), max_size=6), st.integers(0, 2**32))
def test_blocks_of_any_size_give_the_sum_of_the_whole(count: int, cuts: list[int], seed: int) -> None:
    rows = np.random.Generator(np.random.Philox(key=seed)).normal(1, 2, (count, 5)).astype(np.float32)
    blocks = [Contributions(block) for block in np.split(rows, sorted(min(cut, count) for cut in cuts))]
    whole = site_sum(Contributions(rows), GRID)
    parts = site_sum_of_integers(sum_of_blocks(blocks, 5, GRID), GRID)
    np.testing.assert_array_equal(parts.values, whole.values)
    assert parts.sensitivity == whole.sensitivity
    slow = sum((clip_and_quantise(row[None], GRID)[0] for row in rows), start=np.zeros(5, dtype=np.int64))
    np.testing.assert_array_equal(parts.values, np.clip(slow, -GRID.site_clamp, GRID.site_clamp))


def test_one_unit_more_moves_the_sum_by_delta_wherever_the_blocks_end() -> None:
    """The clamp is reached and left again: were each block clamped, the other units would move too."""
    rows = np.concatenate([np.full((4, 1), 4.0), np.full((3, 1), -4.0), np.full((1, 1), 4.0)]).astype(np.float32)
    for size in (1, 2, 3, 4, 5):
        sums = [
            site_sum_of_integers(
                sum_of_blocks(
                    [Contributions(kept[start : start + size]) for start in range(0, len(kept), size)], 1, GRID
                ),
                GRID,
            ).values
            for kept in (rows, rows[1:])
        ]
        assert np.linalg.norm(sums[0] - sums[1]) <= GRID.clip_units
        np.testing.assert_array_equal(sums[0], site_sum(Contributions(rows), GRID).values)


@pytest.fixture
def store(tmp_path: Path) -> AttemptStore:
    return AttemptStore(tmp_path / "state.sqlite")


def test_rows_come_some_at_a_time_and_all_of_them(store: AttemptStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertone_client.site.attempt_store._VALUES_AT_ONCE", 40)
    rows = np.arange(130, dtype=np.float32).reshape(26, 5)
    store.keep_rows(ATTEMPT, [(f"u{number}", row) for number, row in enumerate(rows)])
    store.keep_rows((ATTEMPT[0], 2, 1), [("other", np.zeros(5, dtype=np.float32))])
    blocks = list(store.row_blocks(ATTEMPT, 5))
    assert [block.shape for block in blocks] == [(8, 5)] * 3 + [(2, 5)]
    assert sorted(np.concatenate(blocks).tolist()) == rows.tolist()
    assert store.finished(ATTEMPT) == {f"u{number}" for number in range(26)}
    assert len(list(store.row_blocks(ATTEMPT, 5))) == len(list(store.row_blocks(ATTEMPT, 5)))


def test_a_row_of_another_length_is_refused(store: AttemptStore) -> None:
    store.keep_rows(ATTEMPT, [("a", np.zeros(4, dtype=np.float32)), ("b", np.zeros(6, dtype=np.float32))])
    with pytest.raises(FolderError, match=r"state\.sqlite is damaged"):
        list(store.row_blocks(ATTEMPT, 5))


def test_exactly_the_chosen_units_are_summed_and_only_their_sum_is_kept(make_world: Callable[..., World]) -> None:
    world = make_world()
    attempt, state = (world.plan.digest, 1, 1), np.zeros(14, dtype=np.float32)
    digest = state_sha256(state)
    with (
        AttemptStore(world.sites["north"] / "state.sqlite") as store,
        pytest.raises(ProtocolError, match="not prepared"),
    ):
        site_total(world.plan, attempt, digest, store)
    with at("preparing/rows summed"), pytest.raises(Killed):
        world.ask("prepare")
    rows = np.stack(list(world.rows().values()))
    with (
        AttemptStore(world.sites["north"] / "state.sqlite") as store,
        pytest.raises(ProtocolError, match="not prepared"),
    ):
        site_total(world.plan, attempt, digest, store)
    assert world.ask("prepare").error == ""
    with AttemptStore(world.sites["north"] / "state.sqlite") as store:
        found = site_total(world.plan, attempt, digest, store)
        np.testing.assert_array_equal(found.values, site_sum(Contributions(rows), world.plan.grid.as_grid()).values)
        assert found.values.any()
        with pytest.raises(PlanChanged, match="another model state"):
            site_total(world.plan, attempt, state_sha256(state + 1), store)


def test_what_a_clock_can_see_is_as_long_however_many_units_were_drawn(make_world: Callable[..., World]) -> None:
    """After `prepare` no list of units and no row is left to be read or deleted (PRIVACY 26)."""
    world, sizes = make_world({"north": 2, "east": 40}, keep_rows=False), []
    for site in ("north", "east"):
        assert world.ask("prepare", site).error == ""
        with AttemptStore(world.sites[site] / "state.sqlite") as store:
            for table in ("samples", "rows"):
                assert store._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
        (kept,) = (world.sites[site] / "sums").iterdir()
        sizes.append(kept.stat().st_size)
        assert world.ask("plain_input", site).error == ""
        assert list((world.sites[site] / "sums").iterdir()) == []
    assert sizes[0] == sizes[1]


def test_a_sum_that_went_is_made_anew_from_new_coins_and_one_of_no_unit_is_a_sum(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    assert world.ask("prepare").error == ""
    for path in (world.sites["north"] / "sums").iterdir():
        path.unlink()
    assert "not prepared" in world.ask("plain_input").message
    assert world.ask("prepare").error == ""
    assert world.ask("plain_input").error == ""
