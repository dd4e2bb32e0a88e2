"""Tables as people and spreadsheets write them: understood, or named with file and line; never a silent loss."""

import codecs
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_folder, write_images
from tests.support.runs import call
from tests.support.world import data_of
from undertone.core.config import read_tables
from undertone.data.metadata import rows_by_line
from undertone.data.records import RecordTable, read_records
from undertone.errors import DataError, StudyError
from undertone_client.registration.registered import present, register
from undertone_client.registration.remarks import remarks
from undertone_client.registration.stored import registered
from undertone_client.site.folder import SiteDir

PLAIN = "file_name,patient_id\nimages/scan-0000.png,p\nimages/scan-0001.png,q\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "data", 2)
    return tmp_path / "data"


def read(folder: Path, caption: str = "a {token}", **options: Any) -> RecordTable:
    return read_records(folder, "patient", "patient_id", caption, **options)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


UNDERSTOOD = {
    "plain": PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "sep= with semicolons": "sep=;\n" + PLAIN.replace(",", ";"),
    "sep= with commas": "sep=,\r\n" + PLAIN.replace("\n", "\r\n"),
    "sep= in quotes": '"sep=;"\n' + PLAIN.replace(",", ";"),
    "sep= with tabs": "sep=\t\n" + PLAIN.replace(",", "\t"),
    "sep= with bars": "SEP=|\n" + PLAIN.replace(",", "|"),
    "quoted semicolons": '"file_name";"patient_id"\n"images/scan-0000.png";"p"\n"images/scan-0001.png";"q"\n',
    "blank rows behind": PLAIN + ",\n,\n\n , \n",
    "blank rows between": PLAIN.replace("\n", "\n,\n"),
    "blank rows before": "\n,\n" + PLAIN,
    "wide blank rows": PLAIN + ",,,,\n",
    "a mark of byte order": "\ufeff" + PLAIN,
    "two marks of byte order": "\ufeff\ufeff" + PLAIN,
    "a mark and sep=": "\ufeffsep=;\n" + PLAIN.replace(",", ";"),
    "line ends of Windows": PLAIN.replace("\n", "\r\n"),
    "line ends of old Macs": PLAIN.replace("\n", "\r"),
    "mixed line ends": PLAIN.replace("\n", "\r\n", 1),
    "no last line end": PLAIN.rstrip(),
    "spaces around names": PLAIN.replace("file_name,patient_id", " file_name , patient_id "),
    "all in quotes": '"' + PLAIN.strip().replace(",", '","').replace("\n", '"\n"') + '"\n',
}


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_what_spreadsheets_write_is_understood_then_and_later(folder: Path, kind: str) -> None:
    (folder / "metadata.csv").write_bytes(UNDERSTOOD[kind].encode())
    table = read(folder)
    assert table.units() == {"p": [0], "q": [1]}
    assert present(table, "patient", "patient_id", lambda _text: None).all()
    assert all(isinstance(row, dict) for row in rows_by_line(folder / "metadata.csv", [1]))


def test_a_file_that_changed_is_read_anew_whatever_its_length_and_time(folder: Path) -> None:
    """What the same bytes list of the same records is remembered, and nothing else: not of another table either."""
    source = folder / "metadata.csv"
    source.write_text(PLAIN, encoding="utf-8")
    table, stamp = read(folder), source.stat()

    def there(of: RecordTable = table) -> list[bool]:
        found: list[bool] = present(of, "patient", "patient_id", lambda _text: None).tolist()
        return found

    assert there() == there() == [True, True]
    assert there(table.where(lambda record: record.unit == "q")) == [True]
    assert there() == [True, True]
    source.write_text(PLAIN.replace(",q", ",r"), encoding="utf-8")
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert there() == there() == [True, False]
    assert there(table.where(lambda record: record.unit == "q")) == [False]
    source.unlink()
    assert there() == [False, False]
    os.mkfifo(source)  # is not waited for
    assert there() == [False, False]
    source.unlink()
    source.write_text(PLAIN, encoding="utf-8")
    assert there() == [True, True]
    known = present(table, "patient", "patient_id", lambda _text: None)
    known[:] = False  # what is remembered is a copy
    assert there() == [True, True]


def test_lines_keep_their_numbers_behind_what_was_skipped(folder: Path) -> None:
    (folder / "metadata.csv").write_text("sep=;\n;\n" + PLAIN.replace(",", ";").replace(";q", ";"), encoding="utf-8")
    assert "metadata.csv, line 5: no patient_id for images/scan-0001.png" in refusal(folder)


NAMED = {
    "suffix in capitals": (PLAIN.replace("0000.png", "0000.PNG"), ["line 2", "there is images/scan-0000.png"]),
    "folder in capitals": (PLAIN.replace("images/scan-0000", "Images/scan-0000"), ["there is images/scan-0000.png"]),
    "backslash": (PLAIN.replace("images/scan-0000", "images\\scan-0000"), ["there is images/scan-0000.png"]),
    "dot and backslash": (PLAIN.replace("images/scan-0000", ".\\images\\scan-0000"), ["line 2", "there is no file"]),
    "no suffix": (PLAIN.replace("0000.png", "0000"), ["line 2", "there is images/scan-0000.png"]),
    "another suffix": (PLAIN.replace("0000.png", "0000.jpeg"), ["there is images/scan-0000.png"]),
    "spaces": (PLAIN.replace("images/scan-0000.png", " images/scan-0000.png "), ["there is images/scan-0000.png"]),
    "zero width": (PLAIN.replace("scan-0000", "scan-\u200b0000"), ["\\u200b", "there is images/scan-0000.png"]),
    "a drive": (PLAIN.replace("images/scan-0000.png", "C:\\data\\scan-0000.png"), ["must be a path within"]),
    "a NUL in an id": (PLAIN.replace(",p\n", ",p\0\n", 1), ["line 2", "NUL"]),
    "a comment first": ("# exported by X\n" + PLAIN, ["line 1", "no column file_name", "# exported by X"]),
    "no header": (PLAIN.split("\n", 1)[1], ["line 1", "no column file_name"]),
    "another separator": (PLAIN.replace(",", "|"), ["line 1", "no column file_name", "file_name|patient_id"]),
    "an unknown sep=": ("sep=#\n" + PLAIN, ["line 1", "no column file_name", "sep=#"]),
    "a line cut short": (PLAIN.replace(",q", ""), ["line 3", "number of columns"]),
    "two tables": (PLAIN + "\ufeff" + PLAIN.split("\n")[0] + "\n", ["line 4", "there is no file"]),
}


@pytest.mark.parametrize("kind", NAMED)
def test_near_misses_are_named_with_the_right_spelling(folder: Path, kind: str) -> None:
    text, words = NAMED[kind]
    (folder / "metadata.csv").write_bytes(text.encode())
    message = refusal(folder)
    for word in words:
        assert word in message


OTHER = {
    "utf-16": (PLAIN.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "utf-16-le": (PLAIN.encode("utf-16-le"), "it is UTF-16; save it as UTF-8"),
    "utf-16-be": (PLAIN.encode("utf-16-be"), "it is UTF-16; save it as UTF-8"),
    "utf-16 big": (codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"), "it is UTF-16; save it as UTF-8"),
    "utf-32": (PLAIN.encode("utf-32"), "it is UTF-32"),
    "a workbook": (b"PK\x03\x04" + bytes(40), "Excel workbook"),
    "an old workbook": (b"\xd0\xcf\x11\xe0" + bytes(40), "Excel workbook"),
    "gzip": (b"\x1f\x8b" + bytes(40), "gzip"),
    "parquet": (b"PAR1" + bytes(40), "Parquet"),
}


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_what_is_no_text_is_named(folder: Path, kind: str, name: str) -> None:
    data, words = OTHER[kind]
    (folder / name).write_bytes(data)
    assert words in refusal(folder)


@pytest.mark.parametrize("kind", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "gzip"])
def test_a_toml_file_that_is_no_text_is_named(tmp_path: Path, kind: str) -> None:
    data, words = OTHER[kind]
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    with pytest.raises(StudyError, match=words):
        read_tables(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_toml_file_may_begin_with_a_mark_and_have_any_line_ends(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(codecs.BOM_UTF8 + ending.join(["[a]", "b = 1", ""]).encode())
    assert read_tables(path) == {"a": {"b": 1}}


# --- two tables, and tables under other names ------------------------------------------------------


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_two_metadata_files_are_refused_unless_one_is_named(folder: Path) -> None:
    (folder / "metadata.csv").write_text(PLAIN, encoding="utf-8")
    as_jsonl(folder, [{"file_name": "images/scan-0000.png", "patient_id": "r"}])
    message = refusal(folder)
    assert "metadata.csv and metadata.jsonl" in message
    assert set(read(folder, metadata=folder / "metadata.jsonl").units()) == {"r"}
    assert set(read(folder, metadata=folder / "metadata.csv").units()) == {"p", "q"}


@pytest.mark.parametrize("name", ["Metadata.csv", "metadata.CSV", "metadata.tsv", "metadata.json", "metadata.csv.txt"])
def test_a_table_under_another_name_is_not_passed_over(folder: Path, name: str) -> None:
    (folder / name).write_text(PLAIN, encoding="utf-8")
    with pytest.raises(DataError, match=f"{name} is not read under this name"):
        read_records(folder, "record", None, "a {token}")


def test_a_second_file_beside_what_was_registered_changes_nothing(make_world: Any) -> None:
    world = make_world({"north": 8, "east": 4})
    site, data = SiteDir(world.sites["north"]), world.folder / "data" / "north"
    as_jsonl(data, [{"file_name": "other.png", "patient_id": "r"}])
    table = registered(site, world.plan)
    assert table is not None
    assert table.source == data / "metadata.csv"
    os.rename(data / "metadata.csv", data / "away.csv")
    table = registered(site, world.plan)
    assert table is not None
    assert not present(table, "patient", "patient_id", lambda _text: None).any()


# --- lines that lack a column ----------------------------------------------------------------------


@pytest.mark.parametrize("lacking", [0, 1])
@pytest.mark.parametrize(("column", "says"), [("finding", 'no "finding"'), ("patient_id", "no patient_id")])
def test_a_line_of_json_that_lacks_a_column_is_named(folder: Path, lacking: int, column: str, says: str) -> None:
    rows = [{"file_name": f"images/scan-000{n}.png", "patient_id": f"p-{n}", "finding": "x"} for n in (0, 1)]
    del rows[lacking][column]
    as_jsonl(folder, rows)
    message = refusal(folder, caption="a {token}, {finding}")
    assert f"metadata.jsonl, line {lacking + 1}: {says}" in message


def test_a_column_that_no_line_has_is_named_once(folder: Path) -> None:
    as_jsonl(folder, [{"file_name": f"images/scan-000{n}.png", "patient_id": f"p-{n}", "fnding": "x"} for n in (0, 1)])
    assert 'no column "finding"; the closest is "fnding"' in refusal(folder, caption="{finding}")


# --- what is no error and is said ------------------------------------------------------------------


def test_images_that_no_line_lists_are_counted(folder: Path) -> None:
    write_images(folder, 4)
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "metadata.csv").write_text(PLAIN, encoding="utf-8")
    (line,) = remarks(read(folder), "a {token}")
    assert line.startswith(f"2 images below {folder} left out")
    assert line.endswith("the first is images/scan-0002.png")


def test_empty_columns_of_the_caption_are_counted(folder: Path) -> None:
    rows = [{"file_name": f"images/scan-000{n}.png", "patient_id": f"p-{n}", "finding": ("x", None)[n]} for n in (0, 1)]
    as_jsonl(folder, rows)
    (line,) = remarks(read(folder, "a {token}, {finding}"), "a {token}, {finding}")
    assert "finding is empty in 1 of 2 records" in line
    assert line.endswith("metadata.jsonl, line 2")


def test_check_and_registration_say_what_is_left_out(make_world: Any) -> None:
    world = make_world({"north": 8, "east": 4})
    site = world.sites["north"]
    write_images(world.folder / "data" / "north", 1, first=90)
    result = call("node", "check", site, "--details")
    assert result.exit_code == 0, result.output
    assert "1 image below" in result.stdout
    assert "images/scan-0090.png" in result.stdout
    next((site / "registered").iterdir()).unlink()
    said: list[str] = []
    register(SiteDir(site), world.plan, data_of(site), said.append)
    assert [line for line in said if "images/scan-0090.png" in line]


def test_simulate_takes_the_file_that_is_named(tmp_path: Path) -> None:
    from tests.support.studies import study_with
    from undertone.study.schema import parse_study
    from undertone_cli.split import split

    rows = write_folder(tmp_path, 8, sites=("north", "east"))
    as_jsonl(tmp_path, [dict(row) for row in rows[:4]])
    study = parse_study(study_with())
    with pytest.raises(DataError, match="--metadata of simulate"):
        split(study, tmp_path, "site", None, 0.0)
    found = split(study, tmp_path, "site", None, 0.0, metadata="metadata.jsonl")
    assert sum(len(share.training.records) for share in found.values()) == 4
