"""Who holds what in a simulation: no unit is cut in two, and the same units are held out every time."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_folder
from tests.support.studies import study_with
from undertone.errors import DataError
from undertone.study import parse_study
from undertone_cli.split import split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", 60, sites=("north", "east", "south"), per_patient=3)
    return tmp_path / "data"


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


def test_a_unit_at_two_sites_is_refused_without_its_name(data: Path) -> None:
    path = data / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("north", "west", 1), encoding="utf-8")
    with pytest.raises(DataError, match="one unit has images at west and at north") as caught:
        shares(data)
    assert "patient-" not in str(caught.value)


def test_one_record_units_may_share_nothing_and_sites_are_units(data: Path) -> None:
    records = shares(data, privacy__unit="record", data__unit_column=None)
    assert sum(len(share.training.units()) for share in records.values()) == 60
    whole = shares(data, privacy__unit="site", data__unit_column=None)
    assert [len(share.training.units()) for share in whole.values()] == [1, 1, 1]
