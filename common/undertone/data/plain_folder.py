"""What of a folder without metadata is an image, what is a system's own, and what is of a kind that is not read."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from undertone.data.metadata import Row
from undertone.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_UNREAD_SUFFIXES = frozenset(
    {".dcm", ".dicom", ".ima", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jls", ".heic", ".heif", ".avif", ".dng"}
    | {".nii", ".nrrd", ".mha", ".mhd", ".npy", ".npz", ".exr", ".svs", ".ndpi", ".czi"}
    | {".pgm", ".ppm", ".pnm", ".svg", ".pdf"}
)
# Hidden by their first letter: .DS_Store, ._* (AppleDouble), .Trashes, .ipynb_checkpoints, .git, .nfs*, .dropbox ...
_SYSTEM = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "network trash folder"}
    | {"temporary items", "theme volume finder icon.icns", "$recycle.bin", "system volume information", "recycler"}
    | {"@eadir", "@tmp", "#recycle", "#snapshot", "@recently-snapshot", "@recycle", "lost+found", "__pycache__"}
)


def images_below(root: Path, hidden: Callable[[str], None], unread: Callable[[str], None]) -> Iterator[Row]:
    """Each image in the folder and below; links to folders are not followed, so no loop of them is endless.

    A link to an image is yielded like any file: `_record` judges where it leads. `hidden` is told of each file that is
    hidden or the system's, by its own name or by that of a folder above it within `root`; `unread` of each whose ending
    is that of an image that is not read.
    """
    number = 0
    for folder, folders, names in os.walk(root, onerror=_refuse_folder):
        folders.sort()
        within = Path(os.path.relpath(folder, root)).parts
        below_hidden = any(map(is_hidden, within))
        for name in sorted(names):
            if below_hidden or is_hidden(name):
                hidden(os.path.join(*within, name))
            elif Path(name).suffix.lower() in _UNREAD_SUFFIXES:
                unread(os.path.join(*within, name))
            elif Path(name).suffix.lower() in IMAGE_SUFFIXES:
                number += 1
                yield Row(number, number, {"file_name": os.path.relpath(Path(folder, name), root)})


def images_beside(folder: Path) -> list[str]:
    """The names of the images in a folder itself, without those below it, hidden ones and the system's."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not is_hidden(path.name))
    return [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system or a file server for itself."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}; fix its rights or move it away") from None
