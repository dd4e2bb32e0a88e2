"""Plans of two studies, one of which starts from the other's release, with noise set by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.world import make_plan
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.study.claim import recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.start import PlannedStart, PlannedSuccessor

SITES = {"clinic-a": 30, "clinic-b": 20, "clinic-c": 20}
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
# The second study: other noise, other rate, several attempts.
SECOND: dict[str, Any] = {"sigma": 3000, "sampling_rate": 0.5, "rounds": 2, "max_attempts": 3}


def claiming(plan: Plan, changes: Mapping[str, Any] = {}) -> Plan:
    """The plan with some keys changed and a claim that is what they come to."""
    changed = Plan.model_validate(plan.model_dump() | dict(changes))
    epsilon, epsilon_rdp = recompute_epsilon(changed)
    claim = changed.privacy.model_copy(update={"epsilon": epsilon, "epsilon_rdp": epsilon_rdp})
    return Plan.model_validate(changed.model_copy(update={"privacy": claim}).model_dump())


def second_plan(base: Path, **changes: Any) -> Plan:
    """A plan that may follow, as it would be without a start."""
    return make_plan(base, SITES, **(SECOND | changes))


def first_plan(base: Path, successor: Plan | None = None, **changes: Any) -> Plan:
    """A plan whose release another study starts from; with `successor` its claim covers that study's events too."""
    plan = make_plan(base, SITES, **({"sigma": 4096} | changes))
    if successor is None:
        return plan
    promised = PlannedSuccessor.of(successor.study, successor.charges)
    return claiming(plan, {"successor": promised.model_dump()})


def start_from(ancestor: Plan, key: Ed25519PrivateKey = KEY, **changes: Any) -> dict[str, Any]:
    """`start` of a plan, as if a release of `ancestor` were there."""
    values = {
        "manifest": "ab" * 32,
        "coordinator": public_hex(key),
        "plan": ancestor.as_bytes().decode(),
        "signature": sign(key, PLAN_DOMAIN, ancestor.digest),
        "images": 20,
        "steps": 3,
    }
    return PlannedStart.model_validate(values | changes).model_dump()


def started(plan: Plan, ancestor: Plan) -> Plan:
    """The plan, starting from a release of `ancestor`, with the claim that both come to."""
    return claiming(plan, {"start": start_from(ancestor)})
