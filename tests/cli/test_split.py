"""Who holds what in a simulation: no unit is cut in two, and the same units are held out every time."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_csv, write_folder, write_images
from tests.support.runs import call
from tests.support.studies import study_with, write_study
from undertone.core.progress import Silent, reporting
from undertone.errors import DataError
from undertone.study.schema import parse_study
from undertone_cli.split import split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", 60, sites=("north", "east", "south"), per_patient=3)
    return tmp_path / "data"


class Told(Silent):
    """A reporter that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    with reporting(found):
        yield found


def shares(data: Path, by: str | None = "site", sites: int | None = None, holdout: float = 0.0, **changes: Any) -> Any:
    study = parse_study(study_with({key.replace("__", "."): value for key, value in changes.items()}))
    return split(study, data, by, sites, holdout)


def test_each_record_is_at_one_site_and_in_one_half(data: Path) -> None:
    for found in (shares(data, holdout=0.3), shares(data, by=None, sites=4, holdout=0.3)):
        halves = [half for share in found.values() for half in (share.training, share.holdout)]
        files = [record.file for half in halves for record in half.records]
        assert len(files) == len(set(files)) == 60
        units = [set(half.units()) for half in halves]
        assert sum(map(len, units)) == len(set.union(*units)) == 20


def test_a_column_decides_the_site(data: Path) -> None:
    for site, share in shares(data).items():
        assert {record.columns["site"] for record in share.training.records} == {site}
        assert not share.holdout.records


def test_equal_parts_hold_as_many_units(data: Path) -> None:
    found = shares(data, by=None, sites=5)
    assert list(found) == [f"site-{number}" for number in range(1, 6)]
    assert {len(share.training.units()) for share in found.values()} == {4}


def test_the_held_out_units_are_the_same_every_time_and_grow_with_the_fraction(data: Path) -> None:
    def held(fraction: float) -> set[str]:
        return {unit for share in shares(data, holdout=fraction).values() for unit in share.holdout.units()}

    assert held(0.3) == held(0.3)
    assert held(0.2) <= held(0.3) <= held(0.6)
    assert 0 < len(held(0.3)) < 20


def test_a_folder_for_each_site_takes_no_split(tmp_path: Path) -> None:
    for number, site in enumerate(("a", "b")):
        write_folder(tmp_path / site, 4, first=10 * number)
    assert set(shares(tmp_path, by=None)) == {"a", "b"}
    with pytest.raises(DataError, match="leave --split-by and --sites out"):
        shares(tmp_path)


def test_one_folder_needs_a_split(data: Path) -> None:
    with pytest.raises(DataError, match="--split-by COLUMN or --sites N"):
        shares(data, by=None)


def two_sites_by_column(folder: Path) -> str:
    """One image of patient-0, who is at north, is at west too."""
    write_folder(folder, 12, sites=("north", "east", "south"))
    path = folder / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("north", "west", 1), encoding="utf-8")
    return "site"


def two_sites_by_folder(folder: Path, spelling: str = "patient-0") -> None:
    for site, first in (("north", 0), ("east", 10)):
        write_folder(folder / site, 4, first=first)
    path = folder / "east" / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("patient-10", spelling), encoding="utf-8")


def two_spellings_at_two_sites(folder: Path) -> None:
    two_sites_by_folder(folder, "Patient-00")


@pytest.mark.parametrize("write", [two_sites_by_column, two_sites_by_folder, two_spellings_at_two_sites])
def test_the_same_id_at_several_sites_is_said_without_its_name(tmp_path: Path, write: Any, told: Told) -> None:
    by = write(tmp_path / "data")
    found = shares(tmp_path / "data", by=by)
    assert sum(bool({"patient-0", "Patient-00"} & set(share.training.units())) for share in found.values()) == 2
    (line,) = told.lines
    assert line.startswith("1 id occurs at more than one site: a patient at a site is the unit")
    assert "patient-0" not in line


def test_a_patient_at_several_sites_is_held_out_at_all_of_them(tmp_path: Path) -> None:
    names = write_images(tmp_path, 60)
    sites = ("north", "east", "south")
    rows = [
        {"file_name": name, "patient_id": f"p-{index // 3}", "finding": "", "site": sites[index % 3]}
        for index, name in enumerate(names)
    ]
    write_csv(tmp_path / "metadata.csv", rows)
    found = shares(tmp_path, holdout=0.3)
    held = [set(share.holdout.units()) for share in found.values()]
    assert held[0] == held[1] == held[2]


@pytest.mark.parametrize("unit", ["record", "site"])
def test_files_and_sites_are_never_at_several_sites(tmp_path: Path, unit: str, told: Told) -> None:
    for site in ("north", "east"):
        write_folder(tmp_path / site, 4)
    shares(tmp_path, by=None, privacy__unit=unit, data__unit_column=None)
    assert not told.lines


@pytest.mark.parametrize("word", ["", " ", "nan", "N/A", "None", "\u200b", "-"])
def test_a_line_without_a_site_is_named(data: Path, word: str) -> None:
    path = data / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("north", word, 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"metadata\.csv, line 2: images/scan-0000\.png names no site"):
        shares(data)


@pytest.mark.parametrize("lacking", [0, 3, 59])
def test_a_jsonl_line_without_the_column_of_sites_is_named(data: Path, lacking: int) -> None:
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    del rows[lacking]["site"]
    (data / "metadata.csv").unlink()
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=rf"metadata\.jsonl, line {lacking + 1}: .* names no site"):
        shares(data)


def test_ids_that_look_alike_are_asked_about_or_taken_as_written(data: Path) -> None:
    path = data / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("patient-0", "Patient-0", 1), encoding="utf-8")
    with pytest.raises(DataError, match="--ids-as-written"):
        shares(data)
    found = split(parse_study(study_with()), data, "site", None, 0.0, ids_as_written=True)
    assert sum(len(share.training.units()) for share in found.values()) == 21


def test_one_record_units_may_share_nothing_and_sites_are_units(data: Path) -> None:
    records = shares(data, privacy__unit="record", data__unit_column=None)
    assert sum(len(share.training.units()) for share in records.values()) == 60
    whole = shares(data, privacy__unit="site", data__unit_column=None)
    assert [len(share.training.units()) for share in whole.values()] == [1, 1, 1]


# --- train, validation, test ----------------------------------------------------------------------

SITES = ("north", "east", "south")


def splits(folder: Path, names: tuple[str, ...], count: int = 12) -> Path:
    for number, name in enumerate(names):
        write_folder(folder / name, count, first=100 * number, sites=SITES)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("train", "validation", "test"),
        ("train", "test"),
        ("training", "val"),
        ("Train", "Valid"),
        ("TRAIN", "dev"),
        ("train", "holdout"),
        ("train", "hold-out"),
        ("train", "eval"),
    ],
)
@pytest.mark.parametrize(("by", "sites"), [("site", None), (None, 3)])
@pytest.mark.parametrize("unit", ["patient", "record"])
def test_splits_are_training_and_hold_out_and_no_sites(
    tmp_path: Path, names: tuple[str, ...], by: str | None, sites: int | None, unit: str, told: Told
) -> None:
    column = "patient_id" if unit == "patient" else None
    found = shares(splits(tmp_path, names), by=by, sites=sites, privacy__unit=unit, data__unit_column=column)
    assert set(found) == (set(SITES) if by else {"site-1", "site-2", "site-3"})
    for share in found.values():
        assert {record.file.split("/")[0] for record in share.training.records} == {names[0]}
        assert {record.file.split("/")[0] for record in share.holdout.records} <= set(names[1:])
        assert all((share.training.root / record.file).is_file() for record in share.training.records)
    assert sum(len(share.training.records) for share in found.values()) == 12
    assert sum(len(share.holdout.records) for share in found.values()) == 12 * (len(names) - 1)
    (line,) = told.lines
    assert f"folders are splits, not sites: {names[0]} is training data" in line


def test_splits_below_one_table_are_splits_too(tmp_path: Path, told: Told) -> None:
    splits(tmp_path, ("train", "test"))
    rows = []
    for name in ("train", "test"):
        with (tmp_path / name / "metadata.csv").open(encoding="utf-8", newline="") as stream:
            rows += [{**row, "file_name": f"{name}/{row['file_name']}"} for row in csv.DictReader(stream)]
        (tmp_path / name / "metadata.csv").unlink()
    write_csv(tmp_path / "metadata.csv", rows)
    found = shares(tmp_path)
    assert sum(len(share.holdout.records) for share in found.values()) == 12
    assert len(told.lines) == 1


def test_splits_within_each_site_are_splits_too(tmp_path: Path, told: Told) -> None:
    for number, site in enumerate(("north", "east")):
        rows = write_folder(tmp_path / site, 8, first=20 * number)
        for name, half in (("train", rows[:4]), ("test", rows[4:])):
            (tmp_path / site / name / "images").mkdir(parents=True)
            for row in half:
                (tmp_path / site / row["file_name"]).rename(tmp_path / site / name / row["file_name"])
                row["file_name"] = f"{name}/{row['file_name']}"
        write_csv(tmp_path / site / "metadata.csv", rows)
    found = shares(tmp_path, by=None)
    assert {site: len(share.holdout.records) for site, share in found.items()} == {"north": 4, "east": 4}
    assert len(told.lines) == 1


def test_training_data_alone_can_be_divided_by_a_fraction(tmp_path: Path, told: Told) -> None:
    found = shares(splits(tmp_path, ("train",), 60), holdout=0.3)
    assert 0 < sum(len(share.holdout.records) for share in found.values()) < 60
    assert told.lines[0].endswith("nothing is held out")


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("train", "hospital-a"), {}, "train stands beside hospital-a"),
        (("hospital-a", "hospital-b", "test"), {"by": None}, "test stands beside hospital-a"),
        (("test", "validation"), {}, "no train"),
        (("train", "test"), {"holdout": 0.3}, "leave --holdout out"),
        (("train", "test"), {"by": None}, "--split-by COLUMN or --sites N"),
    ],
)
def test_splits_that_cannot_be(tmp_path: Path, names: tuple[str, ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        shares(splits(tmp_path, names), **options)


@pytest.mark.parametrize(("by", "sites"), [("site", None), (None, 3)])
def test_a_patient_on_both_sides_is_said_without_the_name(
    tmp_path: Path, by: str | None, sites: int | None, told: Told
) -> None:
    path = splits(tmp_path, ("train", "test")) / "test" / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("patient-100", "patient-0"), encoding="utf-8")
    shares(tmp_path, by=by, sites=sites)
    assert told.lines[1].startswith("1 patient has images both to train on and held out")
    assert not [line for line in told.lines if "patient-0" in line]


def test_a_folder_without_metadata_beside_sites_is_not_passed_over(tmp_path: Path) -> None:
    for site in ("north", "east"):
        write_folder(tmp_path / site, 4)
    (tmp_path / "notes").mkdir()
    write_images(tmp_path / ".thumbnails", 1)
    assert set(shares(tmp_path, by=None)) == {"north", "east"}
    write_images(tmp_path / "south", 4)
    with pytest.raises(DataError, match=r"south holds images and no metadata\.csv, unlike east"):
        shares(tmp_path, by=None)


@pytest.mark.parametrize("name", ["#recycle", "@eaDir", "$RECYCLE.BIN", "lost+found", ".thumbnails", "__MACOSX"])
def test_folders_of_a_file_server_beside_sites_are_no_sites(tmp_path: Path, name: str, told: Told) -> None:
    """With images alone, and with a copy of a site's metadata."""
    for site in ("north", "east"):
        write_folder(tmp_path / site, 4)
    write_images(tmp_path / name, 2)
    assert set(shares(tmp_path, by=None)) == {"north", "east"}
    write_folder(tmp_path / name, 2)
    assert set(shares(tmp_path, by=None)) == {"north", "east"}
    assert not any("left out" in line for line in told.lines)


def test_a_site_may_be_called_what_no_system_calls_a_folder(tmp_path: Path) -> None:
    for site in ("__ward", "east"):
        write_folder(tmp_path / site, 4)
    assert set(shares(tmp_path, by=None)) == {"__ward", "east"}


@pytest.mark.parametrize(("folders", "by"), [(("north", "east"), None), (("train", "test"), "site")])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_beside_the_folders_are_counted_and_said(
    tmp_path: Path, folders: tuple[str, ...], by: str | None, count: int, told: Told
) -> None:
    for folder in folders:
        write_folder(tmp_path / folder, 12, sites=SITES)
    names = write_images(tmp_path, count)
    (tmp_path / "._scan.png").touch()
    (tmp_path / "notes.txt").touch()
    for path in map(Path, names):  # beside the folders, not in one of their own
        (tmp_path / path).rename(tmp_path / path.name.replace("scan", "Scan").replace(".png", ".PNG"))
    shares(tmp_path, by=by)
    said = [line for line in told.lines if " beside the folders " in line]
    assert len(said) == (count > 0)
    if count:
        assert said[0].startswith("1 image lies in" if count == 1 else "3 images lie in")
        assert said[0].endswith("left out; the first is Scan-0000.PNG")


def test_a_run_from_splits_registers_the_training_data_and_keeps_the_hold_out(
    tmp_path: Path, dummy_base: Path, dummy_method: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del dummy_method
    monkeypatch.setattr("undertone_cli.commands.simulate.run_on", lambda *_: None)
    monkeypatch.setattr("undertone_cli.diagnostics.diagnose", lambda *_: None)
    data = splits(tmp_path / "data", ("train", "test"))
    study = write_study(tmp_path / "study.toml", study_with(base=str(dummy_base)))
    result = call("simulate", study, "--data", data, "--split-by", "site", "--out", tmp_path / "RUN")
    assert result.exit_code == 0, result.output
    assert "folders are splits, not sites" in " ".join(result.stderr.split())
    for half, name in (("sites", "train"), ("holdout", "test")):
        for site in SITES:
            with (tmp_path / "RUN" / half / site / "metadata.csv").open(encoding="utf-8", newline="") as stream:
                assert {row["file_name"].split("/")[0] for row in csv.DictReader(stream)} == {name}
    (registered,) = (tmp_path / "RUN" / "sites" / "north" / "registered").iterdir()
    assert b"train/images/" in registered.read_bytes()
