"""The newest token of each site's ledger that this coordinator has seen (undertone_client/rollback.py), on disk."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from undertone.durable import storage_errors, write_durable
from undertone.errors import ProtocolError
from undertone.messages import is_site_name, is_token

_LONGEST = 64


class Heads(MutableMapping[str, str]):
    """Site -> token, one small file each. A token is written before the answer that it came with is used.

    What a file holds is not trusted: who reads a token asks `is_token`, and goes on without that site if it is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, site: str) -> str:
        path = self._folder / site
        if not is_site_name(site) or not path.exists():
            raise KeyError(site)
        if not path.is_file():
            return ""  # a folder in its place is no token
        with storage_errors(path), path.open("rb") as stream:
            return stream.read(_LONGEST + 1).decode("ascii", errors="replace")

    def __setitem__(self, site: str, token: str) -> None:
        if not (is_site_name(site) and is_token(token)):
            raise ProtocolError("the token of a ledger is not 64 hexadecimal digits; nothing was written")
        self._folder.mkdir(exist_ok=True, parents=True)
        write_durable(self._folder / site, token.encode())

    def __delitem__(self, site: str) -> None:
        raise KeyError(site)  # nothing that was seen is forgotten

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in sorted(self._folder.glob("*")) if is_site_name(path.name))

    def __len__(self) -> int:
        return sum(1 for _ in self)
