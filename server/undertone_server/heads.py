"""The newest token of each site's ledger that this coordinator has seen (undertone_client/rollback.py), on disk."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from undertone.durable import write_durable


class Heads(MutableMapping[str, str]):
    """Site -> token, one small file each. A token is written before the answer that it came with is used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, site: str) -> str:
        path = self._folder / site
        if not path.is_file():
            raise KeyError(site)
        return path.read_text(encoding="ascii")

    def __setitem__(self, site: str, token: str) -> None:
        self._folder.mkdir(exist_ok=True, parents=True)
        write_durable(self._folder / site, token.encode())

    def __delitem__(self, site: str) -> None:
        raise KeyError(site)  # nothing that was seen is forgotten

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in sorted(self._folder.glob("*")) if path.suffix != ".part")

    def __len__(self) -> int:
        return sum(1 for _ in self)
