"""A file that a line lists and that is not there under this spelling: what it is called instead."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from undertone.data.unit_ids import plain

_QUOTES = "'\"` "


class NearNames:
    """The names below one folder, found by what is left of them without case, suffix and invisible characters."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, list[str]]] = {}

    def like(self, file: str) -> str | None:
        """The one file below the folder that `file` may mean, relative to it; None where there is none, or several.

        Backslashes count as slashes. A suffix may be missing or another one. Reads each folder once, never raises.
        """
        parts = PurePosixPath(file.replace("\\", "/")).parts
        if not parts or ".." in parts or PureWindowsPath(file).anchor:
            return None
        here = ""
        for part in parts[:-1]:
            found = self._find(here, part, whole=True)
            if found is None:
                return None
            here = os.path.join(here, found)
        name = self._find(here, parts[-1], whole=True) or self._find(here, parts[-1], whole=False)
        return None if name is None else os.path.join(here, name)

    def _find(self, folder: str, name: str, *, whole: bool) -> str | None:
        names = self._names(folder).get(_key(name) if whole else _stem(name), ())
        return _only([found for found in names if not whole or _key(found) == _key(name)])

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._folders:
            try:
                names = os.listdir(self._root / folder)
            except OSError:
                names = []
            table: dict[str, list[str]] = {}
            for name in names:
                for key in {_key(name), _stem(name)}:
                    table.setdefault(key, []).append(name)
            self._folders[folder] = table
        return self._folders[folder]


def _key(name: str) -> str:
    return plain(name).strip(_QUOTES)


def _stem(name: str) -> str:
    return _key(os.path.splitext(name)[0] if os.path.splitext(name)[1].strip(".")[:1].isalpha() else name)


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None
