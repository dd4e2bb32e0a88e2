"""The budget of a site's data sets, for ever, in the site's ledger (PRIVACY 13).

A data set has one cap, registered once. Every plan draws on it, whoever signed it, whatever it is called: an approval
reserves all that the plan may charge, a charge is made from the reservation, and the end, the withdrawal or the expiry
of a plan frees what it did not charge. Which plans fit is decided by `undertone.privacy.filter` over all entries of the
ledger, within the transaction that appends the next one: of two processes, exactly one gets the last of a cap.

Each call is durable when it returns. So a reservation is durable before its approval counts, and a charge before a
vector leaves.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from undertone.core import bounds
from undertone.core.text import shown
from undertone.errors import BudgetExceeded, FolderError, MechanismViolation, NotApproved, PlanChanged
from undertone.privacy.cap import Cap, suggested
from undertone.privacy.chain import Entry
from undertone.privacy.ledger import Ledger, Receipt
from undertone.privacy.renyi import minus, spend
from undertone.study.plan import Plan
from undertone_client.site.accounts import DATA_SET, FREE, LOST, RESERVE, Accounts, Part, Registered, Reservation
from undertone_client.site.datasets import DataSet


class _Done(Exception):
    """What is asked for stands in the ledger already."""


def register_cap(ledger: Ledger, data: DataSet) -> None:
    """Register a data set with its unit and its cap, once and for all.

    Raises:
        BudgetExceeded: one of that name is registered already.
        InputError: the cap is so small that no plan fits.
    """
    registered = _registered(data)

    def allowed(entries: Sequence[Entry]) -> None:
        if data.name in Accounts.read(entries).data_sets:
            raise BudgetExceeded(
                f"the data set {data.name} is registered in this ledger with a cap for ever, and a second registration "
                "gets no fresh budget. New records join it by `undertone node data update`"
            )

    ledger.append(DATA_SET, registered.as_dict(), allowed)


def reserve(ledger: Ledger, plan: Plan, data_set: str) -> None:
    """Reserve all that a plan may charge; once more for the same plan and data set changes nothing.

    A plan that has ended may reserve again: what it has not charged.

    Raises:
        BudgetExceeded: it does not fit beside what is spent and reserved.
        NotApproved: no such data set, or the plan protects another unit than the data set's.
        PlanChanged: the plan has drawn on another data set.
    """
    with suppress(_Done):
        ledger.append(
            RESERVE,
            _wanted(plan, data_set).as_dict(),
            lambda entries: _check_fits(Accounts.read(entries), plan, data_set),
        )


def free(ledger: Ledger, digest: str, reason: str) -> bool:
    """Give back what a plan has not charged; what it has stays charged. A second time changes nothing, and is False.

    Args:
        ledger: of the site.
        digest: of the plan.
        reason: "ended", "withdrawn", "expired", in a few words.

    Raises:
        NotApproved: the plan never reserved anything.
    """

    def allowed(entries: Sequence[Entry]) -> None:
        accounts = Accounts.read(entries)
        before = accounts.reservations.get(digest)
        if before is not None and not before.live:
            raise _Done
        if before is None:
            raise NotApproved(f"plan {digest[:8]} has reserved nothing at this site; there is nothing to free")
        accounts.filter(before.data_set).free(digest)

    try:
        ledger.append(FREE, {"digest": digest, "reason": shown(reason, bounds.TEXT)}, allowed)
    except _Done:
        return False
    return True


def holds(ledger: Ledger, digest: str) -> bool:
    """Whether a plan may still charge: it has reserved, and nothing has given that back."""
    held = Accounts.read(ledger.entries()).reservations.get(digest)
    return held is not None and held.live


def lose(ledger: Ledger, reason: str) -> None:
    """Charges are missing in this ledger and cannot be had back: all that is reserved now counts as charged.

    No plan that holds a reservation charges any more.
    """
    ledger.append(LOST, {"reason": shown(reason, bounds.TEXT)}, _check_readable)


def charge(ledger: Ledger, plan: Plan, round_: int, attempt: int, commitment: str) -> Receipt:
    """Charge one attempt from the plan's reservation; durable when this returns (PRIVACY 11-13).

    Args:
        ledger: of the site.
        plan: that was approved.
        round_: the round.
        attempt: the attempt at that round.
        commitment: `commit_to_sum` of what is about to leave.

    Raises:
        ReplayedAttempt: the attempt was charged before, or with `once_per_round` another one of its round.
        NotApproved: the plan holds no reservation: never approved, or ended, withdrawn, expired.
        MechanismViolation: the event of the round's stage is not the one that was reserved.
        BudgetExceeded: its attempts are used up.
        LedgerCorrupt, LedgerUnavailable: nothing was charged.
    """

    def allowed(entries: Sequence[Entry]) -> None:
        accounts = Accounts.read(entries)
        held = accounts.reservations.get(plan.digest)
        if held is None:
            raise NotApproved(f"plan {plan.digest[:8]} has reserved nothing at this site; its operator approves it")
        accounts.filter(held.data_set).spend(plan.digest, stage.event)
        try:
            held.charging(round_, stage.event.as_dict())
        except ValueError as error:
            raise MechanismViolation(f"{error}; nothing was charged") from None

    stage = plan.stage_of(round_)
    return ledger.charge(
        plan.digest,
        round_,
        attempt,
        stage.event,
        commitment,
        stage.max_attempts,
        rounds=stage.rounds,
        once_per_round=stage.once_per_round,
        allowed=allowed,
    )


def carry_over(ledger: Ledger, plan: Plan, data_set: str, charges: Sequence[Receipt]) -> None:
    """Enter what another ledger charges for a plan that is over, one charge after the other, and that it has ended.

    Raises:
        BudgetExceeded, NotApproved, PlanChanged: as `reserve` and `charge`.
    """
    reserve(ledger, plan, data_set)
    for one in charges:
        charge(ledger, plan, one.round, one.attempt, one.sum_sha256)
    free(ledger, plan.digest, "ended")


def check_draws_on(ledger: Ledger, plan: Plan, data_set: str) -> None:
    """Insist that a plan has reserved of the data set that it was approved for: whose images, whose budget.

    Raises:
        PlanChanged: it is another's.
    """
    held = Accounts.read(ledger.entries()).reservations.get(plan.digest)
    if held is not None and held.data_set != data_set:
        raise PlanChanged(
            f"plan {plan.digest[:8]} draws on the budget of another data set than it was approved for; sign a new plan"
        )


def price(plan: Plan, delta: float | None = None, *, before: Plan | None = None) -> float:
    """The least cap, in thousandths of epsilon, that holds the plan alone: what it takes by RDP, filter included.

    Args:
        plan: with its `max_attempts`.
        delta: of the cap; None: the plan's own.
        before: a plan that the cap holds too.

    Raises:
        InputError: no cap holds it.
    """
    charges = (*plan.charges, *(() if before is None else before.charges))
    return suggested(spend(charges), plan.privacy.delta if delta is None else delta).epsilon


@dataclass(frozen=True)
class StudyBudget:
    """What one plan has of a data set's budget; epsilons at the cap's delta, and they do not add up.

    Attributes:
        digest: of the plan.
        attempts: that it reserved.
        charged: attempts.
        spent: epsilon of what it charged.
        reserved: epsilon of what it may still charge.
        freed: why the rest was given back; None while it may charge.
    """

    digest: str
    attempts: int
    charged: int
    spent: float
    reserved: float
    freed: str | None


@dataclass(frozen=True)
class Budget:
    """The budget of a data set, for people. Epsilons are readings at the cap's delta, no claims, and do not add up.

    Attributes:
        name: of the data set.
        unit: what its budget protects.
        epsilon: of the cap.
        delta: of the cap.
        spent: by all charges of all studies.
        reserved: by what approved plans may still charge.
        committed: by both together.
        left: what one more plan may claim by RDP, were it a Gaussian without sampling.
        studies: every plan that was ever approved, oldest first.
    """

    name: str
    unit: str
    epsilon: float
    delta: float
    spent: float
    reserved: float
    committed: float
    left: float
    studies: tuple[StudyBudget, ...]

    @classmethod
    def of(cls, ledger: Ledger, data: DataSet, plan: Plan | None = None, *, reserved: bool = True) -> "Budget":
        """The budget of a data set. Nothing is reserved or freed here.

        Args:
            ledger: of the site.
            data: the data set.
            plan: whose reservation counts as `reserved` says, whether the ledger has it or not.
            reserved: whether it holds all that it asks for, or nothing beyond what it has charged.

        Raises:
            FolderError: the data set is not registered in this ledger, or as another.
            BudgetExceeded, NotApproved, PlanChanged: the plan would get no reservation, as in `reserve`.
        """
        accounts = Accounts.read(ledger.entries())
        registered = accounts.data_sets.get(data.name)
        if registered != _registered(data):
            raise FolderError(
                f"the data set {data.name} is not in the ledger"
                if registered is None
                else f"datasets/{data.name}.toml says another unit, column or cap than the ledger, where they are "
                "fixed for life; restore the file"
            )
        if plan is not None and not reserved:
            accounts = accounts.without_reservation(plan.digest)
        elif plan is not None:
            with suppress(_Done):
                _check_fits(accounts, plan, data.name)
                accounts = accounts.with_reservation(_wanted(plan, data.name))
        return cls._read(accounts, data.name)

    @classmethod
    def of_all(cls, ledger: Ledger) -> list["Budget"]:
        """The budgets of all data sets in a ledger, in the order of their registration."""
        accounts = Accounts.read(ledger.entries())
        return [cls._read(accounts, name) for name in accounts.data_sets]

    @classmethod
    def _read(cls, accounts: Accounts, name: str) -> "Budget":
        registered, filter_ = accounts.data_sets[name], accounts.filter(name)
        cap, figures = registered.cap, filter_.figures()
        return cls(
            name=name,
            unit=registered.unit,
            epsilon=cap.epsilon,
            delta=cap.delta,
            spent=figures.spent,
            reserved=cap.figure(minus(filter_.committed, filter_.spent)),
            committed=figures.committed,
            left=figures.left,
            studies=tuple(_study(cap, reservation) for reservation in accounts.of(name)),
        )


def _study(cap: Cap, reservation: Reservation) -> StudyBudget:
    plan = reservation.approved
    return StudyBudget(
        digest=reservation.digest,
        attempts=reservation.attempts,
        charged=reservation.charged,
        spent=cap.figure(plan.spent),
        reserved=cap.figure(plan.unused) if reservation.live else 0.0,
        freed=reservation.freed,
    )


def _registered(data: DataSet) -> Registered:
    return Registered(data.name, data.unit, data.unit_column, Cap.register(data.epsilon, data.delta))


def _check_readable(entries: Sequence[Entry]) -> None:
    Accounts.read(entries)


def _wanted(plan: Plan, data_set: str) -> Reservation:
    stages = plan.stages
    rounds = [None if len(stages) == 1 else (stage.rounds.start, stage.rounds.stop - 1) for stage in stages]
    parts = (Part(one.event, one.max_attempts, of) for one, of in zip(stages, rounds, strict=True))
    return Reservation(plan.digest, data_set, tuple(parts))


def _check_fits(accounts: Accounts, plan: Plan, data_set: str) -> None:
    """A plan may reserve all that it may charge.

    Raises:
        _Done: it has, and may charge.
        BudgetExceeded, NotApproved, PlanChanged: it may not, as in `reserve`.
    """
    wanted, before = _wanted(plan, data_set), accounts.reservations.get(plan.digest)
    _check_unit(accounts, plan, data_set)
    if before is not None and not before.same(wanted):
        raise PlanChanged(
            f"plan {plan.digest[:8]} has reserved {before.attempts} attempts on the data set {before.data_set}; a plan "
            "draws on one data set, with the events of its stages. Sign a new plan"
        )
    if before is not None and before.live:
        raise _Done
    accounts.filter(data_set).approve(plan.digest, plan.charges)


def _check_unit(accounts: Accounts, plan: Plan, data_set: str) -> None:
    """The plan protects what the data set's budget counts.

    Raises:
        NotApproved: another unit, another column, or no such data set.
    """
    registered = accounts.data_sets.get(data_set)
    if registered is None:
        raise NotApproved(f"no data set {data_set} is registered in this ledger; `undertone node data add` does it")
    wanted = (plan.privacy.unit, plan.data.unit_column)
    if wanted != (registered.unit, registered.unit_column):
        raise NotApproved(
            f"plan {plan.digest[:8]} protects {_named(*wanted)}; the budget of the data set {data_set} counts "
            f"{_named(registered.unit, registered.unit_column)}, for life. Ask for a plan with that unit"
        )


def _named(unit: str, column: str | None) -> str:
    return f"each {unit}" if column is None else f"each {unit} of the column {shown(column)}"
