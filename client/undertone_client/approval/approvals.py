"""approved/DIGEST.json: what was approved, by whom, until when; sealed, so that damage is found out.

An approval holds the document that a person saw and, where the policy names approvers, one of them signed. A request
is answered while its plan has an approval that was not withdrawn and has not expired, for the coordinator that asked.
"""

import hashlib
import hmac
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from undertone.core import bounds
from undertone.core.canonical import canonical_json, sha256_hex
from undertone.core.config import Section
from undertone.core.durable import read_bytes, storage_errors, sync, write_durable
from undertone.core.unit import SiteName
from undertone.errors import FolderError, NotApproved
from undertone.study.plan import Plan
from undertone_client.approval.books import Standing
from undertone_client.site.audit_events import Person
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import Digest, Policy, PublicKey

FOLDER = "approved"
LONGEST_PAGE = 1 << 17
_SEAL_DOMAIN = b"undertone/1/approval\x00"


class ApprovalDocument(Section):
    """What a person approves. Its canonical JSON is what an approver signs, whole and as it is.

    Attributes:
        kind: so that no other statement has these bytes.
        site: that approves.
        digest: of the plan.
        coordinator: that asks, as policy.toml names it.
        coordinator_key: its public key.
        data_set: whose images are used.
        operator: who was at the machine.
        until: the last day on which it holds, UTC.
        price: what the plan takes from the data set's cap alone, as an epsilon at the cap's delta.
        before: the budget without the plan.
        after: the budget with all that the plan may charge.
        federation: the digest of the federation.json that the site has pinned, or None.
        registered_before: whether records count that an earlier approval of the plan registered.
        start: SHA-256 of the manifest of the release that the plan starts from and that was looked at; None: it has
            no start, and the document no such key.
        page: what was shown.
    """

    kind: Literal["undertone approval 1"] = "undertone approval 1"
    site: SiteName
    digest: Digest
    coordinator: SiteName
    coordinator_key: PublicKey
    data_set: SiteName
    operator: Person
    until: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    price: float
    before: Standing
    after: Standing
    federation: Digest | None
    registered_before: bool
    start: Digest | None = None
    page: str = Field(max_length=LONGEST_PAGE)

    @model_serializer(mode="wrap")
    def _as_said(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a start, where there is none."""
        return {key: value for key, value in dumped(self).items() if key != "start" or value is not None}

    def as_bytes(self) -> bytes:
        """What is signed."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def last_day(self) -> date:
        """`until` as a date.

        Raises:
            FolderError: there is no such day.
        """
        return _day(self.until)


class Approval(Section):
    """One approved plan. `withdrawn` is the UTC time at which it was, or empty."""

    document: ApprovalDocument
    plan: str = Field(max_length=bounds.PLAN_BYTES)
    approved: str = Field(max_length=bounds.NAME)
    approver: str = Field(default="", max_length=bounds.NAME)
    signature: str = Field(default="", max_length=bounds.NAME)
    withdrawn: str = Field(default="", max_length=bounds.NAME)

    def plan_approved(self) -> Plan:
        """The plan.

        Raises:
            PlanChanged: of another version's format.
        """
        return Plan.from_bytes(self.plan.encode())

    @property
    def first_day(self) -> date:
        """The day on which it was approved, UTC.

        Raises:
            FolderError: there is no such day.
        """
        return _day(self.approved[:10])

    def expired(self, now: datetime) -> bool:
        """Whether its last day is over."""
        return now.astimezone(UTC).date() > self.document.last_day


def approver_of(policy: Policy, document: ApprovalDocument, signature: str) -> str:
    """The name of the approver who signed this very document; raw Ed25519 over its bytes.

    Raises:
        NotApproved: none that the policy names did.
    """
    for name, key in policy.approvers.items():
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), document.as_bytes())
        except (ValueError, InvalidSignature):
            continue
        return name
    raise NotApproved(
        f"policy.toml names approvers ({', '.join(policy.approvers)}), and none of them has signed this approval of "
        f"plan {document.digest[:8]}; `undertone node approve --print-request` writes what they sign"
    )


def keep_approval(site: SiteDir, approval: Approval) -> None:
    """Write an approval, durably, in place of one of the same plan.

    Raises:
        FolderError: it cannot be written.
    """
    folder = site.folder / FOLDER
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(site.folder)
    content = approval.model_dump(mode="json")
    sealed = canonical_json({"approval": content, "seal": _seal(site, canonical_json(content))})
    write_durable(_path(site, approval.document.digest), sealed)


def approval_of(site: SiteDir, digest: str) -> Approval | None:
    """The approval of a plan, or None where there never was one.

    Raises:
        FolderError: it is damaged.
    """
    path = _path(site, digest)
    if not path.is_file():
        return None
    try:
        content, seal = _content(json.loads(read_bytes(path)))
        approval = Approval.model_validate_json(content)
    except (KeyError, TypeError, ValidationError, ValueError, RecursionError):
        raise _damaged(path) from None
    good = hmac.compare_digest(seal, _seal(site, content))
    if not good or approval.document.digest != digest or sha256_hex(approval.plan.encode()) != digest:
        raise _damaged(path)
    return approval


def approvals(site: SiteDir) -> list[Approval]:
    """Every approval that was ever given at a site and is kept there, in the order of their digests.

    Raises:
        FolderError: one is damaged.
    """
    found = (approval_of(site, path.stem) for path in sorted((site.folder / FOLDER).glob("*.json")))
    return [approval for approval in found if approval is not None]


def check_started(approval: Approval, plan: Plan) -> None:
    """Insist that the release which was looked at when a plan was approved is the one that it starts from.

    Raises:
        NotApproved: it is another, or none was looked at.
    """
    pinned = None if plan.start is None else plan.start.manifest
    if approval.document.start != pinned:
        raise NotApproved(
            f"plan {plan.digest[:8]} starts from another release than was looked at when it was approved, or none was: "
            "its operator approves it again, with --start FOLDER"
        )


def check_approval(site: SiteDir, approval: Approval, coordinator: str, now: datetime) -> None:
    """Refuse a request for a plan whose approval does not, or no longer, cover it.

    Args:
        site: the SITE_DIR, with its policy as it is now.
        approval: of the plan.
        coordinator: the name of the one whose signature the request bears.
        now: the time.

    Raises:
        NotApproved: another coordinator's, or as `check_honoured`.
    """
    check_honoured(site, approval, now)
    document = approval.document
    if site.policy.coordinators.get(coordinator) != document.coordinator_key:
        raise NotApproved(
            f"plan {document.digest[:8]} was approved at {site.config.site} for another coordinator, which must ask "
            "itself"
        )


def check_honoured(site: SiteDir, approval: Approval, now: datetime) -> None:
    """Refuse an approval that is over, or that the policy of now does not honour.

    Raises:
        NotApproved: withdrawn, expired, older than the policy allows, of another federation than the one that is
            pinned now, of a coordinator that the policy does not name, or not signed where it asks for it.
    """
    document, name, policy = approval.document, site.config.site, site.policy
    plan = f"plan {document.digest[:8]}"
    if approval.withdrawn:
        raise NotApproved(f"{plan} was withdrawn at {name}; the study must be planned anew")
    if approval.expired(now):
        raise NotApproved(
            f"the approval of {plan} at {name} held until {document.until}; ask to have it approved again"
        )
    longest = timedelta(days=policy.longest_approval_days or 0)
    if policy.longest_approval_days is None or now.astimezone(UTC).date() - approval.first_day > longest:
        raise NotApproved(
            f"{plan} was approved at {name} on {approval.first_day}, and longest_approval_days of policy.toml is "
            f"{policy.longest_approval_days or 'not said'} now; its operator approves it again"
        )
    named = {key: coordinator for coordinator, key in policy.coordinators.items()}
    if document.coordinator_key not in named:
        raise NotApproved(f"{plan} was approved at {name} for a coordinator that policy.toml does not name now")
    pinned = policy.federations.get(named[document.coordinator_key])
    if pinned != document.federation:
        raise NotApproved(
            f"{plan} was approved at {name} with {_pinned(document.federation)}, and policy.toml pins "
            f"{_pinned(pinned)} now: its operator approves it again, or pins the one that was approved"
        )
    if policy.approvers:
        approver_of(policy, document, approval.signature)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise FolderError(f"{text} in an approval is no day; restore the file from your backup") from None


def _pinned(federation: str | None) -> str:
    return "no federation.json" if federation is None else f"the federation.json {federation[:8]}"


def _content(sealed: dict[str, object]) -> tuple[bytes, str]:
    return canonical_json(sealed["approval"]), str(sealed["seal"])  # type: ignore[arg-type]


def _seal(site: SiteDir, content: bytes) -> str:
    return hmac.new(site.secret(), _SEAL_DOMAIN + content, hashlib.sha256).hexdigest()


def _path(site: SiteDir, digest: str) -> Path:
    return site.folder / FOLDER / f"{digest}.json"


def _damaged(path: Path) -> FolderError:
    return FolderError(f"{path} is damaged: it is not what was approved; restore it from your backup")
