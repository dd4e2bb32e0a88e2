"""The budget of a data set, for ever: which plans still fit, whatever was learned from those before (PRIVACY 13).

Every approval reserves what its plan may charge at most. With spent(alpha) the sum of the divergences of all charges,
of every study, coordinator and attempt, and reserved(alpha) that of all charges that approved plans may still make,

    a plan is approved iff at some order alpha, with the plan itself, spent(alpha) + reserved(alpha) <= cap_alpha.

**No approved study starves.** A charge moves one and the same integer from reserved to spent, so their sum T(alpha)
stays as it is; only an approval raises T, and it is tested; the end, the withdrawal or the expiry of a plan lowers T by
what it did not charge. So the test holds at every moment, for T at one order, and no charge within its reservation can
fail it, whatever other plans do. **What is spent is within the cap**: spent(alpha) <= T(alpha) at every order, hence
spent(alpha) <= cap_alpha at the order at which T fits. A void attempt whose vector left stays charged.

**Why that is (epsilon, delta) for plans that depend on what came out.** Fix two neighbouring data sets, let P and Q be
the laws of all that is ever seen, in either order, and L the log-ratio of what was seen. The next charge is chosen
from what was seen before, and given that it has divergence at most rho(alpha) at every order at once. So with
S = sum of rho(alpha), exp((alpha - 1) (L - S)) is a supermartingale under P for each fixed alpha (Feldman, Zrnic 2021;
Lecuyer 2021), and its mean stays at or below 1 however long it goes on. With g(L) = max(0, 1 - e^(epsilon - L))
and c_alpha = (1 - 1 / alpha)^(alpha - 1) / alpha, Canonne, Kamath, Steinke 2020 (proposition 12) show g(L) <=
c_alpha e^((alpha - 1) (L - epsilon)). Stop at any moment: each transcript then has a first order alpha* at which
S <= cap_alpha, and delta is at most

    E g(L) = sum over alpha of E[g(L); alpha* = alpha] <= sum of c_alpha e^((alpha - 1) (cap_alpha - epsilon))
           = sum of w_alpha delta <= delta.

Which order fits may change from one moment to the next: the one at the stop counts. Feldman and Zrnic 2021 fix one
order; "some order" without weights is not licensed by it (each order would add a delta of its own to the sum above),
and "each plan at the order that suits it" bounds nothing. A filter stops at a cap that was fixed before; an odometer,
which may be read at any time, costs more (Rogers, Roth, Ullman, Vadhan 2016), so `figures` are readings and no claims.
Studies may interleave: each charge is one mechanism, and the ledger puts charges in one order, before their answers.

A `Filter` is a value. A ledger builds it from its entries, asks for the next one within the transaction of the entry,
and keeps it once the entry is durable; a charge costs a look at each order, and no divergence is computed for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from undertone.errors import BudgetExceeded, MechanismViolation, NotApproved, PlanChanged
from undertone.privacy.accounting import Event
from undertone.privacy.cap import Cap
from undertone.privacy.renyi import NOTHING, Vector, minus, plus, spend

_CHARS = 8  # of a digest, in messages
_NAMED = 5  # plans, in one message


@dataclass(frozen=True)
class Approved:
    """A plan that was approved once.

    Attributes:
        allowed: how many charges of each event (of count 1) its plan allows in all.
        charged: how many were made; never more.
        live: whether it may still charge.
    """

    allowed: Mapping[Event, int]
    charged: Mapping[Event, int]
    live: bool

    @property
    def spent(self) -> Vector:
        """What was charged."""
        return spend(_events(self.charged))

    @property
    def unused(self) -> Vector:
        """What the plan has not charged of all that it allows."""
        return spend(_events({event: most - self.charged.get(event, 0) for event, most in self.allowed.items()}))


@dataclass(frozen=True)
class Figures:
    """Epsilons for people, all at the cap's delta, in the filter's own conversion; they do not add up.

    Attributes:
        spent: by all charges.
        committed: by all charges, and those that approved plans may still make.
        left: what one more plan may claim by RDP, were it a Gaussian without sampling.
    """

    spent: float
    committed: float
    left: float


@dataclass(frozen=True)
class Filter:
    """What was approved and charged against one cap; begin with `Filter(cap)`. Its methods return the next value.

    Attributes:
        cap: of the data set.
        plans: digest to what became of it, of every plan that was ever approved.
        committed: [`RDP_ORDERS`] spent and reserved together, exactly.
    """

    cap: Cap
    plans: Mapping[str, Approved] = field(default_factory=dict)
    committed: Vector = NOTHING

    def approve(self, digest: str, events: Iterable[Event]) -> "Filter":
        """Reserve all that a plan may charge; if it was approved before and has ended, what is unused of that.

        Args:
            digest: of the plan.
            events: what it may charge, `max_attempts` in all.

        Raises:
            BudgetExceeded: it does not fit beside what is spent and reserved.
            MechanismViolation: it is approved now, or charges nothing.
            PlanChanged: this digest was approved with other events.
        """
        allowed: Counter[Event] = Counter()
        for event in events:
            allowed[replace(event, count=1)] += event.count
        before = self.plans.get(digest)
        if not allowed:
            raise MechanismViolation(f"plan {digest[:_CHARS]} has no event; a plan without a charge is none")
        if before is not None and before.live:
            raise MechanismViolation(f"plan {digest[:_CHARS]} is approved already; nothing more was reserved")
        if before is not None and before.allowed != allowed:
            raise PlanChanged(f"plan {digest[:_CHARS]} was approved with other events; sign a new plan")
        plan = Approved(allowed, before.charged if before else {}, live=True)
        after = replace(self, plans={**self.plans, digest: plan}, committed=plus(self.committed, plan.unused))
        if not self.cap.admits(after.committed):
            raise BudgetExceeded(self._refusal(digest, plan))
        return after

    def spend(self, digest: str, event: Event) -> "Filter":
        """Charge an approved plan: from its reservation, never beside it.

        Args:
            digest: of the plan.
            event: what is charged; its count is 1 but where several charges are made at once.

        Raises:
            NotApproved: the plan was never approved, or has ended, expired or been withdrawn.
            MechanismViolation: an event that is not the plan's.
            BudgetExceeded: the plan's charges of this event are used up, or the cap is exceeded by other means.
        """
        plan = self.plans.get(digest)
        if plan is None or not plan.live:
            raise NotApproved(
                f"plan {digest[:_CHARS]} holds no reservation: it was not approved, has ended, expired or been "
                "withdrawn. Approve it, then charge"
            )
        one = replace(event, count=1)
        if one not in plan.allowed:
            raise MechanismViolation(f"{one} is no event of plan {digest[:_CHARS]}; nothing was charged")
        used, most = plan.charged.get(one, 0) + event.count, plan.allowed[one]
        if used > most:
            raise BudgetExceeded(
                f"plan {digest[:_CHARS]} reserved {most} charges of this kind and {used} would be made; release what "
                "there is, or plan a new study"
            )
        if not self.cap.admits(self.committed):
            raise BudgetExceeded(f"{self._account()}; nothing is charged any more. Compare ledger and cap")
        charged = replace(plan, charged={**plan.charged, one: used})
        return replace(self, plans={**self.plans, digest: charged})

    def free(self, digest: str) -> "Filter":
        """A plan has ended, expired or been withdrawn: what it did not charge is free again, the rest stays spent.

        Raises:
            NotApproved: it holds no reservation.
        """
        plan = self.plans.get(digest)
        if plan is None or not plan.live:
            raise NotApproved(f"plan {digest[:_CHARS]} holds no reservation; there is nothing to free")
        plans = {**self.plans, digest: replace(plan, live=False)}
        return replace(self, plans=plans, committed=minus(self.committed, plan.unused))

    @property
    def spent(self) -> Vector:
        """What all charges cost, those of ended plans too."""
        return spend(_events(sum((Counter(plan.charged) for plan in self.plans.values()), Counter())))

    def figures(self) -> Figures:
        """Spent, committed and left, for people."""
        return Figures(self.cap.figure(self.spent), self.cap.figure(self.committed), self.cap.left(self.committed))

    def _account(self) -> str:
        """What the cap is and what is gone of it."""
        figures = self.figures()
        return (
            f"of the cap of epsilon {self.cap.epsilon:g} at delta {self.cap.delta:g}, {_shown(figures.spent)} is spent "
            f"and {_shown(figures.committed)} spent and reserved"
        )

    def _refusal(self, digest: str, plan: Approved) -> str:
        """Why a plan is not approved, and what may be done."""
        needed, together = plan.unused, plus(self.committed, plan.unused)
        left = self.cap.left(self.committed)
        advice = f"an unsampled plan that claims {int(left * 1000) / 1000:.3f} by RDP would fit"
        if len(plan.allowed) == 1:
            (event,) = plan.allowed
            advice = f"{self.cap.room(self.committed, event)} of its attempts would fit, and {advice}"
        return (
            f"plan {digest[:_CHARS]} needs epsilon {_shown(self.cap.figure(needed))}; {self._account()}. Together that "
            f"is {_shown(self.cap.figure(together))}, above the cap (such figures do not add up). Withdraw a plan that "
            f"no longer needs its reservation{self._holders()}, or ask for one with more noise or fewer attempts: "
            f"{advice}"
        )

    def _holders(self) -> str:
        """Who holds a reservation, the first few."""
        live = [digest[:_CHARS] for digest, plan in self.plans.items() if plan.live]
        return f" ({', '.join(live[:_NAMED])}{', ...' if len(live) > _NAMED else ''})" if live else ""


def _events(counts: Mapping[Event, int]) -> Sequence[Event]:
    """Events counted together."""
    return [replace(event, count=count) for event, count in counts.items() if count]


def _shown(epsilon: float) -> str:
    """In thousandths, rounded up: what is above the cap reads as above it."""
    return f"{ceil(epsilon * 1000) / 1000:.3f}"
