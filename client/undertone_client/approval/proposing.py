"""A plan that waits becomes a document that a person can approve: checked whole, and put into words.

Nothing is changed at the site here but pending/DIGEST.request, which holds the document for an approver to sign.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from undertone.core.durable import read_bytes, write_durable
from undertone.errors import FolderError, InputError, NotApproved
from undertone.study.plan import Plan
from undertone_client.approval.approvals import ApprovalDocument, approval_of
from undertone_client.approval.books import Books
from undertone_client.approval.checks import check_data_set, check_plan
from undertone_client.approval.page import Asked, approval_page
from undertone_client.approval.pending import pending_plan, read_plan, request_path
from undertone_client.site.audit_events import Person
from undertone_client.site.folder import SiteDir

_PERSON: TypeAdapter[str] = TypeAdapter(Person)


@dataclass(frozen=True)
class Proposal:
    """A plan that passed every check, and the document that would approve it."""

    plan: Plan
    document: ApprovalDocument


def propose(
    site: SiteDir, digest: str, data_set: str, operator: str, until: date | None, books: Books, now: datetime
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

    Raises:
        FolderError: no such plan waits, it is damaged, or there is no such data set.
        NotApproved: coordinator, roster, data set or policy do not allow it; every violation of the policy at once.
        PlanChanged: a plan of another version or other code, or no plan.
        UnderstatedClaim: it claims less than it costs.
        BudgetExceeded: the data set's budget does not hold it.
        InputError: no operator, or a day that the policy does not allow.
    """
    waiting = pending_plan(site, digest)
    plan, name = read_plan(waiting), site.config.site
    check_undecided(site, digest, now)
    check_plan(site, plan)
    data = check_data_set(site, plan, data_set)
    _check_person(operator)
    asked = Asked(
        site=name,
        plan=plan,
        coordinator=waiting.coordinator,
        coordinator_key=site.policy.coordinators[waiting.coordinator],
        data=data,
        operator=operator,
        until=_last_day(site, until, now),
        price=books.price(plan, data),
        before=books.standing(data),
        after=books.standing(data, plan),
        federation=site.policy.federations.get(waiting.coordinator),
    )
    document = ApprovalDocument(
        site=name,
        digest=digest,
        coordinator=asked.coordinator,
        coordinator_key=asked.coordinator_key,
        data_set=data.name,
        operator=operator,
        until=asked.until.isoformat(),
        page=approval_page(asked),
    )
    return Proposal(plan, document)


def write_request(site: SiteDir, proposal: Proposal) -> ApprovalDocument:
    """Keep the document for an approver to sign, in pending/DIGEST.request, and return it.

    Raises:
        FolderError: it cannot be written.
    """
    write_durable(request_path(site, proposal.document.digest), proposal.document.as_bytes())
    return proposal.document


def requested(site: SiteDir, digest: str, data_set: str, now: datetime) -> Proposal:
    """The plan and the document that `write_request` kept, all checked again but for the figures of the budget.

    What is spent may have changed since the page was printed; the reservation decides about it.

    Raises:
        FolderError: none was kept, or it is damaged.
        InputError: it is about another data set, or its last day is over or beyond what the policy allows.
        NotApproved, PlanChanged, UnderstatedClaim: as `propose`.
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
    waiting = pending_plan(site, digest)
    plan = read_plan(waiting)
    check_undecided(site, digest, now)
    check_plan(site, plan)
    check_data_set(site, plan, document.data_set)
    _last_day(site, document.last_day, now)
    asker = (waiting.coordinator, site.policy.coordinators[waiting.coordinator])
    if (document.site, document.digest) != (site.config.site, digest) or asker != (
        document.coordinator,
        document.coordinator_key,
    ):
        raise NotApproved(f"{path} is about another site, plan or coordinator; write the request anew")
    if document.data_set != data_set:
        raise InputError(f"the request is about the data set {document.data_set}, not {data_set}; write it anew")
    return Proposal(plan, document)


def check_undecided(site: SiteDir, digest: str, now: datetime) -> None:
    """Refuse a plan that needs no approval, or gets none.

    Raises:
        InputError: it is approved.
        NotApproved: it was withdrawn.
    """
    before = approval_of(site, digest)
    if before is None:
        return
    if before.withdrawn:
        raise NotApproved(f"plan {digest[:8]} was withdrawn for good; the study must be planned anew")
    if not before.expired(now):
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
