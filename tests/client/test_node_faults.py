"""What a record or a machine does at a site stays at the site (PRIVACY 17)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, DummyMethod
from tests.support.world import World, oracle_row
from undertone.wire.messages import Reply

Make = Callable[..., World]


@pytest.mark.parametrize("damage", ["truncated", "text", "missing", "folder"])
def test_an_image_lost_after_approval_is_a_zero_row_and_shows_nowhere_else(make_world: Make, damage: str) -> None:
    world = make_world()
    lost = [row["file_name"] for row in world.records["north"] if row["patient_id"] == "patient-0"]
    for name in lost:
        path = world.folder / "data" / "north" / name
        data = path.read_bytes()
        path.unlink()
        if damage == "truncated":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "text":
            path.write_text("no image", encoding="utf-8")
        elif damage == "folder":
            path.mkdir()
    good = world.ask("prepare", "east"), world.ask("plain_input", "east")
    bad = world.ask("prepare"), world.ask("plain_input")
    assert not world.rows()["patient-0"].any()
    assert all(row.any() for unit, row in world.rows().items() if unit != "patient-0")
    assert "zero row" in world.log()
    assert lost[0] in world.log()
    for ours, theirs in zip(good, bad, strict=True):
        assert _public(ours) == _public(theirs)
        assert (ours.words is None) == (theirs.words is None)
    assert bad[1].words is not None
    assert bad[1].words.dtype == np.uint32
    assert bad[1].words.shape == (DIMENSION,)


def test_one_lost_image_of_a_patient_leaves_the_others(make_world: Make) -> None:
    world = make_world()
    (world.folder / "data" / "north" / world.records["north"][0]["file_name"]).unlink()
    world.ask("prepare")
    row = world.rows()["patient-0"]
    assert row[-2] == 1  # one image where there were two


def test_a_unit_beyond_memory_is_a_zero_row_and_its_block_is_finished(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world({"north": 12, "east": 4})
    clean = {patient: oracle_row(world, "north", patient) for patient in ("patient-0", "patient-1", "patient-2")}
    rows = DummyMethod.rows

    def fails(self: DummyMethod, base: object, state: Any, units: Any, progress: Any) -> Any:
        found = rows(self, base, state, units, progress)
        if any(np.allclose(row[:12], clean["patient-1"][:12]) for row in found):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return found

    monkeypatch.setattr(DummyMethod, "rows", fails)
    assert world.ask("prepare").error == ""
    kept = world.rows()
    assert len(kept) == 6
    assert not kept["patient-1"].any()
    for patient in ("patient-0", "patient-2"):
        np.testing.assert_array_equal(kept[patient], clean[patient])
    assert world.log().count("patient-1") == 1


def test_a_row_that_is_not_a_number_counts_as_zero_and_is_logged(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    nan = np.full(DIMENSION, np.nan, dtype=np.float32)
    monkeypatch.setattr(DummyMethod, "row", staticmethod(lambda _state, _unit: nan))
    world.ask("prepare")
    words = world.ask("plain_input").words
    assert words is not None
    assert not words.any()
    assert "zero row: patient-0" in world.log()


def secrets_of(world: World) -> list[str]:
    rows = world.records["north"]
    names = {part for row in rows for part in (row["file_name"], row["patient_id"], row["file_name"].split("/")[-1])}
    return [*names, "patient-", "scan-", str(world.folder)]


@pytest.mark.parametrize("fault", ["registration", "crash", "cache", "state", "ledger", "secret", "base"])
def test_no_fault_tells_the_coordinator_a_file_or_a_unit(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    world = make_world()
    site = world.sites["north"]
    (registration,) = (site / "registered").iterdir()
    if fault == "registration":
        registration.write_bytes(registration.read_bytes().replace(b"patient-1", b"patient-2"))
    elif fault == "crash":

        def crash(*_: Any) -> None:
            raise KeyError("patient-1 scan-0002.png")

        monkeypatch.setattr(DummyMethod, "rows", crash)
    elif fault == "cache":
        (site / "cache").rmdir()
        (site / "cache").write_text("a file", encoding="utf-8")
    elif fault == "state":
        (site / "state.sqlite").write_bytes(b"damaged " * 1000)
    elif fault == "ledger":
        (site / "ledger.sqlite").write_bytes(b"damaged " * 1000)
    elif fault == "secret":
        (site / "secret.key").write_bytes(b"short")
    elif fault == "base":
        monkeypatch.setattr("undertone_client.compute.preparing.pin", lambda *_: crash_on_pin())
    reply = world.ask("prepare")
    assert reply.error == "SiteFault"
    assert reply.words is None
    assert not [word for word in secrets_of(world) if word in reply.message]
    assert "failed" in world.log()


def crash_on_pin() -> None:
    raise OSError(5, "read error", "/private/patient-1/scan-0002.png")


def test_every_fault_has_the_same_message(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setattr(DummyMethod, "rows", lambda *_: 1 / 0)
    first = world.ask("prepare")
    (world.sites["north"] / "secret.key").unlink()
    assert world.ask("prepare") == first


def _public(reply: Reply) -> Reply:
    """A reply without the site's name, its vector and its ledger head, a MAC that differs in every SITE_DIR."""
    assert len(reply.ledger_head) == 64
    return replace(reply, words=None, site="", ledger_head="")
