"""Sealed files whose newest version the site's ledger names: an older copy, or none, is not believed (PRIVACY 13).

Each new version appends an entry "file" {name, sha256}. The new version is durable beside the file, as NAME.next,
before the ledger names it, and takes the file's place afterwards. So whenever a process dies, the version that the
ledger names is there, in its place or beside it, and whoever reads takes that one. A version that was not entered yet
is no version: what it held is done again by the same command. A ledger that was put back knows as little of one that
was entered: nobody can tell the two apart, so `adopt` takes the one beside where it holds more, and the tombstones
count from the moment they are durable (`beside`).
"""

from pathlib import Path

from undertone.core.canonical import sha256_hex
from undertone.core.durable import storage_errors, sync, write_durable
from undertone.errors import FolderError, OlderCopy
from undertone.privacy.ledger import Ledger
from undertone_client.site.folder import SiteDir
from undertone_client.site.sealed import opened, sealed

FILE = "file"
_GONE = ""


def write_newest(site: SiteDir, path: Path, domain: bytes, body: bytes) -> None:
    """Seal `body` in the place of what was there, durably, and enter it in the ledger.

    Raises:
        FolderError: the disk is full or the folder cannot be written; what was there stays.
        LedgerUnavailable, LedgerCorrupt: likewise.
    """
    data = sealed(site.secret(), domain, body)
    before, now = _newest(site, path), sha256_hex(data)
    if _read(_beside(path), before) is not None:  # a process died before it took its place
        _take_place(path)
    if now == before and _read(path, now) is not None:
        return
    write_durable(_beside(path), data)
    _enter(site, path, now)
    _take_place(path)


def read_newest(site: SiteDir, path: Path, domain: bytes) -> bytes | None:
    """What `write_newest` wrote last under this domain; None where it never wrote.

    Raises:
        FolderError: it is gone, damaged or not this node's.
        OlderCopy: it is a version that is not the newest, or the ledger is older than it.
        LedgerUnavailable, LedgerCorrupt: the ledger cannot say which is the newest.
    """
    wanted = _newest(site, path)
    while True:
        # The one beside it first: it may take the other's place in this very moment, and not the other way round.
        for place in (_beside(path), path):
            data = _read(place, wanted)
            if data is not None:
                return opened(place, data, site.secret(), domain)
        now = _newest(site, path)
        if now == wanted:
            break
        wanted = now
    if not path.is_file():
        if not wanted:
            return None
        raise FolderError(f"{path} is missing, and the ledger names it; restore it from your backup")
    with storage_errors(path):
        opened(path, path.read_bytes(), site.secret(), domain)
    raise OlderCopy(
        f"{path} is not the version that the ledger entered last: one of the two is an older copy. Restore the newest "
        "of both; where one is gone for good, go on as docs/node.md says under After a restore"
    )


def beside(site: SiteDir, path: Path, domain: bytes) -> bytes | None:
    """The version that did not take its place yet, whether the ledger names it or not; None where there is none.

    Raises:
        FolderError: it is damaged, or not this node's; or it cannot be read.
    """
    place = _beside(path)
    with storage_errors(place):
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            return None
    return opened(place, data, site.secret(), domain)


def adopt(site: SiteDir, path: Path, domain: bytes) -> bool:
    """Enter the version that is there, or that there is none, as the newest: what was newer is gone for good.

    Versions only grow, so of one in its place and one beside it, the longer is the newer.

    Returns:
        whether that was news to the ledger.

    Raises:
        FolderError: it is damaged, or not this node's.
    """
    wanted = _newest(site, path)
    if _read(_beside(path), wanted) is not None:
        return False
    later = beside(site, path, domain)
    if later is not None and (not path.is_file() or len(later) > len(_body(site, path, domain))):
        with storage_errors(path):
            data = _beside(path).read_bytes()
        _enter(site, path, sha256_hex(data))
        _take_place(path)
        return True
    if _read(path, wanted) is not None:
        return False
    if not path.is_file():
        if wanted:
            _enter(site, path, _GONE)
        return bool(wanted)
    _body(site, path, domain)
    with storage_errors(path):
        data = path.read_bytes()
    _enter(site, path, sha256_hex(data))
    return True


def _body(site: SiteDir, path: Path, domain: bytes) -> bytes:
    """What the file in its place holds."""
    with storage_errors(path):
        data = path.read_bytes()
    return opened(path, data, site.secret(), domain)


def _enter(site: SiteDir, path: Path, digest: str) -> None:
    """Append to the ledger which version of a file is the newest."""
    with Ledger.open(site.ledger) as ledger:
        ledger.append(FILE, {"name": path.name, "sha256": digest})


def _newest(site: SiteDir, path: Path) -> str:
    """The digest of the version that the ledger entered last; empty where there is none."""
    with Ledger.open(site.ledger, read_only=True) as ledger:
        entered = [entry.body for entry in ledger.entries() if entry.kind == FILE and entry.body["name"] == path.name]
    return str(entered[-1]["sha256"]) if entered else _GONE


def _read(path: Path, wanted: str) -> bytes | None:
    """A file's bytes where they have this digest."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}; restore it from your backup") from None
    return data if sha256_hex(data) == wanted else None


def _take_place(path: Path) -> None:
    with storage_errors(path):
        _beside(path).replace(path)
        sync(path.parent)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")
