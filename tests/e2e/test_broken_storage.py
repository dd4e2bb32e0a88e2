"""Full disks, missing rights, locked and damaged files: one named error or a result, and nothing lost afterwards."""

import errno
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_crashes import assert_as_worked_out
from tests.support.crashes import BAD_INPUT, DONE, KILLED, REFUSED, Story
from tests.support.oracle import opened
from undertone import errors

Begin = Callable[..., Story]
NAMED = {name for name, value in vars(errors).items() if isinstance(value, type)}


def assert_named(story: Story) -> None:
    """Every refusal of the coordinator and every failure in a node's log carries a name of the error tree."""
    for line in story.witnessed("refused"):
        assert line["error"] in NAMED
    for log in (story.world / "sites").glob("*/node.log"):
        failures = [
            text.split("failed: ")[1].split(":")[0]
            for text in log.read_text("utf-8").splitlines()
            if " failed: " in text
        ]
        assert set(failures) <= NAMED, failures


def assert_goes_on(story: Story) -> None:
    """After the repair: done, each round's opened sum charged, and what was opened is what the oracle makes of it."""
    assert story.finish() == DONE
    sums = {(round_, attempt) for round_, (attempt, _) in opened(story.world).items()}
    assert set(story.auditor.charges()) == sums
    assert_as_worked_out(story)


# --- the operating system says no -----------------------------------------------------------------


def failing_from(begin: Begin, count: int, **fault: Any) -> Story:
    """A study whose storage fails from its `count`-th use on, before the repair."""
    story = begin("rounds")
    assert story.process(count=count, **fault) in (DONE, BAD_INPUT, REFUSED)
    assert_named(story)
    return story


@pytest.mark.parametrize("count", [1, 8, 20, 45, 70])
def test_a_disk_that_fills_up_ends_in_a_named_error(begin: Begin, count: int) -> None:
    story = failing_from(begin, count, fault="run")
    assert story.ends == [BAD_INPUT]
    assert "No space left" in story.witnessed("refused")[0]["message"]
    assert_goes_on(story)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_ends_in_a_named_error(begin: Begin, code: int) -> None:
    story = failing_from(begin, 1, fault="run", error=code)
    assert story.ends == [BAD_INPUT]
    story.process(count=1, fault="sites", error=code)
    assert story.ends[1:] == [REFUSED]  # too few sites, and why
    assert_named(story)
    assert_goes_on(story)


@pytest.mark.parametrize("count", [1, 20])
def test_a_disk_that_cannot_be_read_ends_in_a_named_error(begin: Begin, count: int) -> None:
    story = failing_from(begin, count, fault="run", reading=True, error=errno.EIO)
    assert story.ends == [BAD_INPUT]
    assert_goes_on(story)


@pytest.mark.parametrize("where", ["run", "sites"])
@pytest.mark.parametrize("limit", [0, 200, 20_000])
def test_files_that_may_not_grow_end_in_a_named_error(begin: Begin, where: str, limit: int) -> None:
    """The kernel refuses each byte beyond the limit, SQLite's too."""
    story = begin("rounds")
    if where == "run":  # the nodes are done with theirs
        assert story.process(failpoint="rounds/answered") == KILLED
    assert story.process(file_limit=limit) in (DONE, BAD_INPUT, REFUSED)
    assert_named(story)
    assert_goes_on(story)


@pytest.mark.slow
@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("fault", ["run", "sites/east"])
def test_every_use_of_a_disk_may_fail(begin: Begin, fault: str, reading: bool) -> None:
    for count in range(1, 1000):
        story = failing_from(begin, count, fault=fault, reading=reading)
        unharmed = story.ends == [DONE] and all("east" in sites for _, sites in opened(story.world).values())
        assert_goes_on(story)
        shutil.rmtree(story.world)
        if unharmed:
            break
    print(f"{fault}: failed {count - 1} times")
    assert 2 < count < 999


# --- another process holds a database --------------------------------------------------------------


@contextmanager
def held(database: Path) -> Iterator[None]:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def test_a_ledger_that_is_held_charges_nothing(begin: Begin) -> None:
    story = begin("rounds")
    assert story.process(failpoint="gate/before charge", count=2) == KILLED
    with held(story.world / "run" / "ledger.sqlite"):
        assert story.unaudited() == REFUSED
    assert story.witnessed("refused")[0]["error"] == "LedgerUnavailable"
    assert story.auditor.charges() == [(1, 1)]
    assert_goes_on(story)


@pytest.mark.parametrize("name", ["ledger.sqlite", "state.sqlite"])
def test_a_node_whose_database_is_held_is_left_out(begin: Begin, name: str) -> None:
    story = begin("rounds")
    assert story.process(failpoint="preparing/rows durable", count=3) == KILLED
    with held(story.world / "sites" / "east" / name):
        assert story.unaudited() == DONE
    assert {sites for _, sites in opened(story.world).values()} == {("north", "south")}
    assert "failed: LedgerUnavailable" in (story.world / "sites" / "east" / "node.log").read_text(encoding="utf-8")
    assert_named(story)
    assert_goes_on(story)


# --- damaged and missing files ---------------------------------------------------------------------

STAGES = {
    "rows": ("preparing/rows durable", 4),
    "Q": ("run/Q durable", 2),
    "receipt": ("gate/receipt durable", 2),
    "V": ("run/V durable", 2),
    "state": ("rounds/state durable", 2),
    "release": ("release/weights durable", 1),
}


@pytest.fixture(scope="module")
def stages(begin: Begin) -> dict[str, Story]:
    """A study killed at each of the stages."""
    found = {}
    for stage, (name, count) in STAGES.items():
        found[stage] = begin("rounds")
        assert found[stage].process(failpoint=name, count=count) == KILLED
    return found


def flipped(data: bytes, where: int, bit: int) -> bytes:
    place = where % len(data)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, int, int], bytes | None]] = {
    "a bit": flipped,
    "a page": lambda data, where, _: (
        data[: where % len(data)] + bytes(min(512, len(data) - where % len(data))) + data[where % len(data) + 512 :]
    ),
    "cut": lambda data, where, _: data[: where % len(data)],
    "longer": lambda data, where, bit: data + bytes([bit]) * (1 + where % 100),
    "text": lambda data, where, bit: b"damaged " * (1 + where % 1000),
    "gone": lambda data, where, bit: None,
}


def damaged_story(stage: Story, world: Path, file: Path, damage: str, where: int, bit: int) -> Story:
    """The study goes on with a damaged file, then with the repaired one."""
    story = stage.copy(world)
    path = world / file
    good = path.read_bytes()
    bad = DAMAGES[damage](good, where, bit)
    path.unlink() if bad is None else path.write_bytes(bad)
    end = story.unaudited()
    assert end in (DONE, BAD_INPUT, REFUSED), (story.ends, story.witnessed("traceback"))
    assert_named(story)
    now = path.read_bytes() if path.exists() else None
    if now == bad:  # a file that the program has taken up and gone on with is not put back to an older one
        path.write_bytes(good)
    assert story.finish() == DONE
    sums = {(round_, attempt) for round_, (attempt, _) in opened(world).items()}
    assert set(story.auditor.charges()) == sums
    if file.parts[0] == "run":
        assert_as_worked_out(story)
    shutil.rmtree(world)
    return story


def damageable(stage: Story, damage: str) -> list[Path]:
    """Files whose damage leads to a repair, not to another course: without Q or V an attempt is void by rule."""
    files = [path for path in sorted(stage.world.rglob("*")) if path.is_file()]
    names = [path.relative_to(stage.world) for path in files if path.stat().st_size or damage == "gone"]
    lost = ("sum-", "noised-") if damage == "gone" else ()
    return [name for name in names if name.parts[0] in ("run", "sites") and not name.name.startswith((*lost, "lock"))]


def damage_at_random(stages: dict[str, Story], folder: Path, draws: random.Random) -> None:
    stage, damage = stages[draws.choice(list(STAGES))], draws.choice(list(DAMAGES))
    file = draws.choice(damageable(stage, damage))
    where, bit = draws.randrange(1 << 20), draws.randrange(8)
    note = f"{stage.world.name} {file} {damage} {where} {bit}"
    try:
        damaged_story(stage, folder / f"damaged-{draws.randrange(1 << 60)}", file, damage, where, bit)
    except AssertionError as error:
        raise AssertionError(note) from error


def test_damaged_files_end_in_a_named_error_or_a_result(stages: dict[str, Story], memory_folder: Path) -> None:
    draws = random.Random(1)
    for _ in range(6):
        damage_at_random(stages, memory_folder, draws)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_damaged_files_end_in_a_named_error_or_a_result(
    stages: dict[str, Story], memory_folder: Path, seed: int
) -> None:
    draws = random.Random(seed)
    for _ in range(25):
        damage_at_random(stages, memory_folder, draws)


@pytest.mark.parametrize(
    ("stage", "file", "what"),
    [
        ("Q", "checkpoints/round-000002/sum-001.npy", "damaged.*is then void"),
        ("receipt", "checkpoints/round-000002/sum-001.npy", "damaged.*is then void"),
        ("receipt", "checkpoints/round-000002/salt-001", "another sum.*is then void"),
        ("V", "checkpoints/round-000002/noised-001.npy", "damaged"),
        ("state", "checkpoints/round-000001/noised-001.npy", "damaged"),
        ("state", "checkpoints/round-000002/state.npy", "damaged"),
    ],
)
def test_a_flipped_bit_of_an_array_is_found(
    stages: dict[str, Story], memory_folder: Path, stage: str, file: str, what: str
) -> None:
    story = stages[stage].copy(memory_folder / f"flip-{stage}-{file.replace('/', '-')}")
    path = story.world / "run" / file
    good = path.read_bytes()
    path.write_bytes(flipped(good, len(good) * 3 // 4, 3))
    assert story.unaudited() in (BAD_INPUT, REFUSED)
    assert re.search(what, story.witnessed("refused")[0]["message"])
    path.write_bytes(good)
    assert_goes_on(story)


def test_a_used_value_that_is_gone_is_not_drawn_again(stages: dict[str, Story], memory_folder: Path) -> None:
    story = stages["state"].copy(memory_folder / "gone")
    path = story.world / "run" / "checkpoints" / "round-000002" / "noised-001.npy"
    good = path.read_bytes()
    path.unlink()
    assert story.unaudited() == BAD_INPUT
    assert "0 noised sums" in story.witnessed("refused")[0]["message"]
    path.write_bytes(good)
    assert_goes_on(story)


def test_two_values_for_a_round_are_not_chosen_from(stages: dict[str, Story], memory_folder: Path) -> None:
    story = stages["V"].copy(memory_folder / "two")
    folder = story.world / "run" / "checkpoints" / "round-000001"
    shutil.copyfile(folder / "noised-001.npy", folder / "noised-002.npy")
    (folder / "noised-001 (copy).npy").touch()  # what carries no number is not ours
    assert story.unaudited() == BAD_INPUT
    assert "2 noised sums" in story.witnessed("refused")[0]["message"]
    (folder / "noised-002.npy").unlink()
    (folder / "noised-001 (copy).npy").unlink()
    assert_goes_on(story)


def test_a_node_without_its_state_draws_again_and_without_its_ledger_answers_nothing(begin: Begin) -> None:
    story = begin("rounds", seed=None)
    assert story.process(failpoint="preparing/rows durable", count=3) == KILLED
    (story.world / "sites" / "east" / "state.sqlite").write_bytes(b"damaged " * 2000)
    ledger = story.world / "sites" / "north" / "ledger.sqlite"
    good = ledger.read_bytes()
    ledger.unlink()
    assert story.unaudited() == REFUSED
    log = (story.world / "sites" / "east" / "node.log").read_text(encoding="utf-8")
    assert "failed: FolderError" in log
    assert "move it away" in log
    assert not ledger.exists()
    ledger.write_bytes(good)
    (story.world / "sites" / "east" / "state.sqlite").unlink()
    story.auditor.coins.clear()  # nothing that depended on them has left, so they may fall again
    assert story.finish() == DONE
    assert {sites for _, sites in opened(story.world).values()} == {("east", "north", "south")}
