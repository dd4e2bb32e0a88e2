"""Whom an id means, and which registered studies hold that unit: by registration, never by coins.

Whether a study's coins ever chose a unit is not kept beyond an attempt, and who knew it would void the amplification
that the claim counts on.
"""

from dataclasses import dataclass

from undertone.core.text import shown
from undertone.errors import DataError
from undertone_client.registration.stored import Registration, registrations
from undertone_client.site.datasets import DataSet, data_set, data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdrawn_from
from undertone_client.site.unit_index import holds, read_index


@dataclass(frozen=True)
class Meaning:
    """The unit of one data set that an id means.

    Attributes:
        data: the data set.
        unit: its id, spelled as the id was asked for.
        withdrawn: whether it stays out for ever.
        held: each registration that has the unit, in whatever spelling, and the positions of its records there.
    """

    data: DataSet
    unit: str
    withdrawn: bool
    held: tuple[tuple[Registration, list[int]], ...]

    @property
    def spellings(self) -> list[str]:
        """The unit's ids as they were registered."""
        return sorted(
            {registration.table.records[place].unit for registration, places in self.held for place in places}
        )


def meanings(site: SiteDir, text: str, name: str | None = None) -> list[Meaning]:
    """The units that an id means: in one data set, or in all that have, or ever had, such a unit.

    Raises:
        DataError: none has it.
        InputError: there is no data set of that name.
        FolderError: an index, a registration or the tombstones are damaged.
    """
    asked = data_sets(site.folder) if name is None else {name: data_set(site.folder, name)}
    secret, known = site.secret(), registrations(site)
    found = []
    for data in asked.values():
        unit = data.unit_named(text)
        if holds(read_index(site, data), data, secret, unit):
            of_data = [(item, _places(item, unit)) for item in known if item.data.name == data.name]
            held = tuple((item, places) for item, places in of_data if places)
            found.append(Meaning(data, unit, withdrawn_from(site, data)(unit), held))
    if not found:
        where = ", ".join(asked) or "no data set is there"
        raise DataError(
            f"no unit here is called {shown(text)} ({where}); give the id as the metadata have it, and after a change "
            "of the metadata say `undertone node data update` first"
        )
    return found


def _places(registration: Registration, unit: str) -> list[int]:
    """Positions of a unit's records in a registration."""
    data, records = registration.data, registration.table.records
    wanted = data.same(unit)
    same = {other for other in {record.unit for record in records} if data.same(other) == wanted}
    return [index for index, record in enumerate(records) if record.unit in same]
