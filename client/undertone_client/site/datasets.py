"""A site's data sets: one small file for each, datasets/NAME.toml, written once by `undertone node data add`.

Unit and unit column are fixed for life: the budget of a data set counts what its units have lost, so no later study may
count them in another way (PRIVACY 13). What can change is the folder's contents, by `undertone node data update`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from undertone.core import bounds
from undertone.core.config import Section, parse_tables, read_tables
from undertone.core.durable import storage_errors, sync, write_durable
from undertone.core.unit import SiteName, Unit
from undertone.errors import FolderError, StudyError
from undertone_client.site.settings_file import settings_toml

FOLDER = "datasets"


class DataSet(Section):
    """datasets/NAME.toml.

    Attributes:
        folder: of the images, absolute or relative to SITE_DIR.
        metadata: its metadata file, where it is not the one in the folder.
        unit: what privacy protects; fixed for life.
        unit_column: the column that names the unit, with unit patient; fixed for life.
        ids_as_written: whether ids that look alike are different people, on purpose.
        publish: the public round figure N_i of its units; the true count never leaves.
        epsilon: of the cap, which all studies of all coordinators draw on for ever.
        delta: of the cap.
    """

    name: SiteName
    folder: str = Field(max_length=bounds.PATH)
    metadata: Annotated[str, Field(max_length=bounds.PATH)] | None = None
    unit: Unit
    unit_column: Annotated[str, Field(max_length=bounds.NAME)] | None = None
    ids_as_written: bool = False
    publish: int = Field(ge=1, le=bounds.UNITS)
    epsilon: float = Field(gt=0, le=bounds.EPSILON)
    delta: float = Field(gt=0, lt=bounds.DELTA)


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


def write_data_set(site: Path, data: DataSet) -> None:
    """Write datasets/NAME.toml, durably.

    Raises:
        FolderError: it is there already, or cannot be written.
    """
    path = site / FOLDER / f"{data.name}.toml"
    if path.exists():
        raise FolderError(f"{path} exists already; a data set is described once")
    with storage_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        sync(site)
    write_durable(path, settings_toml(data))
