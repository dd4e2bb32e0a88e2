"""`undertone node check` names every bad record, with file and line, and a clean site has none."""

import json
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.runs import call
from tests.support.studies import study_with, write_study
from tests.support.world import World, data_of, describe_data, without_data
from undertone_client.registration.checking import check_site
from undertone_client.registration.registered import register
from undertone_client.site.enrol import update_data_set
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]


@pytest.fixture
def world(make_world: Make) -> World:
    found = make_world({"north": 12, "east": 4})
    assert isinstance(found, World)
    return found


def data(world: World) -> Path:
    return world.folder / "data" / "north"


def details(printed: str, check: str) -> list[str]:
    """What --details says of one check, a line each."""
    lines = printed.splitlines()
    start = next(index for index, line in enumerate(lines) if line.split(": ")[0].endswith(f" {check}"))
    found = takewhile(lambda line: line.startswith("     "), lines[start + 1 :])
    return [line.strip() for line in found if not line.startswith("     remedy: ")]


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
    result = call("node", "check", world.sites["north"], "--details")
    assert result.exit_code == 0, result.output
    assert "north: 12 records of 6 units, 1 approved plans" in result.stdout
    assert "checking images of data (12)" in result.stderr


def test_every_bad_record_is_named_with_file_and_line(world: World) -> None:
    spoil(world)
    result = call("node", "check", world.sites["north"], "--details")
    assert result.exit_code == 2
    named = details(result.stdout, "data")
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
    assert len(named) == len(expected) + 2  # the warning and the sum
    assert named[0].startswith("WARN 1 image below")  # the line that lists it cannot be read
    assert "images/scan-0001.png" in named[0]
    assert "FAIL data: " in result.stdout


def test_a_study_adds_its_columns(world: World, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.toml", study_with({"data.caption": "a {token}, {age}"}))
    result = call("node", "check", world.sites["north"], "--study", study, "--details")
    assert result.exit_code == 2
    assert 'has no column "age"' in result.stdout


def test_without_plan_or_study_what_the_data_set_needs_is_checked(world: World) -> None:
    (registration,) = (world.sites["north"] / "registered").iterdir()
    registration.unlink()
    assert not check_site(SiteDir(world.sites["north"])).problems
    spoil(world)
    problems = check_site(SiteDir(world.sites["north"])).problems
    assert len(problems) == 5  # the data set itself says which column names a patient
    metadata = data(world) / "metadata.csv"
    metadata.unlink()
    rows = [json.dumps(row) for row in world.records["north"]]
    metadata.with_suffix(".jsonl").write_text("\n".join([*rows[:9], "{", *rows[10:]]), encoding="utf-8")
    named = [str(problem) for problem in check_site(SiteDir(world.sites["north"])).problems]
    assert [line.split("line ")[1].split(":")[0] for line in named] == ["10", "8"]


def overwrite(world: World, number: int, image: np.ndarray) -> None:
    Image.fromarray(image).save(data(world) / "images" / f"scan-{number:04d}.png")


def gradient(low: float, high: float, dtype: type = np.uint8) -> np.ndarray:
    return np.linspace(low, high, 32 * 32).astype(dtype).reshape(32, 32)


ALMOST_FLAT = {
    "black": gradient(0, 0),
    "white": gradient(255, 255),
    "grey": gradient(128, 128),
    "a mask of two labels": gradient(0, 1.99),
    "a mask of ten labels": gradient(0, 9.99),
    "four bits in eight": gradient(0, 14.99),
    "a bright haze": gradient(240, 254),
    "colours that differ from each other only": np.tile(np.uint8([200, 10, 90]), (32, 32, 1)),
    "transparent all over": np.tile(np.uint8([200, 10, 90, 0]), (32, 32, 1)),
    "a key of little": np.stack([gradient(0, 8), gradient(100, 109), gradient(7, 7)], axis=-1),
    "4 of 8 bits within 16": gradient(0, 14, np.uint16),
    "a haze of 16 bits": gradient(32768, 35000, np.uint16),
    "a haze of 12 bits": gradient(2048, 2200, np.uint16),
}


@pytest.mark.parametrize("kind", ALMOST_FLAT)
def test_an_image_with_almost_no_range_is_a_warning_and_no_problem(world: World, kind: str) -> None:
    overwrite(world, 3, ALMOST_FLAT[kind])
    register_anew(world)
    result = call("node", "check", world.sites["north"], "--details")
    assert result.exit_code == 0, result.output
    assert "WARN data: " in result.stdout
    (warning,) = [line for line in details(result.stdout, "data") if line.startswith("WARN ")]
    assert "metadata.csv, line 5: images/scan-0003.png has almost no range" in warning
    assert "12 records of 6 units" in result.stdout


def register_anew(world: World) -> None:
    site = SiteDir(world.sites["north"])
    (site.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    update_data_set(site, "data")
    register(site, world.plan, data_of(site))


@pytest.mark.parametrize(
    "image",
    [
        gradient(0, 40),
        gradient(200, 255),
        gradient(0, 4095, np.uint16),
        gradient(0, 200, np.uint16),
        np.stack([gradient(9, 9), gradient(0, 99), gradient(9, 9)], axis=-1),
        (gradient(0, 255) // 128) * np.uint8(255),
    ],
)
def test_an_image_with_some_range_is_none(world: World, image: np.ndarray) -> None:
    overwrite(world, 3, image)
    assert check_site(SiteDir(world.sites["north"])).remarks == []


def test_of_many_almost_flat_images_the_first_are_named(make_world: Make) -> None:
    world = make_world({"north": 60, "east": 4})
    for number in range(60):
        overwrite(world, number, ALMOST_FLAT["black"])
    remarks = check_site(SiteDir(world.sites["north"])).remarks
    assert len(remarks) == 21
    assert "40 more images" in remarks[-1]


def test_hidden_files_of_a_folder_without_metadata_are_counted(world: World) -> None:
    (registration,) = (world.sites["north"] / "registered").iterdir()
    registration.unlink()
    (data(world) / "metadata.csv").unlink()
    describe_data(without_data(SiteDir(world.sites["north"])), data(world), world.plan, unit="record", unit_column=None)
    (data(world) / "__MACOSX").mkdir()
    for name in ("._scan-0000.png", "__MACOSX/scan-0000.png", "images/.DS_Store"):
        (data(world) / name).write_bytes(b"\0\5\x16\7")
    result = call("node", "check", world.sites["north"], "--details")
    assert result.exit_code == 0, result.output
    assert f"WARN {data(world)}: 3 hidden or system files skipped" in result.stdout
    assert "north: 12 records" in result.stdout


@pytest.mark.parametrize("wrong", ["folder", "metadata", "site"])
def test_what_cannot_be_checked_at_all(world: World, wrong: str) -> None:
    if wrong == "folder":
        data(world).rename(data(world).with_name("away"))
    elif wrong == "metadata":
        (data(world) / "metadata.csv").write_bytes(b"")
    else:
        (world.sites["north"] / "node.toml").unlink()
    result = call("node", "check", world.sites["north"], "--details")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not isinstance(result.exception, UnicodeError | ValueError | KeyError)


def test_checking_writes_nothing(world: World) -> None:
    spoil(world)
    before = {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    call("node", "check", world.sites["north"], "--details")
    assert {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()} == before
