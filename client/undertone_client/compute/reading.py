"""Reading units of a registration: their records as they were registered, one unit or one shard at a time.

Nothing that a record does is visible outside (PRIVACY 17): what cannot be read is missing, and a line in node.log.
"""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from undertone.core.canonical import Json
from undertone.core.captions import fill_caption
from undertone.core.progress import reporter
from undertone.data.records import RecordTable
from undertone.errors import FolderError
from undertone.methods.protocol import Method, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.pinned import PinnedBase
from undertone.privacy.shards import PREPARED, shard_key
from undertone.privacy.unit_randomness import row_generator, row_key
from undertone.study.plan import Plan
from undertone_client.compute.latent_files import cache_of, erase_latents
from undertone_client.compute.latents import Latents, cached_latents
from undertone_client.compute.log_limit import limited
from undertone_client.compute.shard_store import Shard
from undertone_client.registration.registered import present, withdrawn_units
from undertone_client.registration.stored import Registration
from undertone_client.site.attempt_store import AttemptKey
from undertone_client.site.folder import SiteDir


@dataclass(frozen=True)
class Reader:
    """One unit's records at a time, those alone that enter its row."""

    site: SiteDir
    plan: Plan
    attempt: AttemptKey
    secret: bytes
    method: Method
    table: RecordTable
    units: dict[str, list[int]]
    latents: Latents
    withdrawn: frozenset[str]

    def unit(self, unit: str) -> UnitRecords | None:
        """The unit's records with randomness of its own; None, and a line in node.log, where there are none.

        Whatever else goes wrong here goes wrong with this unit alone, and must not show outside (PRIVACY 17).

        Raises:
            FolderError: the cache of latents cannot be read.
        """
        log = self.site.log
        if unit in self.withdrawn:
            return None  # and no line: node.log names nobody who withdrew
        try:
            found = self._read(unit)
        except FolderError:
            raise  # the site's own disk, whoever was to be read
        except Exception as error:  # noqa: BLE001 - as above
            log(f"zero row: {unit} cannot be read: {type(error).__name__}: {error}")
            return None
        if found is None:
            log(f"zero row: {unit} has no readable record" + (" of a listed class" if self._has_classes else ""))
        return found

    def entering_once(self, unit: str) -> list[int]:
        """Positions of the records of a unit that enter its shard, drawn once for all rounds; none if it withdrew."""
        if unit in self.withdrawn:
            return []
        key = row_key(self.secret, self.attempt[0], PREPARED, 0, unit)
        try:
            return self._entering(unit, row_generator(key))
        except Exception as error:  # noqa: BLE001 - whatever a unit causes must not show outside (PRIVACY 17)
            self.site.log(f"left out of its shard: {unit}: {type(error).__name__}: {error}")
            return []

    def standing(self) -> bytes:
        """A digest of all that `entering_once` and `said` follow from, whoever has withdrawn included."""
        digest = sha256(self.latents.readable.tobytes())
        digest.update(repr(sorted(self.withdrawn)).encode())
        for one in self.table.records:
            digest.update(repr((one.file, one.unit, one.sha256, one.columns)).encode())
        return digest.digest()

    def said(self, index: int) -> Json:
        """All that a row follows from of a record, but for its latents, which follow from its bytes."""
        record = self.table.records[index]
        return [record.file, record.sha256, dict(record.columns)]

    def shard(self, shard: Shard) -> UnitRecords:
        """All records of a shard, with randomness of its own."""
        generator = row_generator(shard_key(self.secret, self.attempt[0], PREPARED, shard.number))
        return self._records(list(shard.records), generator)

    def _read(self, unit: str) -> UnitRecords | None:
        generator = row_generator(row_key(self.secret, *self.attempt, unit))
        entering = self._entering(unit, generator)
        return self._records(entering, generator) if entering else None

    def _entering(self, unit: str, generator: np.random.Generator) -> list[int]:
        """Positions of the unit's readable records that enter a row; none where none is readable."""
        plan, records = self.plan, self.table.records
        readable = [
            index
            for index in self.units[unit]
            if self.latents.readable[index] and plan.data.takes(records[index].columns)
        ]
        return [readable[place] for place in self.method.entering(len(readable), generator)] if readable else []

    def _records(self, entering: list[int], generator: np.random.Generator) -> UnitRecords:
        plan, records = self.plan, self.table.records
        word, columns = self.method.token, [records[index].columns for index in entering]
        captions = tuple(fill_caption(plan.data.caption, word, one) for one in columns)
        classes = np.array([plan.data.class_of(one) for one in columns]) if self._has_classes else None
        return UnitRecords(self.latents.of(entering), captions, generator, classes=classes)

    @property
    def _has_classes(self) -> bool:
        return self.plan.data.class_column is not None


def reader(
    site: SiteDir,
    plan: Plan,
    attempt: AttemptKey,
    needed: list[str],
    method: Method,
    registration: Registration,
    pinned: PinnedBase,
    base: LoadedBase,
) -> Reader:
    """Reads units whose records are still what was registered; the others have none (PRIVACY 17).

    The latents of `needed` units are held against their seals; those of others are not, and are not to be read.
    """
    table, gone = registration.table, withdrawn_units(site, registration)
    units, checked = table.units(), np.zeros(len(table.records), dtype=np.bool_)
    checked[[index for unit in needed for index in units[unit]]] = True
    label = f"{site.config.site}: reading images"
    with limited(site.log) as log, reporter().task(label, len(table.records)) as progress:
        listed = present(table, plan.privacy.unit, plan.data.unit_column, log)
        staying = np.array([record.unit not in gone for record in table.records], dtype=np.bool_)
        for index in np.flatnonzero(~listed & staying):
            log(f"zero row: {table.source} no longer lists {table.records[index].file} with its unit")
        cache = cache_of(site, registration.data)
        if gone:  # what a process that ran through the withdrawal wrote after it
            erase_latents(cache, table, np.flatnonzero(~staying).tolist())
        latents = cached_latents(cache, table, listed & staying, checked, pinned, base, log, progress)
    return Reader(site, plan, attempt, site.secret(), method, table, units, latents, gone)
