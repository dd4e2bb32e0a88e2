"""A site's data sets: one small file for each, datasets/NAME.toml, written once by `undertone node data add`.

Unit and unit column are fixed for life: the budget of a data set counts what its units have lost, so no later study may
count them in another way (PRIVACY 13). What can change is the folder's contents, by `undertone node data update`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from undertone.core import bounds
from undertone.core.config import Section, parse_tables, read_tables
from undertone.core.durable import storage_errors, sync, write_durable
from undertone.core.settings_file import settings_toml
from undertone.core.text import shown
from undertone.core.unit import SiteName, Unit
from undertone.data.metadata import is_text
from undertone.data.records import key_of
from undertone.data.separators import FILE_NAME
from undertone.data.unit_ids import folded
from undertone.errors import FolderError, InputError, StudyError

FOLDER = "datasets"


class DataSet(Section):
    """datasets/NAME.toml.

    Attributes:
        folder: of the images, absolute or relative to SITE_DIR.
        metadata: its metadata file, where it is not the one in the folder.
        unit: what privacy protects; fixed for life.
        unit_column: the column that names the unit, with unit patient; fixed for life.
        ids_as_written: whether ids that look alike are different people, on purpose; fixed for life.
        publish: the public round figure N_i of its units; the true count never leaves.
        epsilon: of the cap, which all studies of all coordinators draw on for ever.
        delta: of the cap.
    """

    name: SiteName = Field(description="Written by `undertone node data add`. Its name, here and in approvals.")
    folder: str = Field(
        max_length=bounds.PATH, description="Of the images. Change it where they move; then `node data update`."
    )
    metadata: Annotated[str, Field(max_length=bounds.PATH)] | None = Field(
        default=None, description="Its metadata file, where it is not the one in the folder."
    )
    unit: Unit = Field(description="What privacy protects. Fixed for life, with the two keys that follow.")
    unit_column: Annotated[str, Field(max_length=bounds.NAME)] | None = Field(
        default=None, description="The column that names the unit, with unit patient."
    )
    ids_as_written: bool = Field(default=False, description="Whether ids that look alike are different people.")
    publish: int = Field(
        ge=1, le=bounds.UNITS, description="The public round figure of its units; the true count never leaves."
    )
    epsilon: float = Field(
        gt=0,
        le=bounds.EPSILON,
        description="The cap, which all studies of all coordinators draw on for ever; the ledger has it too.",
    )
    delta: float = Field(gt=0, lt=bounds.DELTA, description="Of the cap.")

    @model_validator(mode="after")
    def _check_column(self) -> "DataSet":
        if (self.unit == "patient") != (self.unit_column is not None):
            raise ValueError(
                f"unit = {self.unit!r} "
                + ("needs unit_column" if self.unit == "patient" else "has no unit_column: only patient has one")
            )
        return self

    def unit_named(self, text: str) -> str:
        """The unit that a text means, spelled as records have it: without spaces around it, accents composed."""
        return key_of({FILE_NAME: text, self.unit_column or FILE_NAME: text}, self.unit, self.unit_column)[1]

    def same(self, unit: str) -> str:
        """A unit's id as this data set compares it: equal for what it takes for one unit."""
        return folded(unit) if self.unit == "patient" and not self.ids_as_written else unit

    def places(self, site: Path) -> tuple[Path, Path | None]:
        """The folder of the images, and the metadata file where it is not the one in there."""
        return site / self.folder, None if self.metadata is None else site / self.metadata


def new_data_set(**values: object) -> DataSet:
    """A data set from what an operator said.

    Raises:
        FolderError: a path is not UTF-8, which no settings file can hold.
        StudyError: names the value that will not do.
    """
    for key in ("folder", "metadata"):
        path = str(values.get(key) or "")
        if not is_text(path):
            raise FolderError(
                f"{key} = {shown(path)} is not UTF-8 text, which a settings file cannot hold; rename the file or "
                "folder, or put a link with a plain name beside it"
            )
    return parse_tables(DataSet, values, f"data set {shown(str(values['name']))}")


def data_sets(site: Path) -> Mapping[str, DataSet]:
    """Name -> data set of a SITE_DIR, sorted.

    Raises:
        FolderError: a file is damaged, or names another data set than its own name.
    """
    found: dict[str, DataSet] = {}
    for path in sorted((site / FOLDER).glob("*.toml")):
        try:
            data = parse_tables(DataSet, read_tables(path), str(path))
        except StudyError as error:
            raise FolderError(str(error)) from None
        if data.name != path.stem:
            raise FolderError(f"{path} describes the data set {data.name}; restore the file from your backup")
        found[data.name] = data
    return found


def data_set(site: Path, name: str) -> DataSet:
    """One data set of a SITE_DIR.

    Raises:
        InputError: there is none of that name; the message has those that are there.
        FolderError: a file is damaged.
    """
    found = data_sets(site)
    if name not in found:
        there = f"there are {', '.join(found)}" if found else "there is none yet; `undertone node data add` makes one"
        raise InputError(f"{site} has no data set {name}: {there}")
    return found[name]


def write_data_set(site: Path, data: DataSet) -> None:
    """Describe a data set, once.

    Raises:
        FolderError: there is one of that name, or the file cannot be written.
    """
    path = site / FOLDER / f"{data.name}.toml"
    if path.exists():
        raise FolderError(f"{path} is there already; a data set is described once")
    with storage_errors(site):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        sync(site)
    write_durable(path, settings_toml(data))
