"""The gate: the one door from a private sum to a value that may be looked at (PRIVACY 5, 7, 8, 11).

Central noise: Q durable -> receipt durable -> draw Z -> V durable -> use. Distributed: receipt durable -> the sum
is opened, with the sites' noise in it -> V durable -> use. Noise is never drawn twice for a V that was used: once
V is on disk, `reopen` returns it.
"""

from undertone.errors import LedgerCorrupt, MechanismViolation
from undertone.failpoints import reached
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger, Receipt, commit_to_sum
from undertone.privacy.noise import rounded_gaussian
from undertone.stages import NoisedSum, SharedSum, Sum
from undertone_server.run import RunFolder


def pass_gate(
    total: Sum,
    salt: bytes,
    plan: Plan,
    ledger: Ledger,
    run: RunFolder,
    round_: int,
    attempt: int,
    entropy: Entropy,
) -> NoisedSum:
    """Charge, then add noise: V = Q + rint(N(0, sigma^2)).

    Args:
        total: Q, already durable in `run`.
        salt: what hides Q in the ledger's commitment; durable beside Q.
        plan: sigma and Delta come from it alone.
        ledger: the coordinator's.
        run: where V becomes durable.
        round_: the round.
        attempt: the attempt at that round.
        entropy: `OsEntropy` outside tests.

    Raises:
        MechanismViolation: bound, noise level or sum are not what the plan and the receipt say.
        BudgetExceeded: the plan's attempts are used up; Q stays where it is.
    """
    if total.sensitivity != plan.sensitivity:
        raise MechanismViolation(
            f"the sum can move by {total.sensitivity}, the plan says {plan.sensitivity}; nothing was opened"
        )
    if plan.privacy.noise != "central":
        raise MechanismViolation("the noise of this plan is added by its sites, not by the gate; nothing was opened")
    if len(total.sites) < plan.quorum:
        raise MechanismViolation(f"a sum of {len(total.sites)} sites; the plan opens {plan.quorum} or more together")
    if run.kept_noised(round_) is not None:
        raise MechanismViolation(f"round {round_} has its noise already; a sum is never noised twice")
    commitment = commit_to_sum(total.values, salt)
    receipt = ledger.receipt(plan.digest, round_, attempt)
    if receipt is None:
        receipt = _charge(commitment, plan, ledger, round_, attempt)
    _check_receipt(receipt, plan, commitment)
    noise = rounded_gaussian(entropy, plan.privacy.sigma, total.values.size)
    values = total.values + noise
    reached("gate/noise drawn")
    run.keep_noised(round_, attempt, values)
    reached("gate/V durable, Q gone")
    return NoisedSum(values, plan.privacy.sigma, total.sites, receipt.entry_hash)


def charge_opening(confirmed: str, plan: Plan, ledger: Ledger, round_: int, attempt: int) -> Receipt:
    """Distributed noise: charge before the shares are asked for that open the sum (PRIVACY 8, 11).

    The sum that is opened then holds the sites' noise and is V itself. A death in between costs the attempt:
    nobody keeps what the sites revealed.

    Args:
        confirmed: digest of the signed survivor lists: which sum was paid for.
        plan: the plan.
        ledger: the coordinator's.
        round_: the round.
        attempt: the attempt at that round.

    Raises:
        BudgetExceeded, ReplayedAttempt: nothing was opened.
    """
    return _charge(confirmed, plan, ledger, round_, attempt)


def pass_shared(total: SharedSum, receipt: Receipt | None, plan: Plan, run: RunFolder, attempt: int) -> NoisedSum:
    """V of a sum that the sites noised themselves: enough shares are in it, and it was paid for.

    Raises:
        MechanismViolation: no receipt, another mechanism, too few sites, or a share of another size.
    """
    if receipt is None or receipt.event != plan.event:
        raise MechanismViolation("the sum was opened without a receipt for the plan's mechanism; nothing was used")
    if plan.privacy.noise != "distributed" or total.sigma_local != plan.privacy.sigma_local:
        raise MechanismViolation("the sites' shares of noise are not what the plan says; nothing was used")
    if len(total.sites) < plan.quorum:
        raise MechanismViolation(f"{len(total.sites)} shares of noise are fewer than the plan counts on")
    if run.kept_noised(receipt.round) is not None:
        raise MechanismViolation(f"round {receipt.round} has its noise already; a sum is never noised twice")
    run.keep_shared(receipt.round, attempt, total)
    reached("gate/shared V durable")
    return NoisedSum(total.values, plan.privacy.sigma, total.sites, receipt.entry_hash)


def reopen(plan: Plan, ledger: Ledger, run: RunFolder, round_: int) -> NoisedSum | None:
    """The V of a round that was noised before, with the receipt that paid for it; None if there is none.

    Raises:
        LedgerCorrupt: V is there and its charge is not: the ledger was restored from an old copy.
    """
    kept = run.kept_noised(round_)
    if kept is None:
        return None
    attempt, values, sites = kept
    receipt = ledger.receipt(plan.digest, round_, attempt)
    if receipt is None:
        raise LedgerCorrupt(
            f"round {round_} was noised and its charge is not in the ledger: "
            "restore the newest ledger.sqlite of this run"
        )
    run.drop_sum(round_)  # a crash right after V became durable leaves Q behind
    return NoisedSum(values, plan.privacy.sigma, sites, receipt.entry_hash)


def _check_receipt(receipt: Receipt, plan: Plan, commitment: str) -> None:
    if receipt.event != plan.event:
        raise MechanismViolation("the receipt paid for another mechanism than the plan's; nothing was opened")
    if receipt.sum_sha256 != commitment:
        raise MechanismViolation(
            "the receipt paid for another sum than the one on disk; nothing was opened. Restore the round's sum and "
            "salt; if that cannot be done, remove its sum: the attempt is then void and counts"
        )


def _charge(commitment: str, plan: Plan, ledger: Ledger, round_: int, attempt: int) -> Receipt:
    reached("gate/before charge")
    receipt = ledger.charge(plan.digest, round_, attempt, plan.event, commitment, plan.privacy.max_attempts)
    reached("gate/receipt durable")
    return receipt
