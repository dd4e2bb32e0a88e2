"""No unit and no image stands in two data sets of a site: each would have two budgets (PRIVACY 13)."""

from undertone.core.text import shown
from undertone.errors import SharedRecords
from undertone_client.site.datasets import DataSet, data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.unit_index import Fingerprints, first_names, read_index

_NAMED = 3


def refuse_overlap(site: SiteDir, data: DataSet, found: Fingerprints) -> None:
    """Compare what was found in a data set's folder with all that the other data sets have or ever had.

    Units are compared by their ids where both data sets protect patients, in any spelling unless both of them take ids
    as they are written; files by their bytes, whatever they are called.

    Raises:
        SharedRecords: names a few of the units or files, for the operator.
        FolderError: an index is damaged.
    """
    for other in data_sets(site.folder).values():
        if other.name == data.name:
            continue
        if "site" in (data.unit, other.unit):
            raise SharedRecords(
                f"{data.name} and {other.name} cannot both be here: with unit site all records of the site are one "
                "unit, which has one budget; put the images into one data set"
            )
        index = read_index(site, other)
        if data.unit == other.unit == "patient":
            as_written = data.ids_as_written and other.ids_as_written
            ours, theirs = (found.spelled, index.spelled) if as_written else (found.alike, index.alike)
            _refuse(
                ours, theirs, data, other, "units", "one patient has one budget: take her records out of one of them"
            )
        _refuse(found.files, index.files, data, other, "files", "an image has one budget: take them out of one of them")


def _refuse(
    ours: dict[bytes, str], theirs: frozenset[bytes], data: DataSet, other: DataSet, what: str, remedy: str
) -> None:
    shared = ours.keys() & theirs
    if shared:
        named = ", ".join(shown(name) for name in first_names(ours, shared, _NAMED))
        more = f" and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
        raise SharedRecords(f"{data.name} shares {what} with {other.name}, {named}{more}; {remedy}")
