"""Checks of a site's data: can it be read, and is it about as much as was published?"""

from undertone.preflight.verdict import Verdict, failed, passed, warned
from undertone_client.checks.inspection import Inspection, Published

# How far a public round figure may be from what is there: a quarter is rounding, a factor of two is another cohort.
_NEAR, _FAR = 1.25, 2.0


def data(inspection: Inspection) -> Verdict:
    """Every line of the metadata, every image, every registered record."""
    checked = inspection.data
    units = f" of {checked.units} units" if inspection.study or checked.registrations else ""
    said = f"{inspection.site.config.site}: {checked.records} records{units}, {len(inspection.approved)} approved plans"
    details = [*(f"WARN {remark}" for remark in checked.remarks), *map(str, checked.problems), said]
    if checked.problems:
        sentence = "there are records that cannot be read, are not listed well, or changed since they were registered"
        remedy = "repair or remove them before you approve a plan; --details names them"
        return failed("data", sentence, remedy, details)
    if checked.remarks:
        sentence = "every record can be read; some look wrong, or images were left out"
        return warned("data", sentence, "--details names them; repair them, or leave them as they are", details)
    return passed("data", "every record can be read", details)


def units(inspection: Inspection) -> Verdict:
    """Published figures against what is there."""
    found = inspection.published
    details = [f"{one.whose}: {one.units} published, {one.found} found" for one in found]
    far = [one.whose for one in found if not one.found or _factor(one) > _FAR]
    if far:
        sentence = f"the figure published for {far[0]} is far from what is there"
        return failed("units", sentence, "check the folder and the unit column; the figure stays as it is", details)
    off = [one.whose for one in found if _factor(one) > _NEAR]
    if off:
        sentence = f"the figure published for {off[0]} is not within a quarter of what is there"
        return warned("units", sentence, "the figure stays as it is; know that plans count with it", details)
    good = "what is published is within a quarter of what is there" if found else "no figure is published yet"
    return passed("units", good, details)


def _factor(one: Published) -> float:
    return max(one.units, one.found) / max(min(one.units, one.found), 1)
