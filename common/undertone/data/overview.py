"""What the table of a folder looks like, for whoever writes a study: columns, units, sites, classes, sizes of images.

All of it is read from private data. It is shown at a terminal, to the person whose data they are, and nothing of it may
reach a study, a plan or a log: a study names what a person typed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from undertone.data.images import dimensions
from undertone.data.records import Record
from undertone.data.unit_ids import folded, names_nobody

# Beyond so many values a column is no list of classes, and hardly one of sites.
MOST_CLASSES, MOST_SITES = 20, 50
# A person has fewer images than this on average, else the column names something else; of few values fewer.
_MOST_IMAGES, _MOST_OF_FEW = 100, 10
# A class or a site has at least so many images on average.
_FEWEST_IMAGES = 5
_LOOKED_AT = 500


@dataclass(frozen=True)
class Column:
    """One column of the table: how often each value stands in it, and in how many images none does."""

    name: str
    values: Mapping[str, int]
    missing: int

    @property
    def images(self) -> int:
        """How many images have a value."""
        return sum(self.values.values())

    @property
    def most(self) -> int:
        """Images of the most frequent value."""
        return max(self.values.values(), default=0)

    @cached_property
    def look_alike(self) -> int:
        """How many values look like another one: one patient, spelt in two ways."""
        return len(self.values) - len({folded(value) for value in self.values})

    @property
    def may_be_unit(self) -> bool:
        """Whether its values may be patients: each stands for some images, and not for many."""
        most = _MOST_IMAGES if len(self.values) > MOST_SITES else _MOST_OF_FEW
        return len(self.values) >= 2 and self.images < most * len(self.values)

    @property
    def may_be_class(self) -> bool:
        """Whether its values may be classes: a few, and each stands for several images."""
        return 2 <= len(self.values) <= MOST_CLASSES and self.images >= _FEWEST_IMAGES * len(self.values)

    @property
    def may_be_site(self) -> bool:
        """Whether its values may be sites."""
        return 2 <= len(self.values) <= MOST_SITES and self.images >= _FEWEST_IMAGES * len(self.values)


def columns_of(records: Sequence[Record]) -> list[Column]:
    """Every column that some record has, in the order in which they come; words for a missing value are none."""
    names = list(dict.fromkeys(name for record in records for name in record.columns))
    found = []
    for name in names:
        written = [record.columns.get(name, "").strip() for record in records]
        values = Counter(value for value in written if not names_nobody(value))
        found.append(Column(name, values, len(written) - sum(values.values())))
    return found


def units_by(records: Iterable[Record], unit_column: str | None, site_of: Mapping[str, str]) -> dict[str, int]:
    """How many units each site has; without a unit column each image is one.

    Args:
        records: of a folder.
        unit_column: the column that names the unit.
        site_of: the site of each record's file; files that are not in it count nowhere.
    """
    units: dict[str, set[str]] = defaultdict(set)
    for record in records:
        unit = record.columns.get(unit_column, "").strip() if unit_column else record.file
        if record.file in site_of and not (unit_column and names_nobody(unit)):
            units[site_of[record.file]].add(unit)
    return {site: len(found) for site, found in sorted(units.items())}


@dataclass(frozen=True)
class Sizes:
    """Width and height in pixels of some images, by their shorter side; how many were looked at and cannot be read."""

    smallest: tuple[int, int]
    typical: tuple[int, int]
    largest: tuple[int, int]
    looked_at: int
    unread: int


def sizes(files: Sequence[Path]) -> Sizes | None:
    """The sizes of images, from the headers of at most 500, evenly chosen; None where none can be read."""
    step = max(1, len(files) // _LOOKED_AT)
    looked_at = files[::step][:_LOOKED_AT]
    found = sorted((size for path in looked_at if (size := dimensions(path))), key=lambda size: (min(size), size))
    if not found:
        return None
    middle = median(range(len(found)))
    return Sizes(found[0], found[int(middle)], found[-1], len(looked_at), len(looked_at) - len(found))
