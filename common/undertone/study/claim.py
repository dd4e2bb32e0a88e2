"""The claim of a plan, recomputed by whoever reads it (PRIVACY 10).

A plan is signed by its coordinator, and a signature proves nothing about a figure in it. So whoever approves,
registers, answers, runs or verifies a plan computes epsilon from the plan's own mechanism, at `max_attempts`, and
refuses a plan that claims less. A plan that claims a higher epsilon harms nobody; `verify` alone
requires equality, because it reports the figure. Where a claim covers two studies (PRIVACY 25) the events of both stand
in the plan, and are composed in one call.

Plan and accounting are all that this needs, so a node without torch runs it. For every plan that the schema accepts it
takes about 10 s and less than 1 GB, and as long again where it has an ancestor, whose claim is another. Measured on one
core: eight events of two studies 11 s and 450 MB, one event 5.5 s and 330 MB at p = 0.5, z = 100, T = 10^6; 3 s and 350
MB with so little noise that epsilon is 10^5 or more; no time with noise below Delta / 16, where nothing is computed.
"""

from functools import lru_cache

from undertone.errors import UnderstatedClaim
from undertone.privacy.accounting import Event, epsilon_claim, epsilon_rdp
from undertone.study.plan import Plan

# Another processor may round the last bits of a convolution differently.
TOLERANCE = 1e-9


def recompute_epsilon(plan: Plan) -> tuple[float, float]:
    """The claim and its RDP from the plan's integers alone; infinite where no accountant can certify it.

    A process computes the figures of equal charges once and keeps them.
    """
    return epsilons(plan.claimed, plan.privacy.delta)


@lru_cache(maxsize=256)
def epsilons(events: tuple[Event, ...], delta: float) -> tuple[float, float]:
    """The claim and its RDP of all these charges together, each event `count` times.

    Raises:
        StudyError: delta is not in (0, 1).
    """
    return epsilon_claim(events, delta), epsilon_rdp(events, delta)


def check_claim(plan: Plan) -> None:
    """Refuse a plan that claims less than its mechanism gives; or whose ancestor's does, which a reader is told too.

    Raises:
        UnderstatedClaim: both figures.
    """
    if plan.ancestor is not None:
        check_claim(plan.ancestor)
    claimed = (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    given = recompute_epsilon(plan)
    if any(not true <= said * (1 + TOLERANCE) for true, said in zip(given, claimed, strict=True)):
        raise UnderstatedClaim(
            f"plan {plan.digest[:8]} claims epsilon {claimed[0]:.6g} (RDP {claimed[1]:.6g}) at delta "
            f"{plan.privacy.delta:g}; its mechanism gives {given[0]:.6g} (RDP {given[1]:.6g}) over "
            f"{_attempts(plan)}. Do not approve it: the coordinator must plan the study again"
        )


def _attempts(plan: Plan) -> str:
    """As many as the claim covers."""
    both = " of two studies" if plan.claimed != plan.charges else ""
    return f"{sum(event.count for event in plan.claimed)} attempts{both}"


def delta_warning(plan: Plan) -> str | None:
    """A sentence that warns about a delta above 1 / (number of units); None where delta is not."""
    delta, units = plan.privacy.delta, sum(plan.patients.values())
    if delta * units <= 1:
        return None
    return (
        f"The plan's delta of {delta:g} is large for {units} units: a mechanism with this delta may reveal about "
        f"{delta * units:.3g} of them outright. It should be below 1/{units} = {1 / units:.2g}."
    )
