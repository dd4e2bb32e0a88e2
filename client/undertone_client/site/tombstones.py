"""datasets/withdrawn.jsonl: the units that are never read again.

Each line names a data set, and a unit by a MAC under the node's secret: who withdrew is not kept in clear. The file is
sealed, the ledger names its newest version, it only grows, and it is asked whenever records are read, so metadata that
list a unit again bring nothing back.
"""

import json
from collections.abc import Callable
from pathlib import Path

from undertone.core.canonical import canonical_json
from undertone_client.site.datasets import FOLDER, DataSet
from undertone_client.site.folder import SiteDir
from undertone_client.site.newest import adopt, beside, read_newest, write_newest
from undertone_client.site.sealed import mac

DOMAIN = b"undertone/1/withdrawn\0"


def withdraw(site: SiteDir, data: DataSet, unit: str) -> bool:
    """Put up a unit's tombstone, durably; False where it stood before.

    Raises:
        FolderError: the file is damaged, gone, or cannot be written.
        OlderCopy: it is not the one that the ledger names.
    """
    standing, line = _lines(site), _line(site.secret(), data, unit)
    if line in _entered(site):
        return False
    _write(site, standing if line in standing else [*standing, line])
    return True


def adopt_tombstones(site: SiteDir) -> bool:
    """`newest.adopt`, for the tombstones of both versions that may be there; whether that was news to the ledger."""
    waiting = _beside(site)
    news = adopt(site, path_of(site), DOMAIN)
    entered = _entered(site)
    missing = [line for line in waiting if line not in entered]
    if missing:
        _write(site, [*entered, *missing])
    return news or bool(missing)


def withdrawn_from(site: SiteDir, data: DataSet) -> Callable[[str], bool]:
    """Tells of a unit of a data set, by its id, whether it was withdrawn.

    Raises:
        FolderError: the file is damaged or gone.
        OlderCopy: it is not the one that the ledger names.
    """
    secret = site.secret()
    standing = frozenset(line for line in _lines(site) if json.loads(line)["data_set"] == data.name)
    return lambda unit: bool(standing) and _line(secret, data, unit) in standing


def _line(secret: bytes, data: DataSet, unit: str) -> bytes:
    named = mac(secret, DOMAIN, data.name.encode(), data.same(unit).encode("utf-8", "surrogatepass"))
    return canonical_json({"data_set": data.name, "unit": named.hex()})


def _lines(site: SiteDir) -> list[bytes]:
    """All that stand, those not entered in the ledger last: whoever is to leave has left when that is durable.

    The ones beside are read first: where they take their place in between, the ledger names them by then.
    """
    waiting = _beside(site)
    entered = _entered(site)
    return [*entered, *(line for line in waiting if line not in entered)]


def _entered(site: SiteDir) -> list[bytes]:
    return (read_newest(site, path_of(site), DOMAIN) or b"").splitlines()


def _beside(site: SiteDir) -> list[bytes]:
    return (beside(site, path_of(site), DOMAIN) or b"").splitlines()


def _write(site: SiteDir, lines: list[bytes]) -> None:
    write_newest(site, path_of(site), DOMAIN, b"".join(line + b"\n" for line in lines))


def path_of(site: SiteDir) -> Path:
    """Where the tombstones lie."""
    return site.folder / FOLDER / "withdrawn.jsonl"
