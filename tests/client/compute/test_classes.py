"""Records of a study with classes at a node: each brings its own, and an unlisted one drops out (PRIVACY 17, 23)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import world as worlds
from tests.support.dummy import DIMENSION, DummyMethod
from tests.support.images import write_csv, write_folder
from tests.support.world import World, oracle_row
from undertone.errors import DataError
from undertone.methods.protocol import UnitRecords
from undertone_client.registration.remarks import unlisted_classes
from undertone_client.registration.stored import registration_of
from undertone_client.rehearsal.drawn import draw_records
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]
CLASSES = ["mass", "clear"]
OF_CLASSES = {"class_column": "finding", "classes": CLASSES}


def mixed(*findings: str) -> Callable[..., list[dict[str, str]]]:
    """`write_folder`, but each image's finding is the next of these; a patient has two images."""

    def write(folder: Path, count: int, *_: Any, **options: Any) -> list[dict[str, str]]:
        rows = write_folder(folder, count, **options)
        rows = [row | {"finding": findings[index % len(findings)]} for index, row in enumerate(rows)]
        write_csv(folder / "metadata.csv", rows)
        return rows

    return write


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, NDArray[np.int64] | None]:
    """First draw of a unit's own randomness -> its classes, as the method got them."""
    found: dict[int, NDArray[np.int64] | None] = {}
    row = DummyMethod.row

    def watched(state: NDArray[np.float32], unit: UnitRecords) -> NDArray[np.float32]:
        made = row(state, unit)
        found[made[-1].tobytes().hex()] = unit.classes  # type: ignore[index]
        return made

    monkeypatch.setattr(DummyMethod, "row", staticmethod(watched))
    return found


def test_each_record_brings_its_place_in_the_plans_list(
    make_world: Make, seen: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's order, whatever order data come in; spaces around a class are nobody's."""
    monkeypatch.setattr(worlds, "write_folder", mixed("mass", " clear "))
    world = make_world(data=OF_CLASSES)
    world.ask("prepare")
    for row in world.rows().values():
        assert row[-2] == 2
        np.testing.assert_array_equal(seen[row[-1].tobytes().hex()], [0, 1])


def test_without_classes_a_unit_has_none(make_world: Make, seen: dict[Any, Any]) -> None:
    world = make_world()
    world.ask("prepare")
    assert {str(seen[row[-1].tobytes().hex()]) for row in world.rows().values()} == {"None"}


def test_a_record_of_an_unlisted_class_drops_out_and_the_unit_goes_on(
    make_world: Make, seen: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "write_folder", mixed("clear", "Mass"))
    world = make_world(data=OF_CLASSES)
    world.ask("prepare")
    for row in world.rows().values():
        assert row[-2] == 1  # one image where there are two
        np.testing.assert_array_equal(seen[row[-1].tobytes().hex()], [1])


def test_a_unit_left_with_none_is_a_zero_row_and_shows_nowhere_else(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "write_folder", mixed("clear", "mass", "drawn", "", "mass", "mass"))
    world = make_world({"north": 6, "east": 6}, data=OF_CLASSES)
    found = [world.ask("prepare"), world.ask("plain_input")]
    rows = world.rows()
    assert len(rows) == 3
    assert not rows["patient-1"].any()
    for unit in ("patient-0", "patient-2"):
        np.testing.assert_array_equal(rows[unit], oracle_row(world, "north", unit))
    assert "zero row: patient-1 has no readable record of a listed class" in world.log()
    assert [(reply.error, reply.message, reply.blamed) for reply in found] == [("", "", "")] * 2
    assert found[1].words is not None
    assert found[1].words.shape == (DIMENSION,)


def test_a_class_is_what_was_approved_whatever_the_table_says_later(
    make_world: Make, seen: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "write_folder", mixed("clear"))
    world = make_world(data=OF_CLASSES)
    rows = [row | {"finding": "mass"} for row in world.records["north"]]
    write_csv(world.folder / "data" / "north" / "metadata.csv", rows)
    world.ask("prepare")
    assert {str(seen[row[-1].tobytes().hex()]) for row in world.rows().values()} == {"[1 1]"}


def test_the_class_column_is_registered_and_nothing_else_beside_the_captions(make_world: Make) -> None:
    world = make_world(data=OF_CLASSES | {"caption": "a {token}"})
    found = registration_of(SiteDir(world.sites["north"]), world.plan)
    assert found is not None
    assert found.class_column == "finding"
    assert {tuple(record.columns) for record in found.table.records} == {("finding",)}


def test_data_without_a_listed_class_are_refused_before_approval(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "write_folder", mixed("Clear", "Mass"))
    with pytest.raises(DataError, match=r'no record is of a class that data.classes lists \(mass, clear\).*"Clear"'):
        make_world(data=OF_CLASSES)


def test_data_without_the_class_column_are_refused_before_approval(make_world: Make) -> None:
    with pytest.raises(DataError, match=r'data\.class_column: metadata.csv has no column "findings"; the closest is'):
        make_world(data=OF_CLASSES | {"class_column": "findings"})


def test_what_drops_out_is_said_to_the_operator_alone(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "write_folder", mixed("clear", "masss", "mass", ""))
    world = make_world(data=OF_CLASSES)
    site = SiteDir(world.sites["north"])
    found = registration_of(site, world.plan)
    assert found is not None
    lines = list(unlisted_classes(found.table, world.plan.data))
    assert lines == [
        '2 of 6 records have no part: finding says "masss"; did it mean mass?',
        "1 of 6 records have no part: finding says nothing",
    ]


def test_a_rehearsal_draws_records_of_each_class(make_world: Make, tmp_path: Path) -> None:
    plan = make_world(data=OF_CLASSES).plan
    table = draw_records(tmp_path, plan, 4, 8)
    assert [record.columns["finding"] for record in table.records] == ["mass", "clear", "mass", "clear"]
    assert all(plan.data.takes(record.columns) for record in table.records)
