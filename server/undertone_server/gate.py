"""The gate from Q to V: the one way from a private sum to a value that may be looked at (PRIVACY 5, 7, 8, 11).

Central noise: Q durable -> receipt durable -> draw Z -> V durable -> use. Distributed: receipt durable -> the sum
is opened, with the sites' noise in it -> V durable -> use. Noise is never drawn twice for a V that was used: once
V is on disk, `reopen` returns it.
"""

from undertone.core.failpoints import reached
from undertone.errors import LedgerCorrupt, MechanismViolation
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger, Receipt, commit_to_sum
from undertone.privacy.noise import rounded_gaussian
from undertone.privacy.stages import NoisedSum, Sum, SumWithNoiseShares
from undertone.study.plan import Plan
from undertone.study.stage import Stage
from undertone_server.attempt_ref import AttemptRef
from undertone_server.run_folder import RunFolder


def pass_gate(attempt: AttemptRef, total: Sum, salt: bytes, entropy: Entropy) -> NoisedSum:
    """Charge, then add noise: V = Q + rint(N(0, sigma^2)).

    Args:
        attempt: which; sigma and Delta come from the stage of its round alone, and V becomes durable in its run.
        total: Q, already durable in the run.
        salt: what hides Q in the ledger's commitment; durable beside Q.
        entropy: `OsEntropy` outside tests.

    Raises:
        MechanismViolation: bound, noise level or sum are not what the plan and the receipt say.
        BudgetExceeded: the plan's attempts are used up; Q stays where it is.
    """
    plan, run, round_, stage = attempt.plan, attempt.run, attempt.round, attempt.stage
    if total.sensitivity != stage.sensitivity:
        raise MechanismViolation(
            f"the sum can move by {total.sensitivity}, the plan says {stage.sensitivity}; nothing was opened"
        )
    if total.values.shape != (stage.dimension,):
        raise MechanismViolation(
            f"the sum has {total.values.size} values, a row of round {round_} has {stage.dimension}; nothing was opened"
        )
    if plan.privacy.noise != "central":
        raise MechanismViolation("the noise of this plan is added by its sites, not by the gate; nothing was opened")
    if len(total.sites) < plan.quorum:
        raise MechanismViolation(f"a sum of {len(total.sites)} sites; the plan opens {plan.quorum} or more together")
    if run.kept_noised(round_) is not None:
        raise MechanismViolation(f"round {round_} has its noise already; a sum is never noised twice")
    commitment = commit_to_sum(total.values, salt)
    receipt = attempt.receipt()
    if receipt is None:
        receipt = _charge(attempt, commitment)
    _check_receipt(receipt, stage, commitment)
    noise = rounded_gaussian(entropy, stage.sigma, total.values.size)
    values = total.values + noise
    reached("gate/noise drawn")
    run.keep_noised(round_, attempt.number, values)
    reached("gate/V durable, Q gone")
    return NoisedSum(values, stage.sigma, total.sites, receipt.entry_hash)


def charge_unmasking(attempt: AttemptRef, signatures_sha256: str) -> Receipt:
    """Distributed noise: charge before Unmasking, in which the sites reveal what opens the sum (PRIVACY 8, 11).

    The sum that is opened then holds the sites' noise and is V itself. A death in between costs the attempt:
    nobody keeps what the sites revealed.

    Args:
        attempt: which.
        signatures_sha256: digest of the signatures on the survivor list: which sum was paid for.

    Raises:
        BudgetExceeded, ReplayedAttempt: nothing was opened.
    """
    return _charge(attempt, signatures_sha256)


def pass_with_noise_shares(attempt: AttemptRef, total: SumWithNoiseShares, receipt: Receipt | None) -> NoisedSum:
    """V of a sum that the sites noised themselves: enough noise shares are in it, and the attempt was charged.

    Raises:
        MechanismViolation: no receipt, or one of another mechanism or attempt; too few sites; noise shares of another
            size.
    """
    plan, stage = attempt.plan, attempt.stage
    if receipt is None or receipt.event != stage.event:
        raise MechanismViolation("the sum was opened without a receipt for the plan's mechanism; nothing was used")
    if (receipt.digest, receipt.round, receipt.attempt) != (plan.digest, attempt.round, attempt.number):
        raise MechanismViolation("the sum was opened with the receipt of another attempt; nothing was used")
    if plan.privacy.noise != "distributed" or total.sigma_local != stage.sigma_local:
        raise MechanismViolation("the sites' noise shares are not what the plan says; nothing was used")
    if len(total.sites) < plan.quorum:
        raise MechanismViolation(f"{len(total.sites)} noise shares are fewer than the plan counts on")
    if total.values.shape != (stage.dimension,):
        raise MechanismViolation(f"the sum has {total.values.size} values, a row of its round {stage.dimension}")
    if attempt.run.kept_noised(attempt.round) is not None:
        raise MechanismViolation(f"round {attempt.round} has its noise already; a sum is never noised twice")
    attempt.run.keep_with_noise_shares(attempt.round, attempt.number, total)
    reached("gate/V with noise shares durable")
    return NoisedSum(total.values, stage.sigma, total.sites, receipt.entry_hash)


def noised_before(plan: Plan, ledger: Ledger, run: RunFolder, round_: int) -> NoisedSum | None:
    """The V of a round that was noised before, with the receipt that paid for it; None if there is none.

    Raises:
        LedgerCorrupt: V is there and its charge is not: the ledger was restored from an old copy.
    """
    kept = run.kept_noised(round_)
    if kept is None:
        return None
    number, values, sites = kept
    attempt = AttemptRef(plan, ledger, run, round_, number)
    receipt = attempt.receipt()
    if receipt is None:
        raise LedgerCorrupt(
            f"round {round_} was noised and its charge is not in the ledger: "
            "restore the newest ledger.sqlite of this run"
        )
    run.drop_sum(round_)  # a crash right after V became durable leaves Q behind
    if receipt.event != attempt.stage.event:
        raise LedgerCorrupt(f"round {round_} was noised and its charge is for another mechanism than the round's")
    return NoisedSum(values, attempt.stage.sigma, sites, receipt.entry_hash)


def _check_receipt(receipt: Receipt, stage: Stage, commitment: str) -> None:
    if receipt.event != stage.event:
        raise MechanismViolation("the receipt paid for another mechanism than the plan's; nothing was opened")
    if receipt.sum_sha256 != commitment:
        raise MechanismViolation(
            "the receipt paid for another sum than the one on disk; nothing was opened. Restore the round's sum and "
            "salt; if that cannot be done, remove its sum: the attempt is then void and counts"
        )


def _charge(attempt: AttemptRef, commitment: str) -> Receipt:
    reached("gate/before charge")
    stage = attempt.stage
    receipt = attempt.ledger.charge(
        attempt.plan.digest,
        attempt.round,
        attempt.number,
        stage.event,
        commitment,
        stage.max_attempts,
        rounds=stage.rounds,
    )
    reached("gate/receipt durable")
    return receipt
