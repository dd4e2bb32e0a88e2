"""Where files really are: links resolved, one image under two names found out, links out of the folder too.

An image behind two names would be two records, and so two units, of one person. A link out of the folder may lead to
what its owner never meant to register, and may change without a trace in the folder.
"""

import os
from pathlib import Path


class RealFiles:
    """The files under one folder, which may itself be reached through a link; each folder below is looked up once."""

    def __init__(self, root: Path) -> None:
        self._given = os.fspath(root)
        self._root = os.path.realpath(root)
        self._folders: dict[str, str] = {}
        self._names: dict[tuple[int, int] | str | None, str] = {}

    def target(self, file: str) -> str | None:
        """The path below the folder of the file that a name leads to; None where that is outside.

        It need not be there. Links that turn in a circle lead nowhere in particular.
        """
        folder, name = os.path.split(file)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(os.path.join(self._given, folder)).rstrip(os.sep)
        path = f"{self._folders[folder]}{os.sep}{name}"
        if os.path.islink(path):
            path = os.path.realpath(path)
        within = self._root.rstrip(os.sep) + os.sep
        return path[len(within) :] if path.startswith(within) else None

    def first_name(self, file: str) -> str:
        """The name under which this very file was asked about first: by device and inode, so hard links count too.

        Raises:
            OSError: there is no such file.
        """
        found = os.stat(os.path.join(self._given, file))
        # Some file systems do not number their files.
        key = (found.st_dev, found.st_ino) if found.st_ino else self.target(file)
        return self._names.setdefault(key, file)
