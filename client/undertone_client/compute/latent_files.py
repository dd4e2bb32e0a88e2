"""Where cached latents lie, and how they are erased: without an autoencoder, and so without torch.

cache/NAME/latents-<records>-<model>.npy    and its .seals.npy; see `latents.py`
"""

from pathlib import Path

import numpy as np

from undertone.core.canonical import Json, digest_of
from undertone.core.durable import storage_errors
from undertone.data.records import RecordTable
from undertone_client.compute.disk_array import DiskArray
from undertone_client.site.datasets import DataSet
from undertone_client.site.folder import SiteDir


def cache_of(site: SiteDir, data: DataSet) -> Path:
    """The folder of a data set's latents, made where it is missing."""
    folder = site.cache / data.name
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def erase_latents(cache: Path, table: RecordTable, positions: list[int]) -> int:
    """Put zeros in the place of what every model made of some records of a table, durably.

    Returns:
        how many files with latents were changed.

    Raises:
        FolderError: a file cannot be written.
    """
    files = latent_files(cache, table)
    for path in files:
        array = DiskArray.found(path)
        array.write(positions, np.zeros((len(positions), *array.shape[1:]), dtype=array.dtype))
        array.sync()
    return sum(not path.name.endswith(".seals.npy") for path in files)


def latent_files(cache: Path, table: RecordTable) -> list[Path]:
    """The files with latents, and their seals, of this table's records."""
    return sorted(cache.glob(f"{stem_of(table)}-*.npy"))


def stem_of(table: RecordTable) -> str:
    """Changes with the records' names and bytes: another study may have registered others under the same names."""
    files: list[Json] = [[record.file, record.sha256] for record in table.records]
    return f"latents-{digest_of(files)[:16]}"
