"""`undertone node check` names every bad record, with file and line, and a clean site has none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.runs import call
from tests.support.studies import study_with, write_study
from tests.support.world import World
from undertone_client.checking import check_site
from undertone_client.site import SiteDir

Make = Callable[..., World]


@pytest.fixture
def world(make_world: Make) -> World:
    found = make_world({"north": 12, "east": 4})
    assert isinstance(found, World)
    return found


def data(world: World) -> Path:
    return world.folder / "data" / "north"


def spoil(world: World) -> None:
    """Three bad lines, a bad image, a missing one."""
    path = data(world) / "metadata.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].rsplit(",", 1)[0]
    lines[4] = lines[4].replace("patient-1", " ")
    lines.append(lines[1])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (data(world) / "images" / "scan-0007.png").write_bytes(b"no image")
    (data(world) / "images" / "scan-0009.png").unlink()


def test_a_clean_site(world: World) -> None:
    result = call("node", "check", world.sites["north"])
    assert result.exit_code == 0, result.output
    assert "north: 12 records of 6 units, 1 approved plans" in result.stdout
    assert "checking images (12)" in result.stderr


def test_every_bad_record_is_named_with_file_and_line(world: World) -> None:
    spoil(world)
    result = call("node", "check", world.sites["north"])
    assert result.exit_code == 2
    named = result.stdout.splitlines()
    expected = [
        ["metadata.csv, line 3: not the number of columns"],
        ["metadata.csv, line 5: no patient_id for images/scan-0003.png"],
        ["metadata.csv, line 14: images/scan-0000.png stands in line 2 already"],
        ["metadata.csv, line 11: there is no file", "scan-0009.png"],
        ["metadata.csv, line 9: ", "scan-0007.png cannot be read as an image"],
        ["line 3: images/scan-0001.png of plan", "a zero row"],
        ["line 5: images/scan-0003.png of plan", "a zero row"],
    ]
    for words in expected:
        assert any(all(word in line for word in words) for line in named), (words, named)
    assert len(named) == len(expected) + 2
    assert named[-2].startswith("north: 1 image below")  # the line that lists it cannot be read
    assert "images/scan-0001.png" in named[-2]
    assert result.stderr.splitlines()[-1].startswith("DataError: 7 problems at north")


def test_a_study_adds_its_columns(world: World, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.toml", study_with({"data.caption": "a {token}, {age}"}))
    result = call("node", "check", world.sites["north"], "--study", study)
    assert result.exit_code == 2
    assert 'has no column "age"' in result.stdout


def test_without_plan_or_study_files_and_images_are_checked(world: World) -> None:
    (registration,) = (world.sites["north"] / "registered").iterdir()
    registration.unlink()
    assert not check_site(SiteDir(world.sites["north"])).problems
    spoil(world)
    problems = check_site(SiteDir(world.sites["north"])).problems
    assert len(problems) == 4  # a patient without an id is no problem of files
    metadata = data(world) / "metadata.csv"
    metadata.unlink()
    rows = [json.dumps(row) for row in world.records["north"]]
    metadata.with_suffix(".jsonl").write_text("\n".join([*rows[:9], "{", *rows[10:]]), encoding="utf-8")
    named = [str(problem) for problem in check_site(SiteDir(world.sites["north"])).problems]
    assert [line.split("line ")[1].split(":")[0] for line in named] == ["10", "8"]


@pytest.mark.parametrize("wrong", ["folder", "metadata", "site"])
def test_what_cannot_be_checked_at_all(world: World, wrong: str) -> None:
    if wrong == "folder":
        data(world).rename(data(world).with_name("away"))
    elif wrong == "metadata":
        (data(world) / "metadata.csv").write_bytes(b"")
    else:
        (world.sites["north"] / "node.toml").unlink()
    result = call("node", "check", world.sites["north"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not isinstance(result.exception, UnicodeError | ValueError | KeyError)


def test_checking_writes_nothing(world: World) -> None:
    spoil(world)
    before = {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    call("node", "check", world.sites["north"])
    assert {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()} == before
