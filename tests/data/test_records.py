"""A site's folder: what is wrong is named with file and line, what is right becomes records and units."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.images import write_csv, write_folder, write_images
from undertone.core.captions import fill_caption
from undertone.core.progress import reporting
from undertone.data.records import Record, RecordTable, bad_images, moved, read_records, write_metadata
from undertone.errors import DataError
from undertone_cli.console import Bars

CAPTION = "a {token}, {finding}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", 6)
    return tmp_path / "data"


def read(folder: Path, unit: Any = "patient", caption: str = CAPTION, **options: Any) -> RecordTable:
    return read_records(folder, unit, "patient_id" if unit == "patient" else None, caption, **options)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[list[dict[str, str]]], Any]) -> None:
    """metadata.csv with its rows changed in place."""
    rows = [record_row(record) for record in read(folder).records]
    change(rows)
    write_csv(folder / "metadata.csv", rows)


def record_row(record: Record) -> dict[str, str]:
    return {"file_name": record.file, **record.columns}


# --- records and units ----------------------------------------------------------------------------


def test_patients_are_units_and_hold_all_their_records(folder: Path) -> None:
    table = read(folder)
    assert table.units() == {"patient-0": [0, 1], "patient-1": [2, 3], "patient-2": [4, 5]}
    assert table.records[3].columns == {"patient_id": "patient-1", "finding": "mass"}


def test_each_record_or_the_whole_site_can_be_the_unit(folder: Path) -> None:
    assert list(read(folder, unit="record").units().values()) == [[index] for index in range(6)]
    assert read(folder, unit="site").units() == {"site": list(range(6))}


def test_the_order_of_the_metadata_does_not_matter(folder: Path) -> None:
    before = read(folder)
    rewrite(folder, list.reverse)
    assert read(folder) == before


def test_spaces_around_a_unit_id_make_no_second_unit(folder: Path) -> None:
    before = read(folder).units()
    rewrite(folder, lambda rows: rows[0].update(patient_id=" patient-0 "))
    assert read(folder).units() == before


def test_jsonl_says_the_same_as_csv(folder: Path) -> None:
    before = read(folder)
    lines = [json.dumps(record_row(record)) for record in before.records]
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    assert read(folder) == before


def test_numbers_and_nulls_of_jsonl_are_text(folder: Path) -> None:
    row = {"file_name": "images/scan-0000.png", "patient_id": 7, "finding": None}
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (record,) = read(folder).records
    assert (record.unit, record.columns) == ("7", {"patient_id": "7", "finding": ""})


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder: Path) -> None:
    before, path = read(folder), folder / "metadata.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(folder) == before


def test_commas_quotes_and_lines_within_a_value_survive(folder: Path, tmp_path: Path) -> None:
    odd = 'mass, "large"\nleft'
    rewrite(folder, lambda rows: rows[0].update(finding=odd))
    table = read(folder)
    write_metadata(tmp_path / "copy.csv", table.records)
    assert read(folder, metadata=tmp_path / "copy.csv") == table
    assert table.records[0].columns["finding"] == odd


def test_a_folder_of_images_alone_has_records_of_its_own(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    table = read(tmp_path, unit="record", caption="a {token}")
    assert [record.file for record in table.records] == [f"images/scan-000{index}.png" for index in range(3)]


def test_a_caption_takes_the_columns_and_leaves_the_absent_ones_empty() -> None:
    assert fill_caption(CAPTION, "<x>", {"finding": "mass", "other": "1"}) == "a <x>, mass"
    assert fill_caption(CAPTION, "<x>", {}) == "a <x>"
    assert fill_caption("{token}", "<x>", {"token": "spoof"}) == "<x>"
    assert fill_caption("{token} {finding}", "<x>", {"finding": "{token} {0}"}) == "<x> {token} {0}"


# --- what is wrong --------------------------------------------------------------------------------


def test_an_absent_folder(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "no images" in refusal(tmp_path, unit="record", caption="a {token}")


def test_metadata_without_a_record(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,patient_id,finding\n", encoding="utf-8")
    assert "metadata.csv lists no images" in refusal(folder)


def test_no_such_unit_column_names_the_closest(folder: Path) -> None:
    with pytest.raises(DataError, match=r'data\.unit_column.*no column "patient".*"patient_id"'):
        read_records(folder, "patient", "patient", CAPTION)


def test_no_such_caption_column_names_the_closest(folder: Path) -> None:
    message = refusal(folder, caption="a {token}, {fnding}")
    assert "data.caption" in message
    assert '"fnding"' in message
    assert '"finding"' in message


def test_a_caption_column_without_metadata(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    assert "metadata.csv" in refusal(tmp_path, unit="record")


def test_metadata_without_file_names(folder: Path) -> None:
    rows = [{"name": "images/scan-0000.png", "patient_id": "p", "finding": "f"}]
    write_csv(folder / "metadata.csv", rows)
    assert "no column file_name" in refusal(folder)


@pytest.mark.parametrize("unit_id", ["", "   "])
def test_a_record_without_unit_id_is_named_with_its_line(folder: Path, unit_id: str) -> None:
    rewrite(folder, lambda rows: rows[2].update(patient_id=unit_id))
    message = refusal(folder)
    assert "line 4" in message
    assert "patient_id" in message
    assert "scan-0002.png" in message


def test_a_file_listed_twice(folder: Path) -> None:
    rewrite(folder, lambda rows: rows.append({**rows[1], "patient_id": "patient-9"}))
    message = refusal(folder)
    assert "line 8" in message
    assert "scan-0001.png stands in line 3 already" in message


@pytest.mark.parametrize("spelling", ["./images/scan-0001.png", "images//scan-0001.png", "images/./scan-0001.png"])
def test_a_file_listed_twice_under_two_spellings(folder: Path, spelling: str) -> None:
    rewrite(folder, lambda rows: rows.append({**rows[1], "file_name": spelling}))
    assert "stands in line 3 already" in refusal(folder)


@pytest.mark.parametrize("file", ["/etc/hostname", "../data/images/scan-0001.png", "images/../../x.png", ""])
def test_a_path_outside_the_folder(folder: Path, file: str) -> None:
    rewrite(folder, lambda rows: rows[1].update(file_name=file))
    message = refusal(folder)
    assert "line 3" in message
    assert "must be a path within" in message


def scan(folder: Path, number: int) -> Path:
    return folder / "images" / f"scan-{number:04d}.png"


def outside(folder: Path) -> Path:
    """scan-0000 moved out of the folder, which is where its name now links to."""
    away = folder.parent / "away"
    away.mkdir()
    shutil.move(scan(folder, 0), away / "scan-0000.png")
    return away / "scan-0000.png"


def link_out(folder: Path) -> None:
    scan(folder, 0).symlink_to(outside(folder))


def link_out_relative(folder: Path) -> None:
    scan(folder, 0).symlink_to(Path("..", "..", "away", outside(folder).name))


def link_out_by_two(folder: Path) -> None:
    (folder / "second.png").symlink_to(outside(folder))
    scan(folder, 0).symlink_to(folder / "second.png")


def folder_out(folder: Path) -> None:
    shutil.move(folder / "images", folder.parent / "images")
    (folder / "images").symlink_to(folder.parent / "images")


def beside_the_folder(folder: Path) -> None:
    """A neighbour whose name begins with the folder's."""
    away = folder.with_name(folder.name + "-more")
    away.mkdir()
    shutil.move(scan(folder, 0), away / "scan.png")
    scan(folder, 0).symlink_to(away / "scan.png")


@pytest.mark.parametrize("way", [link_out, link_out_relative, link_out_by_two, folder_out, beside_the_folder])
def test_a_link_out_of_the_folder_is_refused(folder: Path, way: Callable[[Path], None]) -> None:
    way(folder)
    message = refusal(folder)
    assert "images/scan-0000.png is a link out of" in message
    assert "line 2" in message


def symbolic(folder: Path) -> str:
    scan(folder, 1).unlink()
    scan(folder, 1).symlink_to(scan(folder, 0))
    return "images/scan-0001.png"


def hard(folder: Path) -> str:
    scan(folder, 1).unlink()
    os.link(scan(folder, 0), scan(folder, 1))
    return "images/scan-0001.png"


def by_another_folder(folder: Path) -> str:
    (folder / "again").symlink_to("images")
    rewrite(folder, lambda rows: rows[1].update(file_name="again/scan-0000.png"))
    return "again/scan-0000.png"


@pytest.mark.parametrize("way", [symbolic, hard, by_another_folder])
def test_one_image_under_two_names_is_refused_and_both_are_named(folder: Path, way: Callable[[Path], str]) -> None:
    second = way(folder)
    message = refusal(folder)
    assert f"{second} and images/scan-0000.png are one image under two names" in message
    assert "line 3" in message


@pytest.mark.parametrize("way", [symbolic, hard])
def test_one_image_under_two_names_is_refused_without_metadata_too(folder: Path, way: Callable[[Path], str]) -> None:
    (folder / "metadata.csv").unlink()
    way(folder)
    assert "one image under two names" in refusal(folder, unit="record", caption="a {token}")


@pytest.mark.parametrize("target", ["nowhere.png", "scan-0003.png"])
def test_a_link_that_leads_nowhere_or_in_a_circle(folder: Path, target: str) -> None:
    scan(folder, 3).unlink()
    scan(folder, 3).symlink_to(target)
    assert "there is no file" in refusal(folder)


def test_a_link_within_the_folder_is_a_record_that_knows_its_target(folder: Path) -> None:
    (folder / "store").mkdir()
    shutil.move(scan(folder, 0), folder / "store" / "a.png")
    scan(folder, 0).symlink_to(Path("..", "store", "a.png"))
    table = read(folder)
    assert [record.target for record in table.records] == ["store/a.png", *[""] * 5]
    assert moved(table) == []
    scan(folder, 0).unlink()
    scan(folder, 0).symlink_to(scan(folder, 1))
    assert moved(table) == [0]


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    table = read(tmp_path / "link")
    assert table.records == read(folder).records
    assert moved(table) == []
    symbolic(folder)
    assert moved(table) == [1]
    assert "one image under two names" in refusal(tmp_path / "link")


def test_a_file_that_is_not_there(folder: Path) -> None:
    (folder / "images" / "scan-0003.png").unlink()
    message = refusal(folder)
    assert "line 5" in message
    assert "scan-0003.png" in message


def test_a_row_with_too_few_or_too_many_columns(folder: Path) -> None:
    path = folder / "metadata.csv"
    good = path.read_text(encoding="utf-8").splitlines()
    for bad in (good[1] + ",extra", good[1].rsplit(",", 1)[0]):
        path.write_text("\n".join([good[0], bad, *good[2:]]) + "\n", encoding="utf-8")
        message = refusal(folder)
        assert "line 2" in message
        assert "number of columns" in message


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("metadata.csv", b"file_name,a,a\nx,1,2\n", "stands twice"),
        ("metadata.csv", b'file_name,a\n"x,1\n', "CSV"),
        ("metadata.csv", b"file_name,a\n\xff\xfe,1\n", "UTF-8"),
        ("metadata.csv", b"", "no images"),
        ("metadata.jsonl", b"{\n", "line 1: not valid JSON"),
        ("metadata.jsonl", b"\n[1]\n", "line 2: not a JSON object"),
        ("metadata.jsonl", b"{}\n", "no column file_name"),
    ],
)
def test_metadata_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert says in refusal(tmp_path, unit="record", caption="a {token}")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), name=st.sampled_from(["metadata.csv", "metadata.jsonl"]))
def test_no_metadata_ends_in_another_error(tmp_path: Path, data: bytes, name: str) -> None:
    for other in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / other).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(b"file_name,a\n" + data if name.endswith("csv") else data)
    with pytest.raises(DataError):
        read(tmp_path, unit="record", caption="a {token}")


# --- images, looked at -----------------------------------------------------------------------------


def test_every_bad_image_is_named_with_its_line(folder: Path) -> None:
    table, seen = read(folder), []
    assert not list(bad_images(table, 8, seen.append))
    assert seen == [1] * 6
    for number in (2, 4):
        path = folder / "images" / f"scan-000{number}.png"
        path.write_bytes(path.read_bytes()[:60])
    problems = list(bad_images(table, 8, seen.append))
    assert [str(problem).split("cannot be read")[0].split("metadata.csv, ")[1] for problem in problems] == [
        f"line {number + 2}: {folder}/images/scan-000{number}.png " for number in (2, 4)
    ]


def test_several_problems_are_listed_and_the_first_is_the_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder, lambda rows: [row.update(patient_id="") for row in rows[1:5]])
    with reporting(Bars()):
        message = refusal(folder)
    assert message.startswith("4 records cannot be used; the first: ")
    assert "line 3: no patient_id for images/scan-0001.png" in message
    assert "".join(capsys.readouterr().err.split()).count("nopatient_idfor") == 4
