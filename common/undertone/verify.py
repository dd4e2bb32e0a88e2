"""Verify a release: signatures, files, ledger chain, charges equal to the plan's event, epsilon recomputed from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undertone.canonical import Json, canonical_json
from undertone.errors import (
    FolderError,
    LedgerCorrupt,
    LedgerUnavailable,
    NotApproved,
    NotVerified,
    PlanChanged,
    StudyError,
)
from undertone.keys import PLAN_DOMAIN, check_signature
from undertone.manifest import check_manifest
from undertone.plan import Plan
from undertone.privacy.ledger import Ledger
from undertone.resolve import recompute_epsilon
from undertone.shown import REASON, is_shown
from undertone.statement import TookPart, privacy_statement


@dataclass(frozen=True)
class Verified:
    """What `verify` found to be true. `epsilon` is the claim, by `accountant`: "PLD" or "RDP"."""

    study: str
    digest: str
    coordinator: str
    epsilon: float
    epsilon_rdp: float
    delta: float
    unit: str
    attempts_charged: int
    accountant: str


def verify(folder: Path, coordinator: str | None = None) -> Verified:
    """Check a release folder against itself, and against the coordinator's key if one is given.

    Args:
        folder: the release.
        coordinator: the public key (64 hexadecimal characters) that must have signed it.

    Raises:
        NotVerified: what does not hold, and in which file.
        FolderError: there is no such folder.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}; give a release, such as RUN/release")
    signer = check_manifest(folder)
    if coordinator is not None and coordinator != signer:
        raise NotVerified(f"the release is signed by {signer[:16]}, not by {coordinator[:16]}")
    plan = _plan(folder, signer)
    charges, head = _charges(folder, plan)
    statement = _statement(folder)
    took_part = _took_part(statement, plan)
    try:
        epsilon, epsilon_rdp = recompute_epsilon(plan)
    except StudyError as error:
        raise NotVerified(f"plan.json claims what no mechanism gives: {error}") from None
    expected = privacy_statement(
        plan,
        setting=statement.get("setting"),
        ledger_head=head,
        charges=charges,
        took_part=took_part,
    )
    claimed = (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    # Another processor may round the last bits of a convolution differently; nothing else may differ.
    if not np.allclose((epsilon, epsilon_rdp), claimed, rtol=1e-9, atol=0):
        raise NotVerified(
            f"plan.json claims epsilon {plan.privacy.epsilon}, its mechanism gives {epsilon}: "
            "another version of dp-accounting, or a false plan"
        )
    if not _same(statement, expected):
        differing = (key for key in sorted({*statement, *expected}) if not _same(statement.get(key), expected.get(key)))
        changed = next(differing, "its spelling")
        raise NotVerified(f"privacy.json says something else than plan and ledger do: {changed}")
    privacy = plan.privacy
    accountant = "PLD" if privacy.noise == "central" else "RDP"
    return Verified(
        plan.study, plan.digest, signer, epsilon, epsilon_rdp, privacy.delta, privacy.unit, charges, accountant
    )


def _same(stated: Json, expected: Json) -> bool:
    try:
        return canonical_json(stated) == canonical_json(expected)
    except ValueError:  # NaN or infinity, which no statement holds
        return False


def _plan(folder: Path, signer: str) -> Plan:
    try:
        plan = Plan.from_bytes((folder / "plan.json").read_bytes())
        check_signature(signer, PLAN_DOMAIN, plan.digest, (folder / "plan.sig").read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError, PlanChanged, NotApproved) as error:
        raise NotVerified(f"plan.json or plan.sig does not hold: {error}") from None
    return plan


def _charges(folder: Path, plan: Plan) -> tuple[int, str]:
    """Attempts charged and the head of the chain; every charge is the plan's own event."""
    try:
        with Ledger.open(folder / "ledger.sqlite", read_only=True) as ledger:
            charges, head = ledger.charges(plan.digest), ledger.head
            strangers = [entry for entry in ledger.entries() if entry.kind == "charge"]
    except (LedgerCorrupt, LedgerUnavailable) as error:
        raise NotVerified(f"ledger.sqlite does not hold: {error}") from None
    if len(strangers) != len(charges) or any(charge.event != plan.event for charge in charges):
        raise NotVerified("ledger.sqlite charges something that is not in the plan")
    if {charge.round for charge in charges} != set(range(1, plan.privacy.rounds + 1)):
        raise NotVerified("ledger.sqlite does not charge every round of the plan")
    if len(charges) > plan.privacy.max_attempts:
        raise NotVerified("ledger.sqlite charges more attempts than the plan allows")
    return len(charges), head


def _took_part(statement: dict[str, Any], plan: Plan) -> TookPart:
    """Who was in the sums and who was not: the one thing that only the statement tells, within the roster."""
    cohort = statement["cohort"]
    sites, missing = cohort.get("sites_in_every_sum"), cohort.get("sites_missing")
    fewest = cohort.get("fewest_sites_in_a_sum")
    if not isinstance(sites, list) or not isinstance(missing, dict) or type(fewest) is not int:
        raise NotVerified("privacy.json does not say which sites are in the sums: cohort")
    if sorted([*map(str, sites), *missing]) != sorted(plan.cohort.units):
        raise NotVerified("privacy.json names other sites than the plan's roster: cohort")
    if not all(is_shown(reason, REASON) for reason in missing.values()):
        raise NotVerified("privacy.json gives a reason that is too long, or no printable text: cohort.sites_missing")
    most = len(sites) if plan.privacy.rounds == 1 else len(plan.cohort.units)
    if not len(sites) <= fewest <= most:
        raise NotVerified(f"privacy.json counts {fewest} sites in a sum and names {len(sites)} in every one: cohort")
    if fewest < plan.quorum:
        raise NotVerified(f"privacy.json says that a sum of {fewest} sites was used; the plan needs {plan.quorum}")
    return TookPart(sites, missing, fewest)


def _statement(folder: Path) -> dict[str, Any]:
    try:
        statement: dict[str, Any] = json.loads((folder / "privacy.json").read_text(encoding="utf-8"))
        if not isinstance(statement, dict) or not isinstance(statement.get("cohort"), dict):
            raise ValueError("not a statement")
    except (OSError, ValueError, RecursionError) as error:
        raise NotVerified(f"privacy.json cannot be read: {error}") from None
    return statement
