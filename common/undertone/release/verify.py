"""Verify a release: signatures, files, weights, ledger chain, charges equal to the plan's event, epsilon recomputed.

Whoever wrote a release may have written it to deceive or to exhaust its reader, so every file and figure is
checked against a bound before it is used. Without the coordinator's key all this shows that a release is consistent
with itself; it shows nothing about who made it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from undertone.core.bounds import PLAN_BYTES, SIGNATURE_BYTES, STATEMENT_BYTES
from undertone.core.canonical import Json, canonical_json
from undertone.core.keys import PLAN_DOMAIN, check_signature
from undertone.core.text import REASON, is_shown
from undertone.errors import (
    LedgerCorrupt,
    LedgerUnavailable,
    ModelError,
    NotApproved,
    NotVerified,
    PlanChanged,
    UnderstatedClaim,
)
from undertone.methods.classed import check_classes
from undertone.methods.registry import method_for
from undertone.methods.weights import check_weights
from undertone.privacy.ledger import Ledger
from undertone.release.manifest import check_manifest, read_part
from undertone.release.statement import TookPart, privacy_statement
from undertone.release.trust import covered_beside
from undertone.study.claim import TOLERANCE, check_claim, recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.planned import check_shards


@dataclass(frozen=True)
class Verified:
    """What `verify` found to be true. `epsilon` is the claim, by `accountant`: "PLD" or "RDP".

    `coordinator` is the key that signed; whose key that is was checked only where `signer_checked`. `everywhere`: the
    sites in every sum, and `partly`: in how many others are, by the coordinator's word. `with_study`: the study that
    the claim covers beside this one, or "".
    """

    study: str
    digest: str
    coordinator: str
    epsilon: float
    epsilon_rdp: float
    delta: float
    unit: str
    attempts_charged: int
    accountant: str
    signer_checked: bool
    everywhere: tuple[str, ...] = ()
    partly: Mapping[str, int] = field(default_factory=dict)
    with_study: str = ""

    def sums_of(self, site: str, plan: Plan) -> int:
        """In how many of the plan's sums, one a round, the site is."""
        return plan.privacy.rounds if site in self.everywhere else self.partly.get(site, 0)


def verify(folder: Path, coordinator: str | None = None) -> Verified:
    """Check a release folder against itself, and against the coordinator's key if one is given.

    Args:
        folder: the release.
        coordinator: the public key (64 hexadecimal characters) that must have signed it.

    Raises:
        NotVerified: what does not hold, and in which file.
        FolderError: there is no such folder.
    """
    plan, signer = checked_plan(folder, coordinator)
    epsilon, epsilon_rdp = _claim(plan)
    _check_weights(folder, plan)
    charges, head = _charges(folder, plan)
    statement = _statement(folder)
    took_part = _took_part(statement, plan)
    expected = privacy_statement(
        plan,
        setting=statement.get("setting"),
        ledger_head=head,
        charges=charges,
        took_part=took_part,
    )
    if not _same(statement, expected):
        differing = (key for key in sorted({*statement, *expected}) if not _same(statement.get(key), expected.get(key)))
        changed = next(differing, "its spelling")
        raise NotVerified(f"privacy.json says something else than plan and ledger do: {changed}")
    privacy = plan.privacy
    accountant = "PLD" if privacy.noise == "central" else "RDP"
    return Verified(
        plan.study,
        plan.digest,
        signer,
        epsilon,
        epsilon_rdp,
        privacy.delta,
        privacy.unit,
        charges,
        accountant,
        coordinator is not None,
        tuple(took_part.everywhere),
        dict(took_part.partly),
        covered_beside(plan),
    )


def checked_plan(folder: Path, coordinator: str | None = None) -> tuple[Plan, str]:
    """The plan of a release and the key that signed both, once the manifest holds: before anything else is read.

    Raises:
        NotVerified: a file was changed, added or is missing; another key; a plan beyond its bounds.
        FolderError: there is no such folder.
    """
    signer = check_manifest(folder, coordinator)
    data, signature = read_part(folder, "plan.json", PLAN_BYTES), read_part(folder, "plan.sig", SIGNATURE_BYTES)
    try:
        plan = Plan.from_bytes(data)
        check_signature(signer, PLAN_DOMAIN, plan.digest, signature.decode("ascii"))
    except (UnicodeDecodeError, PlanChanged, NotApproved) as error:
        raise NotVerified(f"plan.json or plan.sig does not hold: {error}") from None
    if plan.rehearsal:
        raise NotVerified("plan.json is a rehearsal's, on drawn images: nothing of it is a release")
    return plan, signer


def _claim(plan: Plan) -> tuple[float, float]:
    """Epsilon and its RDP, which the plan must claim exactly but for the last bits of another processor."""
    claimed = (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    try:
        check_claim(plan)
    except UnderstatedClaim as error:
        raise NotVerified(f"plan.json claims too little: {error}") from None
    given = recompute_epsilon(plan)
    if not np.allclose(given, claimed, rtol=TOLERANCE, atol=0):
        raise NotVerified(
            f"plan.json claims epsilon {claimed[0]} (RDP {claimed[1]}), its mechanism gives {given[0]} "
            f"(RDP {given[1]}): another version of dp-accounting, or a false plan"
        )
    return given


def _check_weights(folder: Path, plan: Plan) -> None:
    try:
        check_weights(folder, plan.method)
        method = method_for(plan.method.name, plan.method.options)
        check_classes(method, plan.data.classes)
        check_shards(method, plan)
    except ModelError as error:
        raise NotVerified(f"the weights do not hold: {error}") from None
    except PlanChanged as error:
        raise NotVerified(f"plan.json does not hold: {error}") from None


def _same(stated: Json, expected: Json) -> bool:
    try:
        return canonical_json(stated) == canonical_json(expected)
    except ValueError:  # NaN or infinity, which no statement holds
        return False


def _charges(folder: Path, plan: Plan) -> tuple[int, str]:
    """Attempts charged and the head of the chain; every charge is the event of its round's own stage."""
    try:
        with Ledger.open(folder / "ledger.sqlite", read_only=True, most=_most_entries(plan)) as ledger:
            charges, head = ledger.charges(plan.digest), ledger.head
            strangers = [entry for entry in ledger.entries() if entry.kind == "charge"]
    except (LedgerCorrupt, LedgerUnavailable) as error:
        raise NotVerified(f"ledger.sqlite does not hold: {error}") from None
    rounds = range(1, plan.privacy.rounds + 1)
    if len(strangers) != len(charges) or any(
        charge.round not in rounds or charge.event != plan.stage_of(charge.round).event for charge in charges
    ):
        raise NotVerified("ledger.sqlite charges something that is not in the plan")
    if {charge.round for charge in charges} != set(rounds):
        raise NotVerified("ledger.sqlite does not charge every round of the plan")
    if any(sum(charge.round in stage.rounds for charge in charges) > stage.max_attempts for stage in plan.stages):
        raise NotVerified("ledger.sqlite charges more attempts than the plan allows")
    return len(charges), head


def _most_entries(plan: Plan) -> int:
    """An upper bound: each attempt has its charge and entries of its opening or void; the rest is for sessions."""
    return 100 + 4 * plan.privacy.max_attempts


def _took_part(statement: dict[str, Any], plan: Plan) -> TookPart:
    """Who was in the sums and who was not: only the statement tells this, so it is checked against the roster."""
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
    return TookPart(sites, missing, fewest, _partly(cohort, missing, plan.privacy.rounds))


def _partly(cohort: dict[str, Any], missing: Mapping[str, str], rounds: int) -> dict[str, int]:
    """In how many sums each site is that is in some of them, and not in all."""
    found = cohort.get("sums_of_missing_sites", {})
    if not isinstance(found, dict) or not set(found) <= set(missing):
        raise NotVerified("privacy.json counts sums of other sites than those that it calls missing: cohort")
    if not all(type(count) is int and 0 < count < rounds for count in found.values()):
        raise NotVerified(f"privacy.json counts sums otherwise than from 1 to {rounds - 1}: cohort")
    return found


def _statement(folder: Path) -> dict[str, Any]:
    try:
        statement: dict[str, Any] = json.loads(read_part(folder, "privacy.json", STATEMENT_BYTES))
        if not isinstance(statement, dict) or not isinstance(statement.get("cohort"), dict):
            raise ValueError("not a statement")
    except (ValueError, RecursionError) as error:
        raise NotVerified(f"privacy.json cannot be read: {error}") from None
    return statement
