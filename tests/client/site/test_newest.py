"""Older copies of an index and of the tombstones are not believed, and no death leaves a site without them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.books import add, described, fresh_site, patients
from tests.support.failpoints import Killed, at, kill_after
from tests.support.images import write_images
from tests.support.world import World, data_of
from undertone.errors import FolderError, LedgerUnavailable, OlderCopy, SharedRecords
from undertone.privacy.ledger import Ledger
from undertone_client.compute.erasing import withdraw_unit
from undertone_client.registration.registered import register
from undertone_client.site import budget, newest
from undertone_client.site.adopting import adopt_files
from undertone_client.site.datasets import data_set
from undertone_client.site.enrol import add_data_set, update_data_set
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdraw, withdrawn_from
from undertone_client.site.unit_index import read_index

Make = Callable[..., World]


@pytest.fixture
def site(tmp_path: Path) -> SiteDir:
    found = fresh_site(tmp_path / "site")
    add(found, "chest", patients(tmp_path / "a", 5))
    return found


def join(folder: Path, number: int, patient: str) -> None:
    (name,) = write_images(folder, 1, first=number)
    with (folder / "metadata.csv").open("a", encoding="utf-8") as stream:
        stream.write(f"{name},{patient},clear\n")


def withdrawn(site: SiteDir) -> set[str]:
    gone = withdrawn_from(site, data_set(site.folder, "chest"))
    return {patient for patient in ("patient-1", "patient-2") if gone(patient)}


def tombstones(site: SiteDir) -> Path:
    return site.folder / "datasets" / "withdrawn.jsonl"


def test_an_older_index_is_refused_wherever_it_is_read(site: SiteDir, tmp_path: Path) -> None:
    """It would not know who joined last: they could enter another data set, with a budget of its own."""
    index = site.folder / "datasets" / "chest.index"
    before = index.read_bytes()
    join(tmp_path / "a", 50, "patient-8")
    update_data_set(site, "chest")
    index.write_bytes(before)
    other = patients(tmp_path / "b", 5, first=100)
    text = (other / "metadata.csv").read_text(encoding="utf-8")
    (other / "metadata.csv").write_text(text.replace("patient-101", "patient-8"), encoding="utf-8")
    for work in (lambda: update_data_set(site, "chest"), lambda: add(site, "skin", other)):
        with pytest.raises(OlderCopy, match=r"chest\.index is not the version that the ledger entered last"):
            work()


def test_older_tombstones_bring_nobody_back(make_world: Make) -> None:
    world = make_world(rounds=2, max_attempts=2)
    site = SiteDir(world.sites["north"])
    withdraw_unit(site, "data", "patient-1")
    before = tombstones(site).read_bytes()
    withdraw_unit(site, "data", "patient-2")
    tombstones(site).write_bytes(before)
    assert world.ask("prepare").error == "SiteFault"
    assert "OlderCopy" in world.log()
    tombstones(site).unlink()
    assert world.ask("prepare").error == "SiteFault"
    assert "is missing, and the ledger names it" in world.log()
    assert not world.rows()
    (site.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    with pytest.raises(FolderError, match=r"withdrawn\.jsonl is missing, and the ledger names it; restore it"):
        register(site, world.plan, data_of(site))


def test_tombstones_that_the_ledger_does_not_know_are_an_older_ledgers(site: SiteDir, tmp_path: Path) -> None:
    with Ledger.open(site.ledger, read_only=True) as ledger:
        ledger.copy_to(tmp_path / "backup.sqlite")
    withdraw(site, data_set(site.folder, "chest"), "patient-1")
    shutil.copyfile(tmp_path / "backup.sqlite", site.ledger)
    with pytest.raises(OlderCopy, match="one of the two is an older copy"):
        withdrawn(site)


DEATHS = ["durable/written", "durable/synced", "durable/renamed", "ledger/before commit", "entered", "placed"]
ENTERED = DEATHS[-2:]
DURABLE = DEATHS[2:]  # the version is there, beside the file or in its place


def die(patch: pytest.MonkeyPatch, death: str, work: Callable[[], object]) -> None:
    """Let `work` die at one moment of the first version that it writes."""
    with patch.context() as patched:
        if death == "entered":
            kill_after(patched, newest, "_enter")
        elif death == "placed":
            kill_after(patched, newest, "_take_place")
        with at(death if "/" in death else ""), pytest.raises(Killed):
            work()


@pytest.mark.parametrize("death", DEATHS)
def test_whoever_dies_while_writing_tombstones_loses_none(
    site: SiteDir, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    chest = data_set(site.folder, "chest")
    assert withdrawn(site) == set()
    die(monkeypatch, death, lambda: withdraw(site, chest, "patient-1"))
    assert withdrawn(site) == ({"patient-1"} if death in DURABLE else set())
    assert withdraw(site, chest, "patient-1") == (death not in ENTERED)
    assert withdrawn(site) == {"patient-1"}
    die(monkeypatch, death, lambda: withdraw(site, chest, "patient-2"))
    assert withdrawn(site) == ({"patient-1", "patient-2"} if death in DURABLE else {"patient-1"})
    withdraw(site, chest, "patient-2")
    assert withdrawn(site) == {"patient-1", "patient-2"}


@pytest.mark.parametrize("first", DEATHS)
@pytest.mark.parametrize("second", DEATHS)
def test_one_death_after_another_loses_no_version_that_was_entered(
    site: SiteDir, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    chest = data_set(site.folder, "chest")
    die(monkeypatch, first, lambda: withdraw(site, chest, "patient-1"))
    die(monkeypatch, second, lambda: withdraw(site, chest, "patient-2"))
    there = {"patient-1"} if first in DURABLE else set()
    # Where the first one did not take its place, the second dies when that is done for it.
    if second in DURABLE and (first, second) != ("entered", "placed"):
        there.add("patient-2")
    assert withdrawn(site) == there


@pytest.mark.parametrize("death", DEATHS)
def test_whoever_dies_while_writing_an_index_goes_on_by_the_same_command(
    site: SiteDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    join(tmp_path / "a", 50, "patient-8")
    die(monkeypatch, death, lambda: update_data_set(site, "chest"))
    assert read_index(site, data_set(site.folder, "chest")).units == (6 if death in ENTERED else 5)
    assert update_data_set(site, "chest").units == 6
    assert read_index(site, data_set(site.folder, "chest")).units == 6
    assert sorted(path.name for path in (site.folder / "datasets").iterdir()) == ["chest.index", "chest.toml"]


@pytest.mark.parametrize("death", DEATHS)
def test_so_it_does_with_the_first_index_of_a_data_set(
    site: SiteDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    other = patients(tmp_path / "b", 5, first=100)
    die(monkeypatch, death, lambda: add(site, "skin", other))
    add(site, "skin", other)
    assert read_index(site, data_set(site.folder, "skin")).units == 5
    with pytest.raises(SharedRecords):
        add(site, "again", other)


def test_a_ledger_that_cannot_be_written_leaves_what_was_there(site: SiteDir, tmp_path: Path) -> None:
    join(tmp_path / "a", 50, "patient-8")
    site.ledger.rename(tmp_path / "away")
    with pytest.raises(LedgerUnavailable):
        withdraw(site, data_set(site.folder, "chest"), "patient-1")
    (tmp_path / "away").rename(site.ledger)
    assert withdrawn(site) == set()


def test_whoever_reads_while_another_writes_gets_one_of_the_two(site: SiteDir, monkeypatch: pytest.MonkeyPatch) -> None:
    chest, read, once = data_set(site.folder, "chest"), newest._read, [True]
    withdraw(site, chest, "patient-1")

    def while_another_writes(path: Path, wanted: str) -> bytes | None:
        if once and path == tombstones(site):
            once.clear()
            withdraw(site, chest, "patient-2")
        return read(path, wanted)

    monkeypatch.setattr(newest, "_read", while_another_writes)
    assert withdrawn(site) == {"patient-1", "patient-2"}


def test_nothing_new_is_no_entry(site: SiteDir) -> None:
    with Ledger.open(site.ledger, read_only=True) as ledger:
        before = len(ledger.entries())
        update_data_set(site, "chest")
        update_data_set(site, "chest")
        assert len(ledger.entries()) == before


def test_the_coordinator_does_not_see_the_ledger_grow_by_a_withdrawal(make_world: Make) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    before = world.ask("prepare").ledger_head
    with Ledger.open(site.ledger, read_only=True) as ledger:
        entries = len(ledger.entries())
    withdraw_unit(site, "data", "patient-1")
    with Ledger.open(site.ledger, read_only=True) as ledger:
        assert len(ledger.entries()) == entries + 1
    assert world.ask("prepare").ledger_head == before != ""
    assert world.ask("plain_input").ledger_head not in ("", before)


# --- after a restore ----------------------------------------------------------------------------------


def test_what_is_left_may_be_said_to_be_the_newest(site: SiteDir, tmp_path: Path) -> None:
    chest, index = data_set(site.folder, "chest"), site.folder / "datasets" / "chest.index"
    withdraw(site, chest, "patient-1")
    before = index.read_bytes(), tombstones(site).read_bytes()
    withdraw(site, chest, "patient-2")
    join(tmp_path / "a", 50, "patient-8")
    update_data_set(site, "chest")
    assert adopt_files(site) == []
    index.write_bytes(before[0])
    tombstones(site).write_bytes(before[1])
    assert adopt_files(site) == ["chest.index", "withdrawn.jsonl"]
    assert withdrawn(site) == {"patient-1"}
    assert update_data_set(site, "chest").joined == 1
    tombstones(site).unlink()
    assert adopt_files(site) == ["withdrawn.jsonl"]
    assert withdrawn(site) == set()
    withdraw(site, chest, "patient-1")
    tombstones(site).write_bytes(tombstones(site).read_bytes()[:-3])
    with pytest.raises(FolderError, match="damaged"):
        adopt_files(site)


def test_a_version_that_was_entered_and_did_not_take_its_place_is_the_newest_there(
    site: SiteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(monkeypatch, "entered", lambda: withdraw(site, data_set(site.folder, "chest"), "patient-1"))
    assert adopt_files(site) == []
    assert withdrawn(site) == {"patient-1"}


@pytest.mark.parametrize("adopts", [True, False])
def test_a_version_that_did_not_take_its_place_outlasts_a_ledger_that_was_put_back(
    site: SiteDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adopts: bool
) -> None:
    chest, both = data_set(site.folder, "chest"), {"patient-1", "patient-2"}
    withdraw(site, chest, "patient-1")
    join(tmp_path / "a", 50, "patient-8")
    with Ledger.open(site.ledger, read_only=True) as ledger:
        ledger.copy_to(tmp_path / "backup.sqlite")
    die(monkeypatch, "entered", lambda: withdraw(site, chest, "patient-2"))
    die(monkeypatch, "entered", lambda: update_data_set(site, "chest"))
    assert withdrawn(site) == both
    grown = read_index(site, chest)
    shutil.copyfile(tmp_path / "backup.sqlite", site.ledger)
    assert withdrawn(site) == both
    assert read_index(site, chest).spelled < grown.spelled, "as after a death before the entry"
    if adopts:
        assert adopt_files(site) == ["chest.index", "withdrawn.jsonl"]
        assert adopt_files(site) == []
        assert withdrawn(site) == both
        assert read_index(site, chest) == grown
    assert withdraw(site, chest, "patient-3")
    assert withdrawn(site) == both
    assert not tombstones(site).with_name("withdrawn.jsonl.next").exists()


def test_tombstones_of_both_versions_are_adopted(
    site: SiteDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One beside, of an older time and put back with the folder, need not have all that the other has."""
    chest, other = data_set(site.folder, "chest"), tmp_path / "beside"
    die(monkeypatch, "ledger/before commit", lambda: withdraw(site, chest, "patient-1"))
    beside = tombstones(site).with_name("withdrawn.jsonl.next")
    beside.rename(other)
    withdraw(site, chest, "patient-2")
    other.rename(beside)
    assert adopt_files(site) == ["withdrawn.jsonl"]
    assert not beside.exists()
    assert withdrawn(site) == {"patient-1", "patient-2"}


def test_a_data_set_that_was_added_since_the_backup_is_added_once_more(site: SiteDir, tmp_path: Path) -> None:
    """The ledger that was put back lacks it; its files stay, so its patients stay known, and it gets its cap again."""
    folder = patients(tmp_path / "b", 5, first=100)
    skin = described("skin", folder)
    with Ledger.open(site.ledger, read_only=True) as ledger:
        ledger.copy_to(tmp_path / "backup.sqlite")
    add_data_set(site, skin, budget)
    for number in range(8):  # it grows: what was published once is not held against the count again
        join(folder, 200 + number, f"patient-{200 + number}")
    update_data_set(site, "skin")
    before = read_index(site, skin)
    withdraw(site, skin, "patient-101")
    shutil.copyfile(tmp_path / "backup.sqlite", site.ledger)
    with pytest.raises(OlderCopy):
        add_data_set(site, skin, budget)
    assert adopt_files(site) == ["skin.index", "withdrawn.jsonl"]
    assert "patient-101" not in add_data_set(site, skin, budget).table.units()
    after = read_index(site, skin)
    assert (after.spelled, after.files) == (before.spelled, before.files)
    with Ledger.open(site.ledger, read_only=True) as ledger:
        assert [one.name for one in budget.Budget.of_all(ledger)] == ["skin"]
