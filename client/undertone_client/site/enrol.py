"""Data sets enter a site, and grow: what was found is checked, indexed and given its budget (PRIVACY 6, 13, 17).

Everything here happens before a plan is approved, so it may name files and ids, to the operator alone.
"""

from dataclasses import dataclass
from typing import Protocol

from undertone.core.durable import exclusively
from undertone.core.progress import reporter
from undertone.data.identical import with_digests
from undertone.data.records import RecordTable, bad_images, read_records, refuse
from undertone.errors import DataError, FolderError
from undertone.privacy.ledger import Ledger
from undertone_client.site.accounts import Accounts
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.datasets import FOLDER, DataSet, data_set, data_sets, write_data_set
from undertone_client.site.folder import SiteDir
from undertone_client.site.overlap import refuse_overlap
from undertone_client.site.published import check_near, check_round
from undertone_client.site.tombstones import withdrawn_from
from undertone_client.site.unit_index import EMPTY, UnitIndex, fingerprints, index_of, path_of, read_index, write_index

# Decoding costs the same whatever size comes out of it.
_SIZE = 32


class Caps(Protocol):
    """The part of the site's budget that a new data set needs."""

    def register_cap(self, ledger: Ledger, data: DataSet) -> None:
        """Enter a data set with its cap, durably; refuses a second one of its name."""


@dataclass(frozen=True)
class Found:
    """What a data set holds now, for the operator alone.

    Attributes:
        table: its records, without those of withdrawn units.
        joined: units that it never had before.
        gone: units that it had once and that are not listed now; withdrawn ones are among them.
        gone_files: files that it had once, as they were, and has no more.
        withdrawn: units that the metadata still list and that stay out.
    """

    table: RecordTable
    joined: int
    gone: int
    gone_files: int
    withdrawn: int

    @property
    def units(self) -> int:
        """How many units there are now."""
        return len(self.table.units())


def add_data_set(site: SiteDir, data: DataSet, books: Caps) -> Found:
    """Read the metadata strictly, decode every image once, refuse overlap, and enter the data set with its cap.

    One that is described already, and has no cap in the ledger, gets it: a process died, or the ledger was restored.

    Raises:
        InputError: the published figure is not round, or far from the count.
        DataError: what is wrong with which record; nothing was written.
        SharedRecords: another data set of this site has some of the units or files.
        FolderError: there is a data set of that name.
    """
    check_round(data.publish)
    with exclusively(site.folder / FOLDER):
        _refuse_lost(site)
        again = _refuse_other(site, data)
        table, withdrawn = read_table(site, data)
        if not again:
            check_near(data.publish, len(table.units()))
        check_images(site, table)
        enrol(site, data, table, books)
    return Found(table, len(table.units()), 0, 0, withdrawn)


def enrol(site: SiteDir, data: DataSet, table: RecordTable, books: Caps) -> None:
    """Give a budget to a data set whose records were found good.

    Raises:
        SharedRecords: another data set of this site has some of the units or files.
        FolderError: there is another data set of that name.
    """
    describe_data_set(site, data, table)
    AuditLog(site.folder).append(
        "data set added",
        data_set=data.name,
        unit=data.unit,
        published=data.publish,
        epsilon=data.epsilon,
        delta=data.delta,
    )
    with Ledger.open(site.ledger) as ledger:
        books.register_cap(ledger, data)


def describe_data_set(site: SiteDir, data: DataSet, table: RecordTable) -> None:
    """Index and describe a data set; its cap must follow.

    The index is durable first and the cap last. So whatever dies in between leaves no data set whose units are not
    known, and none with two budgets, and the same command goes on. Raises as `enrol`.
    """
    there = _refuse_other(site, data)
    _grow(site, data, table, index_of(site, data) or EMPTY)
    if not there:
        write_data_set(site.folder, data)


def update_data_set(site: SiteDir, name: str) -> Found:
    """Let new records join a data set: later plans register them; the budget, and what was published, stay.

    Raises:
        InputError: there is no such data set.
        DataError: what is wrong with which record; nothing was changed.
        SharedRecords: another data set of this site has some of the units or files.
        UnitChanged: its file says another unit than it was added with.
    """
    data = data_set(site.folder, name)
    with exclusively(site.folder / FOLDER):
        _refuse_lost(site)
        index = read_index(site, data)
        table, withdrawn = read_table(site, data)
        check_images(site, table)
        AuditLog(site.folder).append("data set updated", data_set=name)
        grown, files = _grow(site, data, table, index)
    units = len(table.units())
    joined, gone = len(grown.spelled) - len(index.spelled), len(grown.spelled) - units
    return Found(table, joined, gone, len(grown.files) - files, withdrawn)


def read_table(site: SiteDir, data: DataSet) -> tuple[RecordTable, int]:
    """A data set's records without those of withdrawn units, and how many such units the metadata list.

    Raises:
        DataError: what is wrong with which line.
    """
    root, metadata = data.places(site.folder)
    table = read_records(root, data.unit, data.unit_column, "", metadata, data.ids_as_written)
    gone = withdrawn_from(site, data)
    out = {unit for unit in table.units() if gone(unit)}
    kept = table.where(lambda record: record.unit not in out) if out else table
    if not kept.records:
        raise DataError(f"all units that {table.source or root} lists were withdrawn; nothing is left to read")
    return kept, len(out)


def check_images(site: SiteDir, table: RecordTable) -> None:
    """Decode every image once.

    Raises:
        DataError: names those that cannot be read.
    """
    with reporter().task(f"{site.config.site}: checking images", len(table.records)) as progress:
        refuse(list(bad_images(table, _SIZE, progress)))


def _refuse_lost(site: SiteDir) -> None:
    """Insist that each data set of the ledger has its files: without them its units could enter another, with its cap.

    Raises:
        FolderError: names the first that lacks its description or its index.
    """
    with Ledger.open(site.ledger, read_only=True) as ledger:
        registered = Accounts.read(ledger.entries()).data_sets
    there = data_sets(site.folder)
    lost = [name for name in sorted(registered) if name not in there or not path_of(site, name).exists()]
    if lost:
        raise FolderError(
            f"the ledger has the data set {lost[0]}, and {site.folder / FOLDER} lacks its files: nobody would know its "
            "units, and they could get a second budget. Restore the folder from your backup"
        )


def _refuse_other(site: SiteDir, data: DataSet) -> bool:
    """Whether this very data set is described already; another one of its name is refused."""
    known = data_sets(site.folder).get(data.name)
    if known is not None and known != data:
        raise FolderError(
            f"{site.folder} has a data set {data.name} already, and its unit and cap are never changed. For new "
            "records say `undertone node data update`; other images are another data set, with a name of its own"
        )
    return known is not None


def _grow(site: SiteDir, data: DataSet, table: RecordTable, index: UnitIndex) -> tuple[UnitIndex, int]:
    """Refuse overlap, then seal the index with what was found; the index, and how many different files there are."""
    with reporter().task(f"{site.config.site}: comparing files", len(table.records)) as progress:
        found = fingerprints(with_digests(table, progress), site.secret())
    refuse_overlap(site, data, found)
    grown = index.with_more(found, table)
    write_index(site, data, grown)
    return grown, len(found.files)
