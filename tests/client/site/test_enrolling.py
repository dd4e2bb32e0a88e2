"""Data sets: read strictly, indexed, unit and cap for life; no unit and no image in two of them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import BooksInMemory, add, described, fresh_site, patients
from tests.support.images import write_csv, write_images
from undertone.errors import (
    BudgetExceeded,
    DataError,
    FolderError,
    InputError,
    SharedRecords,
    StudyError,
    UnitChanged,
)
from undertone_client.site import budget, enrol
from undertone_client.site.datasets import data_set, data_sets, new_data_set
from undertone_client.site.enrol import add_data_set, update_data_set
from undertone_client.site.folder import SiteDir
from undertone_client.site.published import check_near, check_round
from undertone_client.site.tombstones import withdraw
from undertone_client.site.unit_index import read_index


@pytest.fixture
def site(tmp_path: Path) -> SiteDir:
    return fresh_site(tmp_path / "site")


def written(site: SiteDir) -> set[str]:
    return {path.name for path in (site.folder / "datasets").iterdir()}


def test_a_data_set_is_described_indexed_and_given_a_cap(site: SiteDir, tmp_path: Path) -> None:
    books = BooksInMemory()
    found = add(site, "chest", patients(tmp_path / "a", 5), books)
    assert (found.units, len(found.table.records), found.joined, found.withdrawn) == (5, 10, 5, 0)
    assert data_sets(site.folder) == {"chest": described("chest", tmp_path / "a")}
    assert books.caps == {"chest": (8.0, 1e-6)}
    index = read_index(site, data_set(site.folder, "chest"))
    assert (index.units, index.records, len(index.spelled), len(index.files)) == (5, 10, 5, 10)


def test_an_index_tells_no_id_and_no_file(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    data = (site.folder / "datasets" / "chest.index").read_bytes()
    assert b"patient-" not in data
    assert b"scan-" not in data
    other = fresh_site(tmp_path / "other")
    add(other, "chest", tmp_path / "a")
    here, there = (read_index(one, data_set(one.folder, "chest")) for one in (site, other))
    assert not here.spelled & there.spelled
    assert not here.files & there.files


# --- what is wrong is named, and nothing is written -------------------------------------------------


def bad_line(folder: Path) -> None:
    path = folder / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("patient-1", " "), encoding="utf-8")


def alike(folder: Path) -> None:
    path = folder / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("patient-1", "PATIENT-0"), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (bad_line, "no patient_id for"),
        (alike, "look alike"),
        (lambda folder: (folder / "images" / "scan-0003.png").write_bytes(b"none"), "cannot be read as an image"),
        (lambda folder: (folder / "images" / "scan-0003.png").unlink(), "there is no file"),
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
    ],
)
def test_bad_records_end_it_before_anything_is_written(site: SiteDir, tmp_path: Path, spoil: Any, says: str) -> None:
    books, folder = BooksInMemory(), patients(tmp_path / "a", 5)
    spoil(folder)
    with pytest.raises(DataError, match=says):
        add(site, "chest", folder, books)
    assert not written(site)
    assert not books.caps


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unit_column": None}, "needs unit_column"),
        ({"unit": "record"}, "only patient has one"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 101.0}, "epsilon"),
        ({"delta": 0.01}, "delta"),
        ({"publish": 0}, "publish"),
    ],
)
def test_a_description_that_will_not_do_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        described("chest", tmp_path, **changes)


@pytest.mark.parametrize("name", ["", "Chest", "../chest", "a/b", "x" * 64])
def test_a_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="name"):
        described(name, tmp_path)


# --- the published figure ---------------------------------------------------------------------------


@pytest.mark.parametrize("figure", [1, 7, 9, 10, 15, 95, 100, 210, 990, 1000, 1200, 12000, 1_000_000])
def test_round_figures(figure: int) -> None:
    check_round(figure)
    check_near(figure, figure)


@pytest.mark.parametrize(
    ("figure", "near"),
    [(11, "10"), (37, "35 or 40"), (101, "100 or 110"), (213, "210 or 220"), (1250, "1200 or 1300"), (1001, "1000")],
)
def test_a_figure_that_says_more_is_refused_and_the_nearest_are_named(figure: int, near: str) -> None:
    with pytest.raises(InputError, match=f"no round figure: {near}"):
        check_round(figure)


@pytest.mark.parametrize(
    ("figure", "count", "near"),
    [
        (210, 300, "300"),
        (300, 213, "210 or 220"),
        (100, 126, "120 or 130"),
        (5, 12, "10"),
        (9, 5, "5 or 6"),
        (1, 3, "3"),
    ],
)
def test_a_figure_far_from_the_count_is_refused(figure: int, count: int, near: str) -> None:
    with pytest.raises(InputError, match=f"the {count} units that were found: {near}"):
        check_near(figure, count)


@pytest.mark.parametrize(("figure", "count"), [(210, 175), (210, 262), (10, 12), (15, 13), (5, 5), (5, 6)])
def test_a_figure_within_a_fifth_is_the_operators_choice(figure: int, count: int) -> None:
    check_near(figure, count)


def test_every_count_has_a_round_figure_that_is_near() -> None:
    from undertone_client.site.published import step_of

    for count in range(1, 3000):
        near = [figure for figure in range(1, 2 * count + 1) if figure % step_of(figure) == 0]
        assert any(abs(figure - count) <= 0.2 * count for figure in near), count


@pytest.mark.parametrize(("publish", "says"), [(101, "no round figure"), (10, "more than 20% away")])
def test_adding_asks_for_a_figure_that_will_do(site: SiteDir, tmp_path: Path, publish: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        add(site, "chest", patients(tmp_path / "a", 5), publish=publish)
    assert not written(site)


# --- overlap ----------------------------------------------------------------------------------------


def renamed(folder: Path, old: str, new: str) -> Path:
    path = folder / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return folder


@pytest.mark.parametrize("spelling", ["patient-1", "PATIENT-1", "patient-001", "patient\u20111", " patient-1"])
def test_a_patient_of_another_data_set_is_refused_in_any_spelling(site: SiteDir, tmp_path: Path, spelling: str) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    books, before = BooksInMemory(), written(site)
    other = renamed(patients(tmp_path / "b", 5, first=100), "patient-101", spelling)
    with pytest.raises(SharedRecords, match=r"skin shares units with chest, .*one patient has one budget") as refused:
        add(site, "skin", other, books)
    assert spelling.strip() in str(refused.value) or "\\u2011" in str(refused.value)
    assert written(site) == before
    assert not books.caps


def test_spellings_are_two_people_where_both_data_sets_say_so(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5), ids_as_written=True)
    other = renamed(patients(tmp_path / "b", 5, first=100), "patient-101", "PATIENT-1")
    with pytest.raises(SharedRecords, match="shares units"):
        add(site, "skin", other)
    add(site, "skin", other, ids_as_written=True)


def test_they_are_one_where_the_first_data_set_does_not_say_so(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    other = renamed(patients(tmp_path / "b", 5, first=100), "patient-101", "PATIENT-1")
    with pytest.raises(SharedRecords, match="shares units"):
        add(site, "skin", other, ids_as_written=True)


def test_few_of_many_shared_units_are_named(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 9), publish=9)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(SharedRecords, match="patient-0, patient-1, patient-2 and 6 more"):
        add(site, "skin", tmp_path / "b", publish=9)


def test_an_image_of_another_data_set_is_refused_whatever_it_is_called(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    other = patients(tmp_path / "b", 5, first=100)
    shutil.copyfile(tmp_path / "a" / "images" / "scan-0003.png", other / "images" / "scan-0104.png")
    with pytest.raises(SharedRecords, match=r"shares files with chest, images/scan-0104\.png; an image has one budget"):
        add(site, "skin", other)


@pytest.mark.parametrize("first", ["patient", "record"])
def test_images_are_compared_whatever_the_units_are(site: SiteDir, tmp_path: Path, first: str) -> None:
    units: dict[str, dict[str, Any]] = {
        "patient": {"publish": 5},
        "record": {"unit": "record", "unit_column": None, "publish": 10},
    }
    add(site, "chest", patients(tmp_path / "a", 5), **units.pop(first))
    (second,) = units.values()
    with pytest.raises(SharedRecords, match="shares files"):
        add(site, "skin", tmp_path / "a", **second)
    # With units that are images, the same name below another folder is another image.
    add(site, "skin", patients(tmp_path / "b", 5, first=100), **second)


@pytest.mark.parametrize("first", ["site", "patient"])
def test_a_site_that_is_one_unit_has_one_data_set(site: SiteDir, tmp_path: Path, first: str) -> None:
    units = {"site": {"unit": "site", "unit_column": None, "publish": 1}, "patient": {}}
    add(site, "chest", patients(tmp_path / "a", 5), **units.pop(first))
    (second,) = units.values()
    with pytest.raises(SharedRecords, match="one unit, which has one budget"):
        add(site, "skin", patients(tmp_path / "b", 5, first=100), **second)


def test_whoever_left_a_data_set_begins_no_fresh_budget_in_another(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    renamed(tmp_path / "a", "patient-1", "patient-7")
    update_data_set(site, "chest")
    other = renamed(patients(tmp_path / "b", 5, first=100), "patient-101", "patient-1")
    with pytest.raises(SharedRecords, match="patient-1"):
        add(site, "skin", other)


def twice(folder: Path, old: int, new: int) -> None:
    shutil.copyfile(folder / "images" / f"scan-{old:04d}.png", folder / "images" / f"scan-{new:04d}.png")


def test_one_image_under_two_units_is_refused_and_both_names_are_said(site: SiteDir, tmp_path: Path) -> None:
    """Byte for byte; a link to it is found out too (`links.py`). It would have been two patients' and counted twice."""
    books, folder = BooksInMemory(), patients(tmp_path / "a", 5)
    twice(folder, 3, 6)
    with pytest.raises(DataError, match=r"line 8: images/scan-0006\.png and images/scan-0003\.png are one image"):
        add(site, "chest", folder, books)
    assert not written(site)
    assert not books.caps


def test_of_one_unit_it_may_stand_twice(site: SiteDir, tmp_path: Path) -> None:
    folder = patients(tmp_path / "a", 5)
    twice(folder, 2, 3)
    assert add(site, "chest", folder).units == 5
    twice(folder, 2, 5)
    with pytest.raises(DataError, match=r"images/scan-0005\.png and images/scan-0002\.png are one image"):
        update_data_set(site, "chest")


@pytest.mark.parametrize(("unit", "refused"), [("record", True), ("site", False)])
def test_where_images_are_units_each_stands_once(site: SiteDir, tmp_path: Path, unit: str, refused: bool) -> None:
    folder = patients(tmp_path / "a", 5)
    twice(folder, 2, 3)
    changes: dict[str, Any] = {"unit": unit, "unit_column": None, "publish": 10 if unit == "record" else 1}
    if refused:
        with pytest.raises(DataError, match="it would be counted twice"):
            add(site, "chest", folder, **changes)
    else:
        add(site, "chest", folder, **changes)


# --- update -----------------------------------------------------------------------------------------


def grow(folder: Path, first: int, patient: str) -> None:
    """One image more."""
    (name,) = write_images(folder, 1, first=first)
    with (folder / "metadata.csv").open("a", encoding="utf-8") as stream:
        stream.write(f"{name},{patient},clear\n")


def test_new_records_join_and_budget_and_figure_stay(site: SiteDir, tmp_path: Path) -> None:
    books, folder = BooksInMemory(), patients(tmp_path / "a", 5)
    add(site, "chest", folder, books)
    before = (site.folder / "datasets" / "chest.toml").read_bytes()
    grow(folder, 50, "patient-8")
    grow(folder, 51, "patient-0")
    found = update_data_set(site, "chest")
    assert (found.units, found.joined, found.gone, found.gone_files) == (6, 1, 0, 0)
    assert (site.folder / "datasets" / "chest.toml").read_bytes() == before
    assert list(books.caps) == ["chest"]
    again = update_data_set(site, "chest")
    assert (again.units, again.joined) == (6, 0)


def test_what_left_is_said_and_stays_known(site: SiteDir, tmp_path: Path) -> None:
    folder = patients(tmp_path / "a", 5)
    add(site, "chest", folder)
    lines = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()
    write_csv(
        folder / "metadata.csv", [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[3:]]
    )
    found = update_data_set(site, "chest")
    assert (found.units, found.joined, found.gone, found.gone_files) == (4, 0, 1, 2)
    index = read_index(site, data_set(site.folder, "chest"))
    assert (index.units, len(index.spelled)) == (4, 5)


def test_who_joins_is_compared_too(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    add(site, "skin", patients(tmp_path / "b", 5, first=100))
    grow(tmp_path / "b", 200, "Patient-02")
    before = (site.folder / "datasets" / "skin.index").read_bytes()
    with pytest.raises(SharedRecords, match="skin shares units with chest, Patient-02"):
        update_data_set(site, "skin")
    assert (site.folder / "datasets" / "skin.index").read_bytes() == before


def test_a_bad_image_that_joins_is_named(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    grow(tmp_path / "a", 50, "patient-8")
    (tmp_path / "a" / "images" / "scan-0050.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"scan-0050\.png cannot be read"):
        update_data_set(site, "chest")


def test_an_update_needs_a_data_set(site: SiteDir, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none yet; `undertone node data add`"):
        update_data_set(site, "chest")
    add(site, "chest", patients(tmp_path / "a", 5))
    with pytest.raises(InputError, match="no data set skin: there are chest"):
        update_data_set(site, "skin")


def test_a_folder_may_move(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    (tmp_path / "a").rename(tmp_path / "moved")
    path = site.folder / "datasets" / "chest.toml"
    path.write_text(path.read_text(encoding="utf-8").replace(str(tmp_path / "a"), str(tmp_path / "moved")))
    found = update_data_set(site, "chest")
    assert (found.units, found.joined, found.gone, found.gone_files) == (5, 0, 0, 0)


# --- for life ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('unit_column = "patient_id"', 'unit_column = "finding"'),
        ('unit = "patient"\n', 'unit = "record"\n'),
        ("ids_as_written = false", "ids_as_written = true"),
    ],
)
def test_unit_and_column_are_fixed_for_life(site: SiteDir, tmp_path: Path, old: str, new: str) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    path = site.folder / "datasets" / "chest.toml"
    text = path.read_text(encoding="utf-8").replace(old, new)
    if 'unit = "record"' in text:
        text = text.replace('unit_column = "patient_id"', "")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnitChanged, match=r"fixed for life; put it back"):
        update_data_set(site, "chest")


def test_a_data_set_is_described_once(site: SiteDir, tmp_path: Path) -> None:
    books, folder = BooksInMemory(), patients(tmp_path / "a", 5)
    add(site, "chest", folder, books)
    before = (site.folder / "datasets" / "chest.index").read_bytes()
    with pytest.raises(BudgetExceeded, match="has a cap already"):
        add(site, "chest", folder, books)
    for changes in ({"epsilon": 9.0}, {"unit": "record", "unit_column": None, "publish": 10}, {"publish": 6}):
        with pytest.raises(FolderError, match="never changed"):
            add(site, "chest", folder, books, **changes)
    other = patients(tmp_path / "b", 5, first=100)
    (other / "images" / "scan-0103.png").write_bytes(b"none")  # said before hours of decoding
    with pytest.raises(FolderError, match="never changed"):
        add(site, "chest", other, books)
    assert (site.folder / "datasets" / "chest.index").read_bytes() == before
    assert books.caps == {"chest": (8.0, 1e-6)}


def test_nobody_describes_another_over_it(site: SiteDir, tmp_path: Path) -> None:
    """Not even who does not come by `add`: the index would lose who was there."""
    add(site, "chest", patients(tmp_path / "a", 5))
    before = (site.folder / "datasets" / "chest.index").read_bytes()
    other = described("chest", patients(tmp_path / "b", 5, first=100))
    with pytest.raises(FolderError, match="never changed"):
        enrol.describe_data_set(site, other, enrol.read_table(site, other)[0])
    assert (site.folder / "datasets" / "chest.index").read_bytes() == before


def test_an_index_outlives_a_description_that_was_removed_by_hand(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    (site.folder / "datasets" / "chest.toml").unlink()
    add(site, "chest", patients(tmp_path / "b", 5, first=100))
    assert len(read_index(site, data_set(site.folder, "chest")).spelled) == 10


@pytest.mark.parametrize("dies", ["before the description", "before the cap"])
def test_what_died_in_between_goes_on_by_the_same_command(
    site: SiteDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    def death(*_: object) -> None:
        raise KeyboardInterrupt

    books, folder = BooksInMemory(), patients(tmp_path / "a", 5)
    where: Any = (enrol, "write_data_set") if dies == "before the description" else (books, "register_cap")
    with monkeypatch.context() as patch:
        patch.setattr(*where, death)
        with pytest.raises(KeyboardInterrupt):
            add(site, "chest", folder, books)
    assert not books.caps
    add(site, "chest", folder, books)
    assert books.caps == {"chest": (8.0, 1e-6)}
    assert len(read_index(site, data_set(site.folder, "chest")).spelled) == 5


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "another's", "another data set's"])
def test_a_damaged_index_is_found_out(site: SiteDir, tmp_path: Path, harm: str) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    add(site, "skin", patients(tmp_path / "b", 5, first=100))
    path = site.folder / "datasets" / "chest.index"
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[100] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-40])
    elif harm == "gone":
        path.unlink()
    elif harm == "another's":
        other = fresh_site(tmp_path / "other")
        add(other, "chest", tmp_path / "a")
        shutil.copyfile(other.folder / "datasets" / "chest.index", path)
    else:
        shutil.copyfile(site.folder / "datasets" / "skin.index", path)
    for work in (lambda: update_data_set(site, "chest"), lambda: update_data_set(site, "skin")):
        with pytest.raises(FolderError, match="restore it from your backup"):
            work()


def test_two_at_once_do_not_meet(site: SiteDir, tmp_path: Path) -> None:
    from undertone.core.durable import exclusively

    with exclusively(site.folder / "datasets"), pytest.raises(FolderError, match="another process is at work"):
        add(site, "chest", patients(tmp_path / "a", 5))


# --- withdrawn units --------------------------------------------------------------------------------


def test_a_withdrawn_patient_who_is_listed_again_stays_out(site: SiteDir, tmp_path: Path) -> None:
    folder = patients(tmp_path / "a", 5)
    add(site, "chest", folder)
    assert withdraw(site, data_set(site.folder, "chest"), "patient-1")
    renamed(folder, "patient-1", "Patient-01")
    (folder / "images" / "scan-0002.png").write_bytes(b"none")  # and is not read: it would be named
    found = update_data_set(site, "chest")
    assert (found.units, found.withdrawn, found.gone) == (4, 1, 1)
    assert "Patient-01" not in found.table.units()


def test_a_withdrawn_patient_is_not_taken_up_by_another_data_set(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    withdraw(site, data_set(site.folder, "chest"), "patient-1")
    update_data_set(site, "chest")
    other = renamed(patients(tmp_path / "b", 5, first=100), "patient-101", "patient-1")
    with pytest.raises(SharedRecords, match="patient-1"):
        add(site, "skin", other)


def test_where_all_withdrew_nothing_is_left(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 1), publish=1)
    withdraw(site, data_set(site.folder, "chest"), "patient-0")
    with pytest.raises(DataError, match="nothing is left to read"):
        update_data_set(site, "chest")


def test_tombstones_name_nobody_and_are_kept(site: SiteDir, tmp_path: Path) -> None:
    add(site, "chest", patients(tmp_path / "a", 5))
    chest = data_set(site.folder, "chest")
    assert withdraw(site, chest, "patient-1")
    assert withdraw(site, chest, "patient-2")
    assert not withdraw(site, chest, "PATIENT-1")
    path = site.folder / "datasets" / "withdrawn.jsonl"
    data = path.read_bytes()
    assert b"patient" not in data
    assert data.count(b'"data_set":"chest"') == 2
    path.write_bytes(data[: data.index(b"\n") + 1])
    with pytest.raises(FolderError, match="damaged"):
        update_data_set(site, "chest")


def test_a_path_that_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"folder = .* is not UTF-8 text"):
        new_data_set(name="chest", folder="a\udcff")


def test_add_data_set_needs_its_folder(site: SiteDir, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        add_data_set(site, described("chest", tmp_path / "none"), BooksInMemory())


@pytest.mark.parametrize("file", ["chest.toml", "chest.index"])
def test_a_data_set_whose_files_are_gone_lets_no_other_in(site: SiteDir, tmp_path: Path, file: str) -> None:
    """The ledger has its cap: without its files its patients would be taken for new ones, with a cap of their own."""
    folder = patients(tmp_path / "chest", 10)
    data = new_data_set(
        name="chest", folder=str(folder), unit="patient", unit_column="patient_id", publish=10, epsilon=2.0, delta=1e-5
    )
    add_data_set(site, data, budget)
    (site.folder / "datasets" / file).unlink()
    for name in ("again", "chest"):
        with pytest.raises(FolderError, match="could get a second budget"):
            add_data_set(site, data.model_copy(update={"name": name}), budget)
    assert not (site.folder / "datasets" / "again.toml").exists()
