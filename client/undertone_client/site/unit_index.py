"""datasets/NAME.index: which units and files a data set has, and ever had, so that no other counts them again.

Each stands there as a MAC under the node's secret: whoever reads the file learns no id. The file only grows, and the
ledger names its newest version; a unit that left the folder has spent from this data set's budget and may not begin
with a fresh one elsewhere (PRIVACY 13).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from undertone.core.canonical import Json, canonical_json
from undertone.core.durable import storage_errors
from undertone.data.records import Record, RecordTable
from undertone.data.unit_ids import folded
from undertone.errors import FolderError, UnitChanged
from undertone_client.site.datasets import FOLDER, DataSet
from undertone_client.site.folder import SiteDir
from undertone_client.site.newest import read_newest, write_newest
from undertone_client.site.sealed import mac

_DOMAIN = b"undertone/1/unit index\0"
_UNIT, _ALIKE, _FILE, _LISTED = b"unit", b"alike", b"file", b"listed"
_MAC_BYTES = 32
Macs = frozenset[bytes]


@dataclass(frozen=True)
class Fingerprints:
    """MAC -> what it stands for, for the operator's eyes.

    Attributes:
        spelled: ids as they are written.
        alike: ids whose spellings are one.
        files: bytes of files.
        listed: names of files, each with its unit's id and its bytes.
    """

    spelled: dict[bytes, str]
    alike: dict[bytes, str]
    files: dict[bytes, str]
    listed: dict[bytes, str]


@dataclass(frozen=True)
class UnitIndex:
    """MACs of all that a data set has ever had, and how many units and records it has now."""

    spelled: Macs
    alike: Macs
    files: Macs
    listed: Macs
    units: int
    records: int

    def with_more(self, found: Fingerprints, table: RecordTable) -> "UnitIndex":
        """The index after `table` was read."""
        return UnitIndex(
            self.spelled | found.spelled.keys(),
            self.alike | found.alike.keys(),
            self.files | found.files.keys(),
            self.listed | found.listed.keys(),
            len(table.units()),
            len(table.records),
        )


EMPTY = UnitIndex(frozenset(), frozenset(), frozenset(), frozenset(), 0, 0)


def fingerprints(table: RecordTable, secret: bytes) -> Fingerprints:
    """The fingerprints of a table whose files have digests."""
    found = Fingerprints({}, {}, {}, {})
    for unit in table.units():
        found.spelled[spelled_mac(secret, unit)] = unit
        found.alike[mac(secret, _DOMAIN, _ALIKE, _bytes(folded(unit)))] = unit
    for record in table.records:
        found.listed[listed_mac(secret, record)] = record.file
        found.files.setdefault(mac(secret, _DOMAIN, _FILE, bytes.fromhex(record.sha256)), record.file)
    return found


def spelled_mac(secret: bytes, unit: str) -> bytes:
    """The MAC under which an id stands in an index as it is written."""
    return mac(secret, _DOMAIN, _UNIT, _bytes(unit))


def listed_mac(secret: bytes, record: Record) -> bytes:
    """The MAC under which a record stands in an index: its file's name, its unit and its file's bytes."""
    return mac(secret, _DOMAIN, _LISTED, _bytes(record.file), _bytes(record.unit), bytes.fromhex(record.sha256))


def holds(index: UnitIndex, data: DataSet, secret: bytes, unit: str) -> bool:
    """Whether a data set has, or had, a unit of this id, written in any way that it takes for one."""
    if data.unit == "patient" and not data.ids_as_written:
        return mac(secret, _DOMAIN, _ALIKE, _bytes(folded(unit))) in index.alike
    return spelled_mac(secret, unit) in index.spelled


def write_index(site: SiteDir, data: DataSet, index: UnitIndex) -> None:
    """Seal a data set's index in its place.

    Raises:
        FolderError: it cannot be written.
    """
    parts = [sorted(macs) for macs in (index.spelled, index.alike, index.files, index.listed)]
    ever: list[Json] = [len(part) for part in parts]
    head = _fixed(data) | {"now": [index.units, index.records], "ever": ever}
    with storage_errors(site.folder):
        path_of(site, data.name).parent.mkdir(mode=0o700, exist_ok=True)
    body = canonical_json(head) + b"\n" + b"".join(one for part in parts for one in part)
    write_newest(site, path_of(site, data.name), domain_of(data.name), body)


def read_index(site: SiteDir, data: DataSet) -> UnitIndex:
    """A data set's index.

    Raises:
        FolderError: it is missing, damaged, or of another data set or node.
        OlderCopy: it is not the one that the ledger names.
        UnitChanged: the data set's file says another unit than was fixed when it was added.
    """
    index = index_of(site, data)
    if index is None:
        raise FolderError(f"{path_of(site, data.name)} is missing; restore it from your backup")
    return index


def index_of(site: SiteDir, data: DataSet) -> UnitIndex | None:
    """A data set's index, or None where it never had one; raises as `read_index`."""
    body = read_newest(site, path_of(site, data.name), domain_of(data.name))
    if body is None:
        return None
    line, _, macs = body.partition(b"\n")
    head = json.loads(line)
    fixed = _fixed(data)
    if any(head[key] != value for key, value in fixed.items()):
        raise UnitChanged(
            f"{FOLDER}/{data.name}.toml says {_words(fixed)}, and was added with {_words(head)}: this is fixed for "
            "life; put it back"
        )
    parts, start = [], 0
    for count in head["ever"]:
        parts.append(
            frozenset(
                macs[place : place + _MAC_BYTES] for place in range(start, start + count * _MAC_BYTES, _MAC_BYTES)
            )
        )
        start += count * _MAC_BYTES
    spelled, alike, files, listed = parts
    return UnitIndex(spelled, alike, files, listed, *head["now"])


def path_of(site: SiteDir, name: str) -> Path:
    """Where a data set's index lies."""
    return site.folder / FOLDER / f"{name}.index"


def first_names(found: dict[bytes, str], macs: Iterable[bytes], most: int) -> list[str]:
    """The names, in order, of at most `most` of the MACs."""
    return sorted(found[one] for one in macs)[:most]


def _fixed(data: DataSet) -> dict[str, Json]:
    return {"unit": data.unit, "unit_column": data.unit_column, "ids_as_written": data.ids_as_written}


def _words(fixed: dict[str, Json]) -> str:
    return ", ".join(f"{key} = {fixed[key]}" for key in ("unit", "unit_column", "ids_as_written"))


def domain_of(name: str) -> bytes:
    """Under which a data set's index is sealed."""
    return _DOMAIN + name.encode() + b"\0"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
