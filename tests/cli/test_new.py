"""`undertone new`: what it reads is shown, what it writes was typed, and `plan` accepts it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.support.bases import tiny_class_base
from tests.support.gradient_studies import TOLD_CLASSES
from tests.support.images import pixels, write_csv, write_folder
from tests.support.runs import call
from undertone.data.overview import columns_of, sizes, units_by
from undertone.data.records import Record
from undertone.methods.registry import METHODS
from undertone.study import settling
from undertone.study.public_rows import PublicRows
from undertone.study.schema import load_study
from undertone.study.written import PLACEHOLDERS, Answers, written
from undertone_cli.commands import new
from undertone_cli.main import cli

# What the data hold, in words that nothing else has.
SECRET = "zq"
SITES, FINDINGS = ("zq-north", "zq-east", "zq-south"), ("zqclear", "zqmass")
IMAGES = 48
UNIT = ("--unit-column", "zq_patient")
Begin = Callable[..., Result]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of 24 patients, two findings, three sites; every name and value has the secret in it."""
    folder = tmp_path_factory.mktemp("data")
    rows = write_folder(folder, IMAGES, sites=SITES)
    write_csv(
        folder / "metadata.csv",
        [
            {
                "file_name": row["file_name"],
                "zq_patient": f"zq-{row['patient_id']}",
                "zq_finding": FINDINGS[row["finding"] == "mass"],
                "zq_site": row["site"],
            }
            for row in rows
        ],
    )
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study.toml"


@pytest.fixture
def begin(study: Path, data: Path, dummy_base: Path) -> Begin:
    """The command on those data and a small base."""
    return lambda *options: call("new", study, "--data", data, "--base", dummy_base, *options)


@pytest.fixture
def typed(study: Path, data: Path, dummy_base: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """The same at a terminal where a person types answers."""
    monkeypatch.setattr(new, "at_terminal", lambda: True)
    words = ["new", str(study), "--data", str(data), "--base", str(dummy_base)]
    return lambda *answers: CliRunner().invoke(cli, words, input="".join(f"{answer}\n" for answer in answers))


def one_error(result: Result, code: int, *words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.exit_code == code, (result.output, result.exception)
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


def test_what_it_writes_plan_accepts(study: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "rows_for_c", lambda *_: PublicRows(6.8, 8.8, 32))
    done = begin(*UNIT, "--sites", "north=210,east=150, south=70")
    assert done.exit_code == 0, done.output
    assert f"Next: undertone plan {study}" in done.stdout
    loaded = load_study(study)
    assert (loaded.study.name, loaded.privacy.unit, loaded.data.unit_column) == ("study", "patient", "zq_patient")
    assert loaded.cohort.units == {"north": 210, "east": 150, "south": 70}
    shown = call("plan", study)
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_study(study: Path, data: Path, method: str, class_base: Path) -> None:
    classes = ("--class-column", "zq_finding", "--classes", "clear,mass", "--caption", "{zq_finding}")
    told = (*classes, "--base", class_base) if method in TOLD_CLASSES else ()
    done = call("new", study, "--data", data, *UNIT, "--method", method, *told)
    assert done.exit_code == 0, done.output
    assert load_study(study).method.name == method
    assert f'name = "{method}"  # others: ' in study.read_text(encoding="utf-8")


def test_columns_units_sites_classes_and_sizes_are_shown(study: Path, begin: Begin) -> None:
    done = begin(*UNIT)
    text = " ".join(done.stdout.replace("\u2502", " ").split())
    assert "zq_patient 24 0 2 unit (24 units)" in text
    assert "zq_finding 2 0 24 class or site" in text
    assert "images: 48, 8x8 pixels" in text
    assert "images by zq_finding: zqclear 24, zqmass 24" in text
    assert "units by zq_site: zq-east 8, zq-north 8, zq-south 8" in text


@pytest.mark.parametrize(
    ("options", "may_hold"),
    [
        (("--unit", "record"), ()),
        (UNIT, ("zq_patient",)),
        (("--unit", "record", "--class-column", "zq_finding", "--classes", "clear,mass"), ("zq_finding",)),
        (
            (*UNIT, "--class-column", "zq_finding", "--classes", "none,zqmass", "--caption", "a {token}, {zq_finding}"),
            ("zq_patient", "zq_finding", "zqmass"),
        ),
    ],
)
def test_no_value_of_the_data_gets_into_a_study_by_itself(
    study: Path, dummy_base: Path, begin: Begin, options: tuple[str, ...], may_hold: tuple[str, ...]
) -> None:
    """Neither a column's name, nor a class, nor a site, nor how many there are, unless it was typed."""
    done = begin(*options)
    assert done.exit_code == 0, done.output
    assert SECRET in done.stdout, "it is shown"
    text = study.read_text(encoding="utf-8").replace(str(dummy_base), "BASE")
    assert set(re.findall(r"zq[\w-]*", text)) == set(may_hold)
    assert not re.findall(r"\b(48|24|8|16)\b", text), "nor a count"
    assert load_study(study).cohort.units == PLACEHOLDERS
    assert "PLACEHOLDERS" in text
    assert "placeholders" in done.stderr


def test_a_bare_key_at_every_prompt_takes_nothing_over(study: Path, typed: Begin) -> None:
    done = typed("", "", "")
    assert done.exit_code == 0, done.output
    assert SECRET not in study.read_text(encoding="utf-8")
    assert load_study(study).privacy.unit == "record"


def test_what_is_typed_at_prompts_is_written(study: Path, typed: Begin) -> None:
    done = typed("zq_patient", "zq_finding", "clear, zqmass", "north=20, east=20, south=20")
    assert done.exit_code == 0, done.output
    assert "units by zq_site: zq-east 8, zq-north 8, zq-south 8" in done.stdout, "before sites are asked for"
    assert "no image here has the class: clear" in done.stdout
    assert "images of other classes, left out: 24" in done.stdout
    loaded, text = load_study(study), study.read_text(encoding="utf-8")
    assert (loaded.privacy.unit, loaded.data.unit_column) == ("patient", "zq_patient")
    assert loaded.cohort.units == {"north": 20, "east": 20, "south": 20}
    assert (loaded.data.class_column, loaded.data.classes) == ("zq_finding", ["clear", "zqmass"])
    assert "# per_class = true" in text


def test_on_a_base_that_is_told_a_class_the_caption_is_the_class(study: Path, begin: Begin, tmp_path: Path) -> None:
    base = tiny_class_base(tmp_path / "base", ("a", "b", "c"))
    classes = ("--class-column", "zq_finding", "--classes", "clear,zqmass")
    done = begin(*UNIT, *classes, "--base", base, "--method", "dp-ldm")
    assert done.exit_code == 0, done.output
    loaded = load_study(study)
    assert loaded.data.caption == "{zq_finding}"
    assert loaded.method.options == {"per_class": True}


def test_the_unit_is_never_guessed(study: Path, begin: Begin) -> None:
    """A patient with several images would be promised what holds for one of them."""
    one_error(begin(), 2, "InputError", "--unit-column COLUMN", "--unit record")
    assert not study.exists()


def test_a_study_that_exists_is_left_alone(study: Path, begin: Begin) -> None:
    study.write_text("mine", encoding="utf-8")
    done = begin(*UNIT)
    one_error(done, 2, "FolderError", "exists already", "name another file")
    assert study.read_text(encoding="utf-8") == "mine"
    assert SECRET not in done.stdout, "and nothing is read for it"


def test_a_file_that_appears_meanwhile_stays(study: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    look = new.look

    def late(folder: Path, metadata: str | None) -> object:
        study.write_text("mine", encoding="utf-8")
        return look(folder, metadata)

    monkeypatch.setattr(new, "look", late)
    one_error(begin(*UNIT), 2, "FolderError", "exists already")
    assert study.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--unit-column", "zq_patien"), ("DataError", "--unit-column", "zq_patien", 'closest is "zq_patient"')),
        (("--unit", "patient"), ("InputError", "--unit-column COLUMN")),
        (("--unit", "record", *UNIT), ("StudyError", "data.unit_column")),
        ((*UNIT, "--class-column", "zq_finding"), ("InputError", "--classes")),
        ((*UNIT, "--classes", "a,b"), ("InputError", "--class-column")),
        ((*UNIT, "--class-column", "zq_finding", "--classes", "a,,b"), ("InputError", "between two commas")),
        ((*UNIT, "--class-column", "zq_finding", "--classes", "a,a"), ("InputError", "twice")),
        ((*UNIT, "--sites", "North=10"), ("InputError", '"North"', "for example north")),
        ((*UNIT, "--sites", "north"), ("InputError", "north=100")),
        ((*UNIT, "--sites", "north=0"), ("InputError", "above 0")),
        ((*UNIT, "--sites", "a=10,a=20"), ("InputError", "a twice")),
        ((*UNIT, "--sites", "a=10,b=20"), ("StudyError", "2 sites are fewer")),
        ((*UNIT, "--caption", "a picture"), ("StudyError", "{token}")),
        ((*UNIT, "--caption", "a {token}, {zq_findin}"), ("DataError", "--caption", 'closest is "zq_finding"')),
        ((*UNIT, "--epsilon", "0"), ("StudyError", "privacy.epsilon")),
        ((*UNIT, "--base", "embedded:tini"), ("ModelError", "embedded:tiny")),
        ((*UNIT, "--name", "My study"), ("InputError", "for example my-study", "--name")),
    ],
)
def test_a_wrong_answer_says_what_would_do_and_writes_nothing(
    study: Path, begin: Begin, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    one_error(begin(*options), 2, *words)
    assert not study.exists()


def test_a_typed_text_adds_no_line_to_a_study(study: Path) -> None:
    """Quotes, line ends and comments stay within their value."""
    text = 'a {token}\n[aggregation]\nmode = "plain" # "'
    answers = Answers("s", "embedded:tiny", next(iter(METHODS)), "record", 1.0, 1e-5, caption=text)
    study.write_text(written(answers), encoding="utf-8")
    loaded = load_study(study)
    assert loaded.data.caption == text
    assert loaded.aggregation.mode == "secagg"


def test_a_folder_without_metadata_has_a_unit_for_each_image(study: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for number in range(3):
        Image.fromarray(pixels(number, 8 + 4 * number)).save(tmp_path / "bare" / f"{number}.png")
    done = call("new", study, "--data", tmp_path / "bare")
    assert done.exit_code == 0, done.output
    assert "images: 3, 8x8 to 16x16, typically 12x12 pixels" in done.stdout
    assert load_study(study).privacy.unit == "record"
    assert "whoever has several is protected less" in study.read_text(encoding="utf-8")
    one_error(call("new", tmp_path / "x.toml", "--data", tmp_path / "bare", *UNIT), 2, "DataError", "has no columns")


def test_a_folder_for_each_site_is_one_way_to_split(study: Path, tmp_path: Path) -> None:
    """Files of the same name in two folders are two images."""
    for number, site in enumerate(("north", "east", "south")):
        write_folder(tmp_path / "data" / site, 12 + 2 * number)
    done = call("new", study, "--data", tmp_path / "data", "--unit-column", "patient_id")
    assert done.exit_code == 0, done.output
    assert "units by folder: east 7, north 6, south 8" in done.stdout
    assert "images: 42" in done.stdout
    assert "north" not in study.read_text(encoding="utf-8")


def test_a_folder_without_images_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_error(call("new", study, "--data", tmp_path / "empty", *UNIT), 2, "DataError", "holds no images")
    one_error(call("new", study, "--data", tmp_path / "nowhere", *UNIT), 2, "DataError", "is not a folder")
    assert not study.exists()


def test_lines_that_cannot_be_used_are_named_and_the_rest_is_shown(study: Path, tmp_path: Path) -> None:
    rows = write_folder(tmp_path / "data", 12)
    rows[3]["patient_id"] = "nan"
    rows[5]["file_name"] = "images/gone.png"
    write_csv(tmp_path / "data" / "metadata.csv", rows)
    done = call("new", study, "--data", tmp_path / "data", "--unit-column", "patient_id")
    assert done.exit_code == 0, done.output
    assert "cannot be used: 1 lines; the first: " in done.stdout
    assert "gone.png" in done.stdout
    assert "without a patient: 1 images, which no study takes" in done.stdout


def records(**columns: Sequence[str]) -> list[Record]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [Record(f"{number}.png", f"{number}", row) for number, row in enumerate(rows)]


def test_what_a_column_could_be() -> None:
    """Patients have a few images each; classes and sites are few and have many."""
    many = records(
        patient=[f"p{number // 3}" for number in range(600)],
        scan=[f"s{number}" for number in range(600)],
        hospital=[f"h{number % 30}" for number in range(600)],
        finding=["a", "b", "nan", "c"] * 150,
        one=["x"] * 600,
    )
    found = {column.name: column for column in columns_of(many)}
    could = {name: (column.may_be_unit, column.may_be_class, column.may_be_site) for name, column in found.items()}
    assert could == {
        "patient": (True, False, False),
        "scan": (True, False, False),
        "hospital": (False, False, True),
        "finding": (False, True, True),
        "one": (False, False, False),
    }
    assert (found["finding"].missing, dict(found["finding"].values)) == (150, {"a": 150, "b": 150, "c": 150})
    assert columns_of(records(id=["Ab 1", "ab 01", "b"]))[0].look_alike == 1


def test_units_are_counted_at_each_site_that_has_them() -> None:
    few = records(patient=["p", "p", "q", "nan"], site=["a", "b", "b", "b"])
    site_of = {record.file: record.columns["site"] for record in few}
    assert units_by(few, "patient", site_of) == {"a": 1, "b": 2}
    assert units_by(few, None, site_of) == {"a": 1, "b": 3}


def test_sizes_are_read_from_some_headers(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        Image.new("L", (10 + number, 20)).save(files[-1])
    files[3].write_bytes(b"no image")
    found = sizes(files)
    assert found is not None
    assert (found.smallest, found.typical, found.largest) == ((10, 20), (11, 20), (12, 20))
    assert (found.looked_at, found.unread) == (4, 1)
    assert sizes(files[3:]) is None
