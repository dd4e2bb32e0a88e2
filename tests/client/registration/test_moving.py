"""A data set's folder moves: approved plans are refused until somebody has looked at the new place (PRIVACY 13, 17)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.failpoints import Killed, at
from tests.support.images import pixels
from tests.support.world import World, data_of
from undertone.errors import DataError
from undertone_client.registration import moving
from undertone_client.registration.checking import check_site
from undertone_client.registration.registered import register
from undertone_client.registration.stored import registration_of
from undertone_client.site.enrol import update_data_set
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]


def north(world: World) -> SiteDir:
    return SiteDir(world.sites["north"])


def data(world: World) -> Path:
    return world.folder / "data" / "north"


def say(world: World, key: str, value: Path | bool) -> None:
    """Change a key of datasets/data.toml, or add it."""
    path = north(world).folder / "datasets" / "data.toml"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{key} = ")]
    written = str(value).lower() if isinstance(value, bool) else f'"{value}"'
    path.write_text("\n".join([*lines, f"{key} = {written}"]) + "\n", encoding="utf-8")


def copied(world: World) -> Path:
    there = data(world).with_name("there")
    shutil.copytree(data(world), there)
    return there


def folder_elsewhere(world: World) -> None:
    say(world, "folder", copied(world))


def metadata_elsewhere(world: World) -> None:
    say(world, "metadata", shutil.copyfile(data(world) / "metadata.csv", world.folder / "other.csv"))


@pytest.mark.parametrize("move", [folder_elsewhere, metadata_elsewhere])
def test_another_place_is_not_read_under_the_old_approval(make_world: Make, move: Callable[[World], None]) -> None:
    world = make_world()
    move(world)
    reply = world.ask("prepare")
    assert reply.error == "SiteFault"
    assert "DataSetMoved" in world.log()
    assert not world.rows()
    assert any("approved with another folder" in str(problem) for problem in check_site(north(world)).problems)
    moving.update(north(world), "data")
    assert check_site(north(world)).problems == []
    assert world.ask("prepare").error == ""
    assert all(row.any() for row in world.rows().values())
    assert "zero row" not in world.log()


def test_an_update_alone_moves_no_plan_and_putting_it_back_goes_on(make_world: Make) -> None:
    world = make_world()
    folder_elsewhere(world)
    update_data_set(north(world), "data")
    assert world.ask("prepare").error == "SiteFault"
    say(world, "folder", data(world))
    assert world.ask("prepare").error == ""


def test_at_the_new_place_other_pictures_are_missing_ones(make_world: Make) -> None:
    world = make_world()
    there = copied(world)
    for number in (2, 3):
        Image.fromarray(pixels(900 + number, 8)).save(there / "images" / f"scan-{number:04d}.png")
    say(world, "folder", there)
    moving.update(north(world), "data")
    assert world.ask("prepare").error == ""
    assert {unit for unit, row in world.rows().items() if not row.any()} == {"patient-1"}


def test_a_new_approval_moves_it_too(make_world: Make) -> None:
    world = make_world()
    before = registration_of(north(world), world.plan)
    folder_elsewhere(world)
    assert before is not None
    assert register(north(world), world.plan, data_of(north(world))).records == before.table.records
    found = registration_of(north(world), world.plan)
    assert found is not None
    assert (found.moved, found.table.root) == (False, data(world).with_name("there"))
    assert world.ask("prepare").error == ""
    shutil.rmtree(data(world).with_name("there"))
    say(world, "folder", data(world).with_name("nowhere"))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        register(north(world), world.plan, data_of(north(world)))


@pytest.mark.parametrize("count", [1, 2])
def test_what_died_while_moving_is_finished_by_the_same_command(make_world: Make, count: int) -> None:
    """First the index is durable, then each plan's records."""
    world = make_world()
    folder_elsewhere(world)
    with at("durable/synced", count) as trace, pytest.raises(Killed):
        moving.update(north(world), "data")
    assert trace.hits["durable/synced"] == count
    assert world.ask("prepare").error == "SiteFault"
    moving.update(north(world), "data")
    assert world.ask("prepare").error == ""


def test_which_ids_are_one_person_is_not_changed_under_an_approval(make_world: Make) -> None:
    """Tombstones are found by it: whoever withdrew would be read again."""
    world = make_world()
    say(world, "ids_as_written", True)
    assert world.ask("prepare").error == "SiteFault"
    assert "UnitChanged" in world.log()
    assert not world.rows()
