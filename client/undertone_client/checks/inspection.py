"""What is looked at: a site, the plans at hand, the time; and what several checks need, read once.

This module alone reads which plans a site has approved.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from undertone.core.clock import Clock, utc_now
from undertone.core.durable import read_bytes
from undertone.core.joining import ca_sha256
from undertone.data.records import read_good_records
from undertone.errors import DataError, FolderError, LedgerCorrupt, LedgerUnavailable
from undertone.models.pinned import PinnedBase, pin
from undertone.preflight.fleet import Seen, look
from undertone.preflight.verdict import Verdict, passed
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone.study.schema import Study
from undertone_client.approval.approvals import Approval, approvals
from undertone_client.registration.checking import Checked, check_site
from undertone_client.site.budget import holds
from undertone_client.site.config import Connection
from undertone_client.site.datasets import DataSet, data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdrawn_from


@dataclass(frozen=True)
class Published:
    """A public figure N_i, the data set whose it is, and how many units and records there are."""

    whose: str
    units: int
    found: int
    records: int


@dataclass(frozen=True)
class Inspection:
    """One site, looked at once.

    Attributes:
        site: the SITE_DIR.
        now: the machine's time, UTC.
        given: plans that may be approved, beside those that are.
        study: a STUDY.toml whose columns and device memory are wanted, too.
        offline: nobody is asked: neither a coordinator's server nor the site's own processes.
        socket: the node's, where it does not lie in SITE_DIR.
        welcomes: files that a coordinator sent.
        environment: of this process, as the site's programs have it.
        clock: the machine's, while a server answers.
    """

    site: SiteDir
    now: datetime
    given: Sequence[Plan] = ()
    study: Study | None = None
    offline: bool = False
    socket: Path | None = None
    welcomes: Sequence[bytes] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    clock: Clock = utc_now
    _seen: dict[str, Seen] = field(default_factory=dict, compare=False, repr=False)
    _pinned: dict[tuple[str, str | None], PinnedBase] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def plans(self) -> Sequence[Plan]:
        """Those that the site has approved, and those that were given.

        Raises:
            FolderError: an approval is damaged.
        """
        approved = [approval.plan_approved() for approval in self.approved]
        return list({plan.digest: plan for plan in (*approved, *self.given)}.values())

    @cached_property
    def approved(self) -> Sequence[Approval]:
        """Approvals that were not withdrawn, have not expired, and hold a reservation.

        Raises:
            FolderError: one is damaged.
        """
        held = [one for one in approvals(self.site) if not one.withdrawn and not one.expired(self.now)]
        try:
            with Ledger.open(self.site.ledger, read_only=True) as ledger:
                return [one for one in held if holds(ledger, one.document.digest)]
        except (LedgerCorrupt, LedgerUnavailable):
            return held  # the check of the ledger says why

    @cached_property
    def connections(self) -> Mapping[str, Connection]:
        """The coordinators that may be asked, by their names in policy.toml; none offline.

        Raises:
            FolderError: a connection.toml is wrong.
        """
        if self.offline:
            return {}
        names = self.site.policy.federations
        joined = [name for name in names if (self.site.federation_folder(name) / "connection.toml").is_file()]
        return {name: self.site.connection(name) for name in joined}

    def seen(self, coordinator: str) -> Seen:
        """What a coordinator's server answers, asked once.

        Raises:
            FolderError: its CA certificate cannot be read.
        """
        if coordinator not in self._seen:
            ca = self.site.root_certificate(coordinator)
            try:
                self._seen[coordinator] = look(self.connections[coordinator].address, ca, self.clock)
            except (OSError, ValueError):
                raise FolderError(f"{ca} cannot be read; join the welcome of {coordinator} once more") from None
        return self._seen[coordinator]

    def ca_sha256(self, coordinator: str) -> str:
        """The fingerprint of the CA certificate by which a coordinator's server is known.

        Raises:
            FolderError: it cannot be read.
            NotApproved: it is no certificate.
        """
        return ca_sha256(read_bytes(self.site.root_certificate(coordinator)).decode("ascii", "replace"))

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
        return check_site(self.site, self.study)

    @cached_property
    def published(self) -> Sequence[Published]:
        """Each data set's public figure beside what is there."""
        return [self._published(data) for data in data_sets(self.site.folder).values()]

    def _published(self, data: DataSet) -> Published:
        """Its good records alone count; what is wrong with the others is the data check's business."""
        root, metadata = data.places(self.site.folder)
        try:
            found = read_good_records(
                root, data.unit, data.unit_column, "", metadata, lambda _problem: None, data.ids_as_written
            )
        except DataError:
            return Published(data.name, data.publish, 0, 0)
        gone = withdrawn_from(self.site, data)
        table = found.where(lambda record: not gone(record.unit))
        return Published(data.name, data.publish, len(table.units()), len(table.records))


def of_plans(inspection: Inspection, name: str, faults: Sequence[Verdict], good: str) -> Verdict:
    """The verdict of a check that looks at each plan: the first fault."""
    if faults:
        return max(faults, key=lambda fault: fault.status == "FAIL")
    if not inspection.plans:
        return passed(name, "no plan is approved yet")
    return passed(name, good)
