"""pending/DIGEST.json and .sig: plans that wait for a person, as their coordinator signed them.

They come by file or with the first message of a coordinator that the policy names. A coordinator can fill no disk: each
has room for `MOST_PENDING` plans, and what comes then is refused, never put in another's place.
"""

from dataclasses import dataclass
from pathlib import Path

from undertone.core.bounds import PLAN_BYTES
from undertone.core.canonical import sha256_hex
from undertone.core.durable import exclusively, read_bytes, storage_errors, sync, write_durable
from undertone.errors import FolderError, NotApproved, ProtocolError
from undertone.study.plan import Plan
from undertone_client.site.folder import SiteDir

FOLDER = "pending"
MOST_PENDING = 16


@dataclass(frozen=True)
class Pending:
    """A plan that waits.

    Attributes:
        digest: of the plan.
        coordinator: that signed it, as policy.toml names it; "" where the policy no longer does.
        plan: its bytes, which are whatever that coordinator signed.
    """

    digest: str
    coordinator: str
    plan: bytes


def keep_pending(site: SiteDir, plan: bytes, signature: str) -> str:
    """Keep a plan that a known coordinator signed, and return its digest.

    The bytes are not read: what they hold is looked at when a person asks. A plan that waits already stays the plan of
    the coordinator that sent it first.

    Raises:
        ProtocolError: longer than any plan.
        NotApproved: the signature is by no coordinator of the policy, or as many plans of this one wait already.
        FolderError: it cannot be written.
    """
    if len(plan) > PLAN_BYTES:
        raise ProtocolError(f"a plan of {len(plan)} bytes is not kept; {PLAN_BYTES} are enough")
    digest, folder = sha256_hex(plan), site.folder / FOLDER
    coordinator = site.policy.coordinator_of(digest, signature)
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(site.folder)
    with exclusively(folder):
        signers = _signers(site)
        if signers.get(digest):
            return digest
        waiting = [name for waits, name in signers.items() if waits != digest]
        if waiting.count(coordinator) >= MOST_PENDING:
            raise NotApproved(
                f"{MOST_PENDING} plans of {coordinator} wait at {site.config.site} already; its operator approves them "
                "or drops them with `undertone node pending --drop`"
            )
        # The plan last: a signature alone is nothing that waits.
        write_durable(folder / f"{digest}.sig", signature.encode())
        write_durable(_plan(site, digest), plan)
    return digest


def waiting(site: SiteDir) -> list[Pending]:
    """What waits, in the order of their digests.

    Raises:
        FolderError: a plan is not the one that was signed.
    """
    return [_read(site, digest, name) for digest, name in _signers(site).items()]


def pending_plan(site: SiteDir, digest: str) -> Pending:
    """The plan of this digest that waits.

    Raises:
        FolderError: there is none, or it is not the one that was signed.
        NotApproved: no coordinator that the policy names signed it.
    """
    found = _signers(site).get(digest)
    if found is None:
        raise FolderError(f"no plan {digest[:8]} waits at {site.config.site}; `undertone node pending` lists what does")
    if not found:
        raise NotApproved(f"plan {digest[:8]} is signed by no coordinator that policy.toml names")
    return _read(site, digest, found)


def drop_pending(site: SiteDir, digest: str) -> None:
    """Remove a plan from what waits; if it is not there, nothing happens."""
    with storage_errors(site.folder / FOLDER):
        for ending in ("json", "sig", "request"):
            (site.folder / FOLDER / f"{digest}.{ending}").unlink(missing_ok=True)


def request_path(site: SiteDir, digest: str) -> Path:
    """pending/DIGEST.request: the document that an approver signs."""
    return site.folder / FOLDER / f"{digest}.request"


def read_plan(pending: Pending) -> Plan:
    """The plan itself.

    Raises:
        PlanChanged: the bytes that were signed are no plan of this version.
    """
    return Plan.from_bytes(pending.plan)


def _signers(site: SiteDir) -> dict[str, str]:
    """Digest of each plan that waits -> its coordinator; "" where the policy names it no longer."""
    return {path.stem: _signer(site, path) for path in sorted((site.folder / FOLDER).glob("*.json"))}


def _signer(site: SiteDir, path: Path) -> str:
    try:
        signature = path.with_suffix(".sig").read_text(encoding="ascii")
        return site.policy.coordinator_of(path.stem, signature)
    except (OSError, UnicodeDecodeError, NotApproved):
        return ""


def _read(site: SiteDir, digest: str, coordinator: str) -> Pending:
    path = _plan(site, digest)
    plan = read_bytes(path)
    if sha256_hex(plan) != digest:
        raise FolderError(f"{path} is damaged: it is not the plan that was signed; drop it and ask for it again")
    return Pending(digest, coordinator, plan)


def _plan(site: SiteDir, digest: str) -> Path:
    return site.folder / FOLDER / f"{digest}.json"
