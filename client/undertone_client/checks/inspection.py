"""What is looked at: a site, the plans at hand, the time; and what several checks need, read once.

This module alone reads which plans a site has approved and what its policy asks of a study's size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from undertone.core.unit import Unit
from undertone.data.records import read_good_records
from undertone.errors import DataError
from undertone.models.pinned import PinnedBase, pin
from undertone.study.plan import Plan
from undertone.study.schema import Study
from undertone_client.checks.verdict import Verdict, passed, warned
from undertone_client.registration.checking import Checked, check_site
from undertone_client.registration.registered import registered
from undertone_client.site.datasets import data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import Policy

LACKING = "a plan that this site has approved is not at hand"
GIVE_PLAN = "give its plan.json with --plan; the coordinator keeps it in RUN/plan.json"


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
        plans: those at hand, approved or about to be.
        study: a STUDY.toml whose columns and device memory are wanted, too.
        ids_as_written: whether unit ids that look alike are different people.
    """

    site: SiteDir
    now: datetime
    plans: Sequence[Plan] = ()
    study: Study | None = None
    ids_as_written: bool = False
    _pinned: dict[tuple[str, str | None], PinnedBase] = field(default_factory=dict, compare=False, repr=False)

    @property
    def lacking(self) -> list[str]:
        """Digests of approved plans that are not at hand."""
        return sorted(set(approved(self.site)) - {plan.digest for plan in self.plans})

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
        try:
            return len(read_good_records(root, unit, column, "", metadata, lambda _problem: None, as_written).units())
        except DataError:
            return 0


def approved(site: SiteDir) -> Sequence[str]:
    """The digests of the plans that a site answers."""
    return site.policy.approved


def fewest_patients(policy: Policy) -> int | None:
    """The fewest patients, of all sites together and by their public figures, that the policy asks of a study."""
    found: Mapping[str, object] = policy.model_dump()
    fewest = found.get("fewest_patients")
    return fewest if isinstance(fewest, int) else None


def of_plans(inspection: Inspection, name: str, faults: Sequence[Verdict], good: str) -> Verdict:
    """The verdict of a check that looks at each plan: the first fault, or a warning where a plan is not at hand."""
    if faults:
        return max(faults, key=lambda fault: fault.status == "FAIL")
    if inspection.lacking:
        return warned(name, LACKING, GIVE_PLAN, [f"plan {digest}" for digest in inspection.lacking])
    if not inspection.plans:
        return passed(name, "no plan is approved yet")
    return passed(name, good)
