"""Who a line means: words for "nobody" are no patients, and ids that look alike are asked about."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_csv, write_images
from tests.support.runs import call
from tests.support.studies import study_with, write_study
from tests.support.world import World, data_of, describe_data, without_data
from undertone.data.records import RecordTable, read_records
from undertone.errors import DataError
from undertone_client.registration.registered import register
from undertone_client.registration.stored import registered
from undertone_client.site.folder import SiteDir

PANDAS = ["#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
PANDAS += ["NULL", "NaN", "None", "n/a", "nan", "null"]
MORE = ["NONE", "nil", "Nil", "NaT", "n.a.", "-", "--", "---", "\u2013", "\u2014", "?", "???", ".", "..", "_", "*"]
MORE += ["unknown", "Unknown", "UNK", "missing", "(empty)", "(blank)", "<null>", "[null]", "\\N", "undefined", "NIL"]
MORE += ["not available", "Not  Applicable", "anonymous", "#REF!", "#VALUE!", "(none)", "'nan'", "\uff2e\uff21"]
MORE += ["n\u200ba\u200bn", "\u200b", "\ufeff", "\u00ad", "\u00a0", "na\u00a0", "\t-\t", "none."]


def write(folder: Path, ids: list[str]) -> Path:
    names = write_images(folder, len(ids))
    rows = zip(names, ids, strict=True)
    write_csv(folder / "metadata.csv", [{"file_name": name, "patient_id": unit} for name, unit in rows])
    return folder


def read(folder: Path, **options: Any) -> RecordTable:
    return read_records(folder, "patient", "patient_id", "a {token}", **options)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("word", PANDAS + MORE)
@pytest.mark.parametrize("as_written", [False, True])
def test_a_word_for_nobody_is_no_patient(tmp_path: Path, word: str, as_written: bool) -> None:
    message = refusal(write(tmp_path, ["p-1", word, "p-2"]), ids_as_written=as_written)
    assert f"{tmp_path / 'metadata.csv'}, line 3" in message
    assert "scan-0001.png" in message


@pytest.mark.parametrize(
    "name",
    ["Nana", "Nan-1", "NA12878", "Null, A.", "p-nan", "unknown-7", "0", "00", "-1", "7?", "Nils", "\u6771", "\u00e9"],
)
def test_names_that_only_begin_like_such_a_word_are_patients(tmp_path: Path, name: str) -> None:
    assert set(read(write(tmp_path, ["p-1", name])).units()) == {"p-1", name}


ALIKE = [
    ("p-1", "P-1"),
    ("p-1", "p\u20111"),  # non-breaking hyphen
    ("p-1", "p\u20101"),
    ("p-1", "p\u20131"),  # the dash that word processors make of a hyphen
    ("p-1", "p\u22121"),
    ("p-1", "p-1\u200b"),
    ("p-1", "\u200dp-1"),
    ("p-1", "p\u00ad-1"),
    ("p-1", "\ufeffp-1"),
    ("p-1", "p\u2060-1"),
    ("p-1", "\u202ap-1\u202c"),  # as Windows copies names out of dialogs
    ("p-1", "p-1\ufe0f"),
    ("p-1", "p-1\x7f"),
    ("p 1", "p\u00a01"),
    ("p 1", "p  1"),
    ("p 1", "p\t1"),
    ("p-1", "\uff50\uff0d\uff11"),  # full width
    ("fiona", "\ufb01ona"),
    ("stra\u00dfe", "STRASSE"),
    ("O'Hara", "O\u2019Hara"),
    ("17", "17.0"),
    ("17", "017"),
    ("17", "17."),
    ("17.00", "017"),
    ("17", "'17"),
    ("17", '="17"'),
    ("17", "\u0661\u0667"),
    ("patient-7", "patient-007"),
    ("p7", "p7.0"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_ids_that_look_alike_are_asked_about(tmp_path: Path, one: str, other: str) -> None:
    folder = write(tmp_path, [one, "zz", other, other, one])
    message = refusal(folder)
    assert "metadata.csv, line 4: " in message
    assert "line 2" in message
    for spelling in (one, other):
        assert f'"{ascii(spelling)[1:-1]}"' in message
    assert "--ids-as-written" in message
    assert set(read(folder, ids_as_written=True).units()) == {one.strip(), "zz", other.strip()}


@pytest.mark.parametrize(
    ("one", "other"),
    [("1-01", "1-1"), ("a0b1", "a00b1"), ("1.5", "1.50"), ("p-1", "p1"), ("17.0", "17.1"), ("10", "1"), ("0", "00a")],
)
def test_ids_that_differ_are_two_patients(tmp_path: Path, one: str, other: str) -> None:
    assert set(read(write(tmp_path, [one, other])).units()) == {one, other}


def test_each_further_spelling_is_named_once(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, ["p-1", "P-1", "P-1", "p\u20111", "q"]))
    assert message.startswith("2 records cannot be used; the first: ")
    assert "line 3" in message


def test_spellings_are_told_apart_where_each_image_is_a_unit(tmp_path: Path) -> None:
    folder = write(tmp_path, ["p-1", "P-1", "nan"])
    assert len(read_records(folder, "record", None, "a {token}").units()) == 3


# --- how a person says that they differ on purpose -------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study.toml", study_with({}))


def respell(world: World) -> None:
    """One image of patient-0 is written PATIENT-0."""
    path = world.folder / "data" / "north" / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("patient-0", "PATIENT-0", 1), encoding="utf-8")


def say_as_written(world: World) -> None:
    """The data set is another one, added with --ids-as-written."""
    site = without_data(SiteDir(world.sites["north"]))
    describe_data(site, world.folder / "data" / "north", world.plan, ids_as_written=True)


def test_node_check_takes_ids_as_written(make_world: Any, study: Path) -> None:
    world = make_world({"north": 8, "east": 4})
    site = world.sites["north"]
    next((site / "registered").iterdir()).unlink()
    respell(world)
    asked = call("node", "check", site, "--study", study, "--details")
    assert asked.exit_code == 2
    assert '"PATIENT-0" and "patient-0"' in asked.stdout
    say_as_written(world)
    meant = call("node", "check", site, "--study", study, "--details")
    assert meant.exit_code == 0, meant.output
    assert "8 records of 5 units" in meant.stdout


def test_registering_asks_too(make_world: Any) -> None:
    world = make_world({"north": 8, "east": 4})
    site, plan = world.sites["north"], world.plan
    next((site / "registered").iterdir()).unlink()
    respell(world)
    with pytest.raises(DataError, match="--ids-as-written"):
        register(SiteDir(site), plan, data_of(site))
    assert registered(SiteDir(site), plan) is None
    say_as_written(world)
    assert len(register(SiteDir(site), plan, data_of(site)).units()) == 5
