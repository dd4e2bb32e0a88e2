"""Approving a plan, withdrawing it, and what happens when its study or its time is over: everything or nothing.

An approval is checks, then the registration of the records, then the reservation in the ledger, then
approved/DIGEST.json: only the last lets the node answer. Whoever is killed in between has a registration, or a
reservation too, and the same command finishes what it began. A withdrawal goes the other way round: the node refuses
first, then the budget is freed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime

from undertone.core.durable import exclusively, storage_errors
from undertone.errors import InputError, NotApproved
from undertone_client.approval.approvals import (
    FOLDER,
    Approval,
    approval_of,
    approvals,
    approver_of,
    keep_approval,
)
from undertone_client.approval.books import Books
from undertone_client.approval.pending import drop_pending
from undertone_client.approval.proposing import Proposal, proposed_again
from undertone_client.registration.registered import register
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.datasets import data_set
from undertone_client.site.folder import SiteDir


def approve(
    site: SiteDir,
    proposal: Proposal,
    books: Books,
    now: datetime,
    signature: str = "",
    say: Callable[[str], None] | None = None,
) -> Approval:
    """Approve what was proposed, all or nothing; the plan then no longer waits.

    What was shown is worked out once more, and counts only where it is the same: between a page and a signature, or an
    operator's answer, the budget, the policy, the data set or the federation may have changed.

    Args:
        site: the SITE_DIR.
        proposal: of `propose` or `requested`.
        books: the site's ledger.
        now: the time.
        signature: an approver's over the document, hexadecimal; needed where the policy names approvers.
        say: is told what of the images is worth a line; by default the reporter.

    Raises:
        NotApproved: no approver has signed this very document, what it says is not so any more, or the plan was
            withdrawn.
        DataError: records that cannot be used; nothing was registered, reserved or approved.
        BudgetExceeded: the budget does not hold the plan; nothing was approved.
        FolderError, LedgerUnavailable: the approval is not finished; give the same command again.
    """
    document = proposal.document
    approver = approver_of(site.policy, document, signature) if site.policy.approvers else ""
    with _alone(site):
        proposed_again(site, document.digest, document, books, now, proposal.start)
        register(site, proposal.plan, data_set(site.folder, document.data_set), say)
        books.reserve(proposal.plan, document.data_set)
        approval = Approval(
            document=document,
            plan=proposal.plan.as_bytes().decode(),
            approved=_time(now),
            approver=approver,
            signature=signature if approver else "",
        )
        plan = proposal.plan
        AuditLog(site.folder).append(
            "plan approved",
            digest=document.digest,
            coordinator=document.coordinator_key,
            data_set=document.data_set,
            operator=document.operator,
            epsilon=plan.privacy.epsilon,
            delta=plan.privacy.delta,
            max_attempts=plan.privacy.max_attempts,
            expires=document.until,
            approver=site.policy.approvers[approver] if approver else None,
        )
        keep_approval(site, approval)
        drop_pending(site, document.digest)
    return approval


def withdraw(site: SiteDir, digest: str, books: Books, now: datetime) -> None:
    """Withdraw an approval for good: the node refuses the plan from now on, and what it did not charge is freed.

    So is what an approval reserved that never was finished.

    Raises:
        NotApproved: it never was approved, and holds no reservation.
        FolderError: the approval is damaged, or cannot be written.
    """
    with _alone(site):
        approval = approval_of(site, digest)
        if approval is not None and not approval.withdrawn:
            AuditLog(site.folder).append("plan withdrawn", digest=digest)
            keep_approval(site, approval.model_copy(update={"withdrawn": _time(now)}))
        books.free(digest, "withdrawn")


def end(site: SiteDir, digest: str, books: Books) -> None:
    """End a study at this site: what it did not charge is free, and the node answers it no more.

    The approval stays as it is; each request needs the reservation, too. A study that was ended too
    early gets another approval, which reserves anew.

    Raises:
        InputError: it holds no reservation.
    """
    with _alone(site):
        if not books.holds(digest):
            raise InputError(f"plan {digest[:8]} holds no reservation; there is nothing to end")
        AuditLog(site.folder).append("study ended", digest=digest)
        books.free(digest, "ended")


def free_expired(site: SiteDir, books: Books, now: datetime) -> list[Approval]:
    """Free what approvals whose time is over have not charged, and return those; the node refuses them anyway."""
    with _alone(site):
        expired = [approval for approval in approvals(site) if approval.expired(now) and not approval.withdrawn]
        for approval in expired:
            with suppress(NotApproved):  # a ledger that was put back to an older copy may not know it
                if books.free(approval.document.digest, "expired"):
                    AuditLog(site.folder).append("plan expired", digest=approval.document.digest)
    return expired


def _alone(site: SiteDir) -> AbstractContextManager[None]:
    """Within, no other command approves or withdraws at this site."""
    folder = site.folder / FOLDER
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    return exclusively(folder)


def _time(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
