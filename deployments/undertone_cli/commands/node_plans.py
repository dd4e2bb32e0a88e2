"""`undertone node policy | receive | pending | approve | end`, and `withdraw DIGEST`: which plans a site joins."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path

import click

from undertone.core.bounds import PLAN_BYTES, SIGNATURE_BYTES
from undertone.core.clock import utc_now
from undertone.core.config import Section
from undertone.core.durable import storage_errors
from undertone.core.progress import reporting
from undertone.core.text import shown
from undertone.errors import FolderError, InputError, NotApproved, PlanChanged, Refused
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_cli.console import Bars, lines, out
from undertone_client.approval.approvals import Approval, approvals
from undertone_client.approval.approving import approve, end, free_expired, withdraw
from undertone_client.approval.books import LedgerBooks
from undertone_client.approval.checks import check_plan
from undertone_client.approval.pending import Pending, drop_pending, keep_pending, read_plan, request_path, waiting
from undertone_client.approval.proposing import Proposal, propose, requested, write_request
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.budget import Budget, StudyBudget
from undertone_client.site.folder import SiteDir
from undertone_client.site.violations import violations

_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_TYPED = 8
_RAW_SIGNATURE = 64
_OPENSSL = ("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", "KEY.pem")
site_dir = click.argument("site_dir", type=click.Path(path_type=Path))
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("policy")
@site_dir
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@as_json_option
def policy(site_dir: Path, plan: Path | None, as_json: bool) -> None:
    """Explain each key of policy.toml and its value; with a PLAN, name all of it that the policy does not allow.

    Anything that policy.toml does not say is refused. Exit code 3 where the plan violates something.

    Example: undertone node policy /srv/undertone/site plan.json
    """
    site = SiteDir(site_dir)
    if plan is None:
        if as_json:
            _json({"site": site.config.site, "policy": site.policy.model_dump(mode="json")})
        else:
            _explain(site.policy)
        return
    asked = Plan.from_bytes(_read(plan, PLAN_BYTES))
    found = violations(asked, site.policy)
    if as_json:
        _json({"site": site.config.site, "plan": asked.digest, "violations": list(map(asdict, found))})
    for one in () if as_json else found:
        _say(f"{one.key}\n  the plan says    {one.plan}\n  the policy says  {one.policy}\n  {one.remedy}")
    if found:
        raise NotApproved(f"policy.toml of {site.config.site} does not allow plan {asked.digest[:8]}, as said above")
    if not as_json:
        _say(f"policy.toml of {site.config.site} allows plan {asked.digest[:8]} of the study {asked.study}")


@click.command("receive")
@site_dir
@click.argument("plan", type=click.Path(path_type=Path))
@click.argument("signature", type=click.Path(path_type=Path))
def receive(site_dir: Path, plan: Path, signature: Path) -> None:
    """Let a plan wait for approval: PLAN is its plan.json, SIGNATURE the coordinator's plan.sig.

    Plans also come with the first message of a coordinator that policy.toml names.

    Example: undertone node receive /srv/undertone/site plan.json plan.sig
    """
    site, data = SiteDir(site_dir), _read(plan, PLAN_BYTES)
    Plan.from_bytes(data)
    digest = keep_pending(site, data, _read(signature, SIGNATURE_BYTES).decode("ascii", "replace").strip())
    _say(f"plan {digest[:_TYPED]} waits; look at it with: undertone node approve {site_dir} {digest[:_TYPED]}")


@click.command("pending")
@site_dir
@click.option("--drop", metavar="DIGEST", help="Remove this plan from what waits.")
@as_json_option
def pending(site_dir: Path, drop: str | None, as_json: bool) -> None:
    """List the plans that wait for approval, and those that were approved.

    Example: undertone node pending /srv/undertone/site
    """
    site = SiteDir(site_dir)
    if drop is not None:
        digest = _whole(drop, [one.digest for one in waiting(site)])
        drop_pending(site, digest)
        if as_json:
            _json({"site": site.config.site, "dropped": digest})
        else:
            _say(f"plan {digest[:_TYPED]} waits no longer")
        return
    listed = [*(_waits(site, one) for one in waiting(site)), *_decided(site, utc_now())]
    if as_json:
        _json({"site": site.config.site, "plans": listed})
    for one in () if as_json else listed:
        _say(f"{one['state']:<10} {str(one['digest'])[:_TYPED]}  {_about(one)}")


@click.command("approve")
@site_dir
@click.argument("digest")
@click.option("--data", required=True, metavar="NAME", help="The data set whose images are used.")
@click.option("--operator", required=True, help="The name of the person who approves; it is kept.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Its last day, UTC; by default the policy's longest.")
@click.option("--start", type=click.Path(path_type=Path), help="The release that the plan starts from, where it does.")
@click.option("--yes-digest", metavar="DIGEST8", help="The first 8 digits of the digest, instead of typing them.")
@click.option("--print-request", is_flag=True, help="Approve nothing: write the document that an approver signs.")
@click.option("--signature", type=click.Path(path_type=Path), help="An approver's signature over that document.")
def approve_command(
    site_dir: Path,
    digest: str,
    data: str,
    operator: str,
    until: datetime | None,
    start: Path | None,
    yes_digest: str | None,
    print_request: bool,
    signature: Path | None,
) -> None:
    """Show what a plan would do, in words for a board, and approve it; DIGEST may be its first 8 digits.

    The plan's epsilon is recomputed first, and all of it is held against policy.toml. Then its records are registered
    and its attempts reserved in the data set's budget: all of it, or nothing.

    A plan may start from the release of another study. Then that release is needed too: --start names its folder. It is
    verified and held against the plan, and against this site's ledger where the site took part in it.

    Where policy.toml names approvers, one of them signs: --print-request writes the document, --signature brings the
    signature over it (64 bytes of Ed25519, or their hexadecimal digits).

    Example: undertone node approve /srv/undertone/site 3f2a9c1b --data chest --operator "A. Operator"
    """
    site, now = SiteDir(site_dir), utc_now()
    books = LedgerBooks(site.ledger)
    digest = _whole(digest, [one.digest for one in waiting(site)])
    with Bars() as bars, reporting(bars):
        free_expired(site, books, now)
        if signature is not None:
            if not site.policy.approvers:
                raise InputError("--signature goes with approvers in policy.toml, which names none; leave it out")
            _refuse_until(until)
            proposal = _recorded(site, digest, lambda: requested(site, digest, data, books, now, start))
            approval = approve(site, proposal, books, now, _signature(signature))
            _approved(proposal, f"signed by {approval.approver}")
            return
        last = _day(until)
        proposal = _recorded(site, digest, lambda: propose(site, digest, data, operator, last, books, now, start))
    _say(proposal.document.page)
    if print_request:
        _print_request(site, proposal)
        return
    if site.policy.approvers:
        raise NotApproved(
            f"policy.toml names approvers ({', '.join(site.policy.approvers)}): one of them must sign; write what they "
            "sign with --print-request, then bring the signature with --signature"
        )
    _confirm(digest, yes_digest)
    with Bars() as bars, reporting(bars):
        approve(site, proposal, books, now)
    _approved(proposal, f"by {operator}")


def withdraw_plan(site_dir: Path, digest: str) -> None:
    """Withdraw an approved plan, given by at least the first 8 digits of its digest.

    One that only holds a reservation, because its approval was never finished, is freed likewise.

    Raises:
        NotApproved: there is no approval of it.
    """
    site = SiteDir(site_dir)
    held = [digest for digest, study in _studies(site).items() if study.freed is None]
    known = {*held, *(approval.document.digest for approval in approvals(site))}
    found = _whole(digest, sorted(known), "was approved")
    withdraw(site, found, LedgerBooks(site.ledger), utc_now())
    _say(
        f"plan {found[:_TYPED]} is withdrawn for good: this node answers it no more, and the budget that it has not "
        "charged is free. What was sent stays in what was released"
    )


@click.command("end")
@site_dir
@click.argument("digest")
def end_command(site_dir: Path, digest: str) -> None:
    """End a study at this site: the budget that it has not charged is free; DIGEST may be its first 8 digits.

    Do so when the coordinator says that the release is made, or that nothing more will come. Until then an attempt
    may have to be repeated, so nothing ends a study by itself. The node answers it no more. If it goes on after all,
    receive and approve its plan once more.

    Example: undertone node end /srv/undertone/site 3f2a9c1b
    """
    site = SiteDir(site_dir)
    studies = _studies(site)
    found = _whole(digest, sorted(studies), "was approved")
    end(site, found, LedgerBooks(site.ledger))
    held = studies[found]
    _say(
        f"plan {found[:_TYPED]} is ended here: it charged {held.charged} of {held.attempts} attempts, and what it has "
        "not charged is free. This node answers it no more"
    )


def _studies(site: SiteDir) -> Mapping[str, StudyBudget]:
    """Digest -> what the ledger says of each plan that ever reserved anything."""
    with Ledger.open(site.ledger, read_only=True) as ledger:
        return {study.digest: study for budget in Budget.of_all(ledger) for study in budget.studies}


def _state(approval: Approval, held: StudyBudget | None, now: datetime) -> str:
    """What an approval is worth, in a word."""
    if approval.withdrawn:
        return "withdrawn"
    if approval.expired(now):
        return "expired"
    if held is None:
        return "unreserved"  # the ledger is another, or an older copy
    return "approved" if held.freed is None else held.freed if held.freed in ("ended", "expired") else "lost"


def _explain(settings: Section) -> None:
    """Each key of a policy, what it is for and what it says."""
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        said = "nothing, so nothing is allowed" if value in (None, [], {}) else shown(str(value), 2000)
        if key in ("approvers", "federations") and value in (None, {}):
            said = "none"
        _say(f"{key}\n  {field.description}\n  now: {said}\n")


def _waits(site: SiteDir, waits: Pending) -> dict[str, str | None]:
    """What is known of a plan that waits, whatever its bytes are; `refused` says why it cannot be approved."""
    known: dict[str, str | None] = {"state": "waits", "digest": waits.digest, "coordinator": waits.coordinator or None}
    try:
        plan = read_plan(waits)
    except PlanChanged as error:
        return known | {"study": None, "refused": str(error)}
    try:
        check_plan(site, plan)
    except Refused as error:
        return known | {"study": plan.study, "refused": str(error)}
    return known | {"study": plan.study, "refused": None}


def _decided(site: SiteDir, now: datetime) -> Iterator[dict[str, str | None]]:
    """What is known of each plan that was approved."""
    studies = _studies(site)
    for approval in approvals(site):
        document = approval.document
        yield {
            "state": _state(approval, studies.get(document.digest), now),
            "digest": document.digest,
            "coordinator": document.coordinator,
            "study": approval.plan_approved().study,
            "data_set": document.data_set,
            "until": document.until,
            "operator": document.operator,
            "approver": approval.approver or None,
        }


def _about(known: Mapping[str, str | None]) -> str:
    """A line about a plan."""
    if known["state"] != "waits":
        return (
            f"study {known['study']}, asked by {known['coordinator']}, data set {known['data_set']}, until "
            f"{known['until']}, by {shown(str(known['operator']))}"
        )
    study = "" if known["study"] is None else f"study {known['study']}, "
    refused = "" if known["refused"] is None else f": cannot be approved: {known['refused']}"
    return f"{study}from {known['coordinator'] or 'nobody that policy.toml names'}{refused}"


def _print_request(site: SiteDir, proposal: Proposal) -> None:
    document = write_request(site, proposal)
    path = request_path(site, document.digest)
    lines(
        [
            ("to be signed by one of", ", ".join(site.policy.approvers) or "nobody: policy.toml names no approver"),
            ("the document", path),
            ("for example with", shlex.join([*_OPENSSL, "-in", str(path), "-out", "approval.sig"])),
        ]
    )


def _confirm(digest: str, given: str | None) -> None:
    """Insist on the first digits of the digest, so that nobody approves another plan than the one he read.

    Raises:
        InputError: other digits.
    """
    typed = given if given is not None else click.prompt(f"To approve, type the first {_TYPED} digits of the digest")
    if typed.strip() != digest[:_TYPED]:
        raise InputError(
            f"{shown(typed, _TYPED)} are not the first {_TYPED} digits of the digest; nothing was approved"
        )


def _recorded(site: SiteDir, digest: str, work: Callable[[], Proposal]) -> Proposal:
    """What a person asked to see; a plan that the site refuses stands in the audit log with the error's name."""
    try:
        return work()
    except Refused as error:
        waits = next(one for one in waiting(site) if one.digest == digest)
        key = site.policy.coordinators.get(waits.coordinator)
        if key is not None:
            AuditLog(site.folder).append("plan refused", digest=digest, coordinator=key, verdict=type(error).__name__)
        raise


def _approved(proposal: Proposal, by: str) -> None:
    document = proposal.document
    _say(f"plan {document.digest[:_TYPED]} is approved until {document.until} (UTC), {by}")


def _whole(digest: str, known: Sequence[str], how: str = "waits") -> str:
    """The one known digest that begins so.

    Raises:
        InputError: none does, or several.
    """
    if not _PREFIX.fullmatch(digest):
        raise InputError(f"{shown(digest, 80)} is no digest; give at least its first {_TYPED} digits")
    found = [one for one in known if one.startswith(digest)]
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'no'} plan that {how} begins with {digest}; `undertone node pending` lists them"
        )
    return found[0]


def _signature(path: Path) -> str:
    """Hexadecimal; a file of 64 bytes is taken as they are."""
    data = _read(path, SIGNATURE_BYTES)
    return data.hex() if len(data) == _RAW_SIGNATURE else data.decode("ascii", "replace").strip()


def _refuse_until(until: datetime | None) -> None:
    """Raise InputError where a last day comes with a signature, which covers the one in the document."""
    if until is not None:
        raise InputError("the last day is in the document that was signed; leave --until out, or write a new request")


def _day(until: datetime | None) -> date | None:
    return None if until is None else until.date()


def _read(path: Path, most: int) -> bytes:
    """A file of at most so many bytes.

    Raises:
        FolderError: it cannot be read, or is longer.
    """
    with storage_errors(path), path.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise FolderError(f"{path} has more than {most} bytes; name the file that the coordinator wrote")
    return data


def _json(values: Mapping[str, object]) -> None:
    click.echo(json.dumps(values))


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
