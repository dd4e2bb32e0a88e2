"""In a folder without metadata, what systems leave beside images is skipped, and how much of it is said."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.images import pixels, write_images
from tests.support.runs import call
from tests.support.studies import study_with, write_study
from undertone.core.progress import Silent, reporting
from undertone.data.records import read_records
from undertone.errors import DataError
from undertone.study.schema import Unit

HIDDEN = [
    "._scan-0000.png",
    "images/._scan-0000.png",
    "__MACOSX/images/._scan-0000.png",
    "__MACOSX/images/scan-0000.png",
    ".DS_Store",
    "images/.DS_Store",
    "Thumbs.db",
    "images/thumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "Desktop.ini",
    "Icon\r",
    "@eaDir/scan-0000.png/SYNOPHOTO_THUMB_M.jpg",
    "images/@eaDir/scan-0000.png@SynoEAStream",
    ".ipynb_checkpoints/scan-0000-checkpoint.png",
    ".Trashes/501/scan.png",
    ".Trash-1000/files/scan.png",
    ".Spotlight-V100/scan.png",
    ".git/objects/aa.png",
    ".thumbnails/normal/aa.png",
    ".hidden.tif",
    ".~lock.scan-0000.png",
    ".nfs000000000001.png",
    "$RECYCLE.BIN/S-1-5/scan.png",
    "System Volume Information/scan.png",
    "#recycle/scan.png",
    "#snapshot/monday/scan.png",
    "@Recycle/scan.png",
    "lost+found/scan.png",
    "__pycache__/scan.png",
]


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def watched() -> tuple[Lines, AbstractContextManager[None]]:
    lines = Lines()
    return lines, reporting(lines)


def put(path: Path) -> None:
    """An image that could be read: a skipped file is skipped by its name, not by what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(9, 8)).save(path, format="PNG")


@pytest.mark.parametrize("unit", ["record", "site"])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_or_system_file_is_skipped_and_counted(tmp_path: Path, name: str, unit: Unit) -> None:
    files = write_images(tmp_path, 3)
    put(tmp_path / name)
    lines, watching = watched()
    with watching:
        table = read_records(tmp_path, unit, None, "{token}")
    assert [record.file for record in table.records] == files
    assert table.hidden == 1
    assert [line for line in lines.lines if "1 hidden or system file skipped" in line] == lines.lines != []


def test_all_of_them(tmp_path: Path) -> None:
    files = write_images(tmp_path, 3)
    for name in HIDDEN:
        put(tmp_path / name)
    table = read_records(tmp_path, "record", None, "{token}")
    assert [record.file for record in table.records] == files
    # A disk that takes Thumbs.db and thumbs.db for one has fewer.
    assert table.hidden == sum(1 for path in tmp_path.rglob("*") if path.is_file()) - len(files)


UNREAD = ["dcm", "DCM", "dicom", "ima", "jp2", "j2k", "jxl", "jls", "heic", "HEIF", "avif", "nii", "nrrd", "mha", "npy"]
UNREAD += ["npz", "pgm", "svs", "svg", "pdf", "dng", "exr"]


@pytest.mark.parametrize("ending", UNREAD)
def test_images_of_kinds_that_are_not_read_are_counted(tmp_path: Path, ending: str) -> None:
    put(tmp_path / f"a.{ending}")
    with pytest.raises(DataError, match=r"holds no images but 1 file of kinds that are not read.*convert them to PNG"):
        read_records(tmp_path, "record", None, "{token}")
    files = write_images(tmp_path, 3)
    lines, watching = watched()
    with watching:
        table = read_records(tmp_path, "record", None, "{token}")
    assert [record.file for record in table.records] == files
    assert (table.unread, table.hidden) == (1, 0)
    assert [line for line in lines.lines if "1 file of kinds that are not read" in line] == lines.lines != []


@pytest.mark.parametrize("name", ["a._b.png", "a.b.png", "icon.png", "Thumbs.db.png", "eaDir/a.png", "_MACOSX/a.png"])
def test_what_only_looks_like_it_is_a_record(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    assert [record.file for record in read_records(tmp_path, "record", None, "{token}").records] == [name]


def test_a_folder_that_itself_is_below_a_hidden_one(tmp_path: Path) -> None:
    files = write_images(tmp_path / ".cache" / "data", 2)
    table = read_records(tmp_path / ".cache" / "data", "record", None, "{token}")
    assert ([record.file for record in table.records], table.hidden) == (files, 0)


def test_a_folder_of_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "._a.png")
    with pytest.raises(DataError, match=r"holds no images but 1 hidden or system file$"):
        read_records(tmp_path, "record", None, "{token}")


def test_what_metadata_list_is_a_record_whatever_its_name(tmp_path: Path) -> None:
    put(tmp_path / ".a.png")
    put(tmp_path / "._b.png")
    (tmp_path / "metadata.csv").write_text("file_name\n.a.png\n")
    lines, watching = watched()
    with watching:
        table = read_records(tmp_path, "record", None, "{token}")
    assert [record.file for record in table.records] == [".a.png"]
    assert (table.hidden, lines.lines) == (0, [])


def test_simulate_says_how_many_were_skipped(tmp_path: Path, dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    write_images(tmp_path / "data", 6)
    put(tmp_path / "data" / "__MACOSX" / "._a.png")
    np.zeros(3).tofile(tmp_path / "data" / "._b.png")
    changes = {"privacy.unit": "record", "data.unit_column": None, "data.caption": "a {token}"}
    study = write_study(tmp_path / "study.toml", study_with(changes, base=str(dummy_base)))
    result = call("simulate", study, "--data", tmp_path / "data", "--sites", "3", "--out", tmp_path / "run")
    assert "2 hidden or system files skipped" in " ".join(result.stderr.split())
    assert "cannot be read" not in result.output
