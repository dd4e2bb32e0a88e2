"""registered/DIGEST.jsonl: the records of one plan as they were approved, sealed under the node's secret.

A head, then a line for each record. Only this node can have written it: who else could write there would else choose
whose images a plan reads.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from undertone.core.canonical import canonical_json
from undertone.core.durable import storage_errors, sync
from undertone.core.unit import Unit
from undertone.data.records import Record, RecordTable
from undertone.errors import DataSetMoved, FolderError, UnitChanged
from undertone.study.plan import Plan
from undertone_client.site.datasets import DataSet, data_set
from undertone_client.site.folder import SiteDir
from undertone_client.site.sealed import read_sealed, write_sealed

FOLDER = "registered"
_DOMAIN = b"undertone/1/registration\0"


@dataclass(frozen=True)
class Registration:
    """The records of one plan, and how the plan reads them.

    Attributes:
        plan_digest: of the plan.
        study: its name.
        data: the data set as its file says today, but for the two that follow.
        folder: of the images, as the data set had it when its records were registered or moved.
        metadata: likewise.
        ids_as_written: likewise, for life: tombstones are found by it.
        unit: what the plan protects.
        unit_column: the column that names it.
        caption: the plan's template.
        class_column: the column that names the class, or None.
        table: the records, below that folder.
    """

    plan_digest: str
    study: str
    data: DataSet
    folder: str
    metadata: str | None
    ids_as_written: bool
    unit: Unit
    unit_column: str | None
    caption: str
    class_column: str | None
    table: RecordTable

    @property
    def moved(self) -> bool:
        """Whether the data set's file names another folder or metadata file today."""
        return (self.data.folder, self.data.metadata) != (self.folder, self.metadata)

    def check_not_moved(self) -> None:
        """Insist that the data set is what was approved, and lies there: nobody has said that another place will do.

        Raises:
            DataSetMoved: its file names another folder or metadata file.
            UnitChanged: its file says otherwise than was fixed which ids are one person's.
        """
        if self.data.ids_as_written != self.ids_as_written:
            raise UnitChanged(
                f"datasets/{self.data.name}.toml says ids_as_written = {self.data.ids_as_written}, and was added with "
                f"{self.ids_as_written}: this is fixed for life; put it back"
            )
        if self.moved:
            raise DataSetMoved(
                f"datasets/{self.data.name}.toml names another folder or metadata file than plan "
                f"{self.plan_digest[:8]} was approved with; `undertone node data update` looks at it and moves the "
                "plan's records, or put the file back"
            )


def registration_of(site: SiteDir, plan: Plan) -> Registration | None:
    """What is registered for a plan, or None before that.

    Raises:
        FolderError: the registration is damaged.
    """
    path = path_of(site, plan.digest)
    return _read(site, path) if path.exists() else None


def registered(site: SiteDir, plan: Plan) -> RecordTable | None:
    """The records as they were registered, or None before that.

    Raises:
        FolderError: the registration is damaged.
    """
    found = registration_of(site, plan)
    return None if found is None else found.table


def registrations(site: SiteDir) -> list[Registration]:
    """All that is registered at a site.

    Raises:
        FolderError: a registration is damaged.
    """
    return [_read(site, path) for path in sorted((site.folder / FOLDER).glob("*.jsonl"))]


def path_of(site: SiteDir, digest: str) -> Path:
    """Where the registration of a plan lies."""
    return site.folder / FOLDER / f"{digest}.jsonl"


def write_registration(site: SiteDir, registration: Registration) -> None:
    """Seal a registration in its place.

    Raises:
        FolderError: it cannot be written.
    """
    with storage_errors(site.folder):
        (site.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        sync(site.folder)
    write_sealed(path_of(site, registration.plan_digest), site.secret(), _DOMAIN, _as_bytes(registration))


def rewrite(site: SiteDir, registration: Registration, table: RecordTable) -> None:
    """Put other words in the place of a registration's: files, units and their order stay, and so do cached latents."""
    write_registration(site, replace(registration, table=table))


def _read(site: SiteDir, path: Path) -> Registration:
    head, *lines = read_sealed(path, site.secret(), _DOMAIN).splitlines()
    values = json.loads(head)
    if values["plan"] != path.stem:  # another's would read another data set
        raise FolderError(f"{path} is the registration of plan {values['plan'][:8]}; restore it from your backup")
    data = data_set(site.folder, values["data_set"])
    # The place and the file that were registered, whatever data set or folder say today (PRIVACY 17).
    root, metadata = data.model_copy(update={key: values[key] for key in ("folder", "metadata")}).places(site.folder)
    source = metadata or root / values["source"] if values["source"] else None
    return Registration(
        plan_digest=values["plan"],
        study=values["study"],
        data=data,
        folder=values["folder"],
        metadata=values["metadata"],
        ids_as_written=values["ids_as_written"],
        unit=values["unit"],
        unit_column=values["unit_column"],
        caption=values["caption"],
        class_column=values["class_column"],
        table=_table(root, b"\n".join(lines), source),
    )


def _as_bytes(registration: Registration) -> bytes:
    table = registration.table
    head = canonical_json(
        {
            "plan": registration.plan_digest,
            "study": registration.study,
            "data_set": registration.data.name,
            "folder": registration.folder,
            "metadata": registration.metadata,
            "ids_as_written": registration.ids_as_written,
            "source": table.source.name if table.source else "",
            "unit": registration.unit,
            "unit_column": registration.unit_column,
            "caption": registration.caption,
            "class_column": registration.class_column,
        }
    )
    lines = [
        canonical_json([record.file, record.unit, record.columns, *record.lines, record.target, record.sha256])
        for record in table.records
    ]
    return b"\n".join([head, *lines]) + b"\n"


@lru_cache(maxsize=32)
def _table(root: Path, lines: bytes, source: Path | None) -> RecordTable:
    """The records of a registration, whose seal was checked: they are read in every round, and hardly ever change."""
    return RecordTable(root, tuple(_record(json.loads(line)) for line in lines.splitlines()), source)


def _record(values: tuple[str, str, dict[str, str], int, int, str, str]) -> Record:
    file, unit, columns, first, last, target, sha256 = values
    return Record(file, unit, columns, (first, last), target, sha256)
