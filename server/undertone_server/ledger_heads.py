"""What this coordinator knows of each site from earlier, on disk: one small file for a site.

What a file holds is not trusted: an older program may have written there what a site sent.
"""

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from undertone.core.durable import storage_errors, write_durable
from undertone.core.text import REASON, shown
from undertone.core.unit import is_site_name
from undertone.errors import ProtocolError
from undertone.wire.messages import is_ledger_head

_LONGEST = 4 * REASON


class SiteFiles(MutableMapping[str, str]):
    """Site -> text. It is durable before `__setitem__` returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, site: str) -> str:
        path = self._folder / site
        if not is_site_name(site) or not path.exists():
            raise KeyError(site)
        if not path.is_file():
            return ""  # a folder in its place says nothing
        with storage_errors(path), path.open("rb") as stream:
            return stream.read(_LONGEST).decode("utf-8", errors="replace")

    def __setitem__(self, site: str, text: str) -> None:
        if not is_site_name(site):
            raise ProtocolError("what is no name of a site is no name of a file; nothing was written")
        self._folder.mkdir(exist_ok=True, parents=True)
        write_durable(self._folder / site, text.encode())

    def __delitem__(self, site: str) -> None:
        raise KeyError(site)  # nothing that was seen is forgotten

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in sorted(self._folder.glob("*")) if is_site_name(path.name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class LedgerHeads(SiteFiles):
    """The newest token of each site's ledger that was seen (undertone_client/site/rollback.py).

    A token is written before the answer that it came with is used. Who reads one asks `is_token`, and goes on without
    that site if it is none.
    """

    def __setitem__(self, site: str, ledger_head: str) -> None:
        if not is_ledger_head(ledger_head):
            raise ProtocolError("a ledger head is not 64 hexadecimal digits; nothing was written")
        super().__setitem__(site, ledger_head)


class LeftOut(SiteFiles):
    """Why a site takes no part in this study any more: it was proven to break it. A person may remove its file."""

    def __setitem__(self, site: str, reason: str) -> None:
        super().__setitem__(site, shown(reason, REASON))
