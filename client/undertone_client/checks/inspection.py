"""What is looked at: a site, the plans at hand, the time; and what several checks need, read once.

This module alone reads which plans a site has approved and what its policy asks of a study's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from undertone.core.unit import Unit
from undertone.data.records import read_good_records
from undertone.models.pinned import PinnedBase, pin
from undertone.study.plan import Plan
from undertone.study.schema import Study
from undertone_client.approval.approvals import approvals
from undertone_client.checks.verdict import Verdict, passed
from undertone_client.registration.checking import Checked, check_site
from undertone_client.registration.registered import registered
from undertone_client.site.datasets import data_sets
from undertone_client.site.folder import SiteDir


@dataclass(frozen=True)
class Published:
    """A public figure N_i, of whom it is (a data set's name, or a plan's digest), and how many units there are."""

    whose: str
    units: int
    found: int


@dataclass(frozen=True)
class Inspection:
    """One site, looked at once.

    Attributes:
        site: the SITE_DIR.
        now: the machine's time, UTC.
        given: plans that may be approved, beside those that are.
        study: a STUDY.toml whose columns and device memory are wanted, too.
        ids_as_written: whether unit ids that look alike are different people.
    """

    site: SiteDir
    now: datetime
    given: Sequence[Plan] = ()
    study: Study | None = None
    ids_as_written: bool = False
    _pinned: dict[tuple[str, str | None], PinnedBase] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def plans(self) -> Sequence[Plan]:
        """Those that the site answers, and those that were given.

        Raises:
            FolderError: an approval is damaged.
        """
        held = {plan.digest: plan for plan in (*approved_plans(self.site, self.now), *self.given)}
        return list(held.values())

    def pinned(self, reference: str, revision: str | None) -> PinnedBase:
        """A base model, hashed once.

        Raises:
            ModelError: see `pin`.
        """
        key = (reference, revision)
        if key not in self._pinned:
            self._pinned[key] = pin(reference, revision)
        return self._pinned[key]

    @cached_property
    def data(self) -> Checked:
        """The site's data, read strictly and decoded.

        Raises:
            FolderError: a registration is damaged.
        """
        return check_site(self.site, self.study, self.ids_as_written)

    @cached_property
    def published(self) -> Sequence[Published]:
        """Each public figure of this site beside what is there: of its data sets, else of the plans at hand."""
        return list(self._of_data_sets() or self._of_plans())

    def _of_data_sets(self) -> list[Published]:
        folder = self.site.folder
        return [
            Published(
                name,
                data.publish,
                self._units(
                    folder / data.folder,
                    data.unit,
                    data.unit_column,
                    folder / data.metadata if data.metadata else None,
                    data.ids_as_written,
                ),
            )
            for name, data in data_sets(folder).items()
        ]

    def _of_plans(self) -> Iterator[Published]:
        """Of plans whose records are registered here."""
        name = self.site.config.site
        for plan in self.plans:
            table = registered(self.site, plan)
            if table is not None and name in plan.cohort.units:
                yield Published(plan.digest[:8], plan.cohort.units[name], len(table.units()))

    @staticmethod
    def _units(root: Path, unit: Unit, column: str | None, metadata: Path | None, as_written: bool) -> int:
        """How many units a folder's good records have; what is wrong with the others is the data check's business."""
        return len(read_good_records(root, unit, column, "", metadata, lambda _problem: None, as_written).units())


def approved_plans(site: SiteDir, now: datetime) -> Sequence[Plan]:
    """The plans that a site answers."""
    held = [approval for approval in approvals(site) if not approval.withdrawn and not approval.expired(now)]
    return [approval.plan_approved() for approval in held]


def of_plans(inspection: Inspection, name: str, faults: Sequence[Verdict], good: str) -> Verdict:
    """The verdict of a check that looks at each plan: the first fault."""
    if faults:
        return max(faults, key=lambda fault: fault.status == "FAIL")
    if not inspection.plans:
        return passed(name, "no plan is approved yet")
    return passed(name, good)
