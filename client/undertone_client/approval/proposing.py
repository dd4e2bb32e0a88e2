"""A plan that waits becomes a document that a person can approve: checked whole, and put into words.

Nothing is changed at the site here but pending/DIGEST.request, which holds the document for an approver to sign.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from undertone.core.durable import read_bytes, write_durable
from undertone.errors import FolderError, InputError, NotApproved
from undertone.study.plan import Plan
from undertone_client.approval.approvals import ApprovalDocument, approval_of, check_honoured
from undertone_client.approval.books import Books
from undertone_client.approval.checks import check_data_set, check_plan
from undertone_client.approval.page import Asked, approval_page
from undertone_client.approval.pending import pending_plan, read_plan, request_path
from undertone_client.approval.starts import checked_start
from undertone_client.registration.stored import path_of
from undertone_client.site.audit_events import Person
from undertone_client.site.folder import SiteDir

_PERSON: TypeAdapter[str] = TypeAdapter(Person)


@dataclass(frozen=True)
class Proposal:
    """A plan that passed every check, the document that would approve it, and the release that it starts from."""

    plan: Plan
    document: ApprovalDocument
    start: Path | None = None


def propose(
    site: SiteDir,
    digest: str,
    data_set: str,
    operator: str,
    until: date | None,
    books: Books,
    now: datetime,
    start: Path | None = None,
) -> Proposal:
    """Check a plan that waits, and write the page that a person approves. Nothing is changed at the site.

    Args:
        site: the SITE_DIR.
        digest: of the plan, whole.
        data_set: whose images it would use.
        operator: the name of the person at the machine.
        until: the last day of the approval; None: as long as the policy allows.
        books: the site's ledger.
        now: the time.
        start: the folder of the release that the plan starts from, where it does.

    Raises:
        UnfitStart, AncestorNotCharged: that release is not what it should be, or this site's ledger lacks its charges.
        FolderError: no such plan waits, it is damaged, or there is no such data set.
        NotApproved: coordinator, roster, data set or policy do not allow it; every violation of the policy at once.
        PlanChanged: a plan of another version or other code, or no plan.
        UnderstatedClaim: it claims less than it costs.
        BudgetExceeded: the data set's budget does not hold it.
        InputError: no operator, or a day that the policy does not allow.
    """
    _check_person(operator)
    kept = path_of(site, digest).exists()
    return _proposal(site, digest, data_set, operator, until, books, now, start, registered_before=kept)


def proposed_again(
    site: SiteDir, digest: str, document: ApprovalDocument, books: Books, now: datetime, start: Path | None = None
) -> Proposal:
    """The plan, if what a person was shown is, word for word and figure for figure, what he would be shown now.

    Records that the broken-off approval with this very document registered, or what it reserved, change nothing.

    Raises:
        NotApproved: something is another; names what. And all else as `propose`.
    """
    said, kept = document.registered_before, path_of(site, digest).exists()
    today = _proposal(
        site,
        digest,
        document.data_set,
        document.operator,
        document.last_day,
        books,
        now,
        start,
        registered_before=kept and (said or approval_of(site, digest) is not None),
    )
    shown = dict(document)
    changed = [key.replace("_", " ") for key, value in today.document if value != shown[key]]
    if changed:
        raise NotApproved(
            f"what was shown of plan {digest[:8]} is not so any more, and nothing was approved ({', '.join(changed)} "
            "changed since): look at the page of today, and let whoever signs sign that one, which `undertone node "
            "approve --print-request` writes"
        )
    return today


def _proposal(
    site: SiteDir,
    digest: str,
    data_set: str,
    operator: str,
    until: date | None,
    books: Books,
    now: datetime,
    start: Path | None,
    *,
    registered_before: bool,
) -> Proposal:
    _check_undecided(site, digest, books, now)
    waiting = pending_plan(site, digest)
    plan = read_plan(waiting)
    check_plan(site, plan)
    found = checked_start(site.config.site, plan, start, books)
    data = check_data_set(site, plan, data_set)
    asked = Asked(
        site=site.config.site,
        plan=plan,
        coordinator=waiting.coordinator,
        coordinator_key=site.policy.coordinators[waiting.coordinator],
        data=data,
        operator=operator,
        until=_last_day(site, until, now),
        price=books.price(plan, data),
        before=books.standing(data, plan, reserved=False),
        after=books.standing(data, plan),
        federation=site.policy.federations.get(waiting.coordinator),
        registered_before=registered_before,
        start=found,
    )
    document = ApprovalDocument(
        site=asked.site,
        digest=digest,
        coordinator=asked.coordinator,
        coordinator_key=asked.coordinator_key,
        data_set=data.name,
        operator=operator,
        until=asked.until.isoformat(),
        price=asked.price,
        before=asked.before,
        after=asked.after,
        federation=asked.federation,
        registered_before=registered_before,
        start=None if plan.start is None else plan.start.manifest,
        page=approval_page(asked),
    )
    return Proposal(plan, document, start)


def write_request(site: SiteDir, proposal: Proposal) -> ApprovalDocument:
    """Keep the document for an approver to sign, in pending/DIGEST.request, and return it.

    Raises:
        FolderError: it cannot be written.
    """
    write_durable(request_path(site, proposal.document.digest), proposal.document.as_bytes())
    return proposal.document


def requested(
    site: SiteDir, digest: str, data_set: str, books: Books, now: datetime, start: Path | None = None
) -> Proposal:
    """The plan and the document that `write_request` kept, which must be the one that would be written now.

    Raises:
        FolderError: none was kept, or it is damaged.
        InputError: it is about another data set, or its last day is over or beyond what the policy allows.
        NotApproved: what it says is not so any more. And all else as `propose`.
    """
    path = request_path(site, digest)
    if not path.is_file():
        raise FolderError(
            f"no request for plan {digest[:8]} was written; `undertone node approve --print-request` does"
        )
    try:
        document = ApprovalDocument.model_validate_json(read_bytes(path))
    except ValidationError:
        raise FolderError(f"{path} is damaged; write the request anew") from None
    if document.data_set != data_set:
        raise InputError(f"the request is about the data set {document.data_set}, not {data_set}; write it anew")
    return proposed_again(site, digest, document, books, now, start)


def _check_undecided(site: SiteDir, digest: str, books: Books, now: datetime) -> None:
    """Refuse a plan that needs no approval, or gets none.

    One whose approval the node honours no more gets another: it has expired, is for keys or a federation that the
    policy does not name now, or its reservation was given back, as by a clock that was ahead.

    Raises:
        InputError: it is approved.
        NotApproved: it was withdrawn.
    """
    before = approval_of(site, digest)
    if before is None:
        return
    if before.withdrawn:
        raise NotApproved(f"plan {digest[:8]} was withdrawn for good; the study must be planned anew")
    with suppress(NotApproved):
        check_honoured(site, before, now)
        if books.holds(digest):
            raise InputError(f"plan {digest[:8]} is approved until {before.document.until}; there is nothing to do")


def _check_person(operator: str) -> None:
    """Raise InputError unless the audit log can hold this person's name."""
    try:
        _PERSON.validate_python(operator)
    except ValidationError:
        raise InputError(
            "--operator takes the name of the person who approves, at most 100 characters: a letter, then letters, "
            "digits, spaces and . , ' @ ( ) + _ -"
        ) from None


def _last_day(site: SiteDir, until: date | None, now: datetime) -> date:
    """The last day of an approval.

    Raises:
        InputError: it is over, or later than the policy allows.
        NotApproved: the policy does not say how long an approval may last.
    """
    today, longest = now.astimezone(UTC).date(), site.policy.longest_approval_days
    if longest is None:
        raise NotApproved(
            f"policy.toml of {site.config.site} has no longest_approval_days; write how long one may last"
        )
    last = today + timedelta(days=longest)
    if until is not None and not today <= until <= last:
        raise InputError(
            f"an approval until {until} is over, or longer than the policy allows; name a day up to {last}"
        )
    return until or last
