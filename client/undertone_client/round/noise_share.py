"""The noise share of a site: distributed noise, from a clamped sum to one that carries it (PRIVACY 8).

Only with distributed noise, only from the receipt of a charge that is durable, and after the clamp: nothing
clamps afterwards, only the modulus follows.
"""

from undertone.errors import MechanismViolation
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Receipt
from undertone.privacy.noise import discrete_gaussian
from undertone.privacy.stages import ClippedSum, ClippedSumWithNoiseShare
from undertone.study.plan import Plan


def add_noise_share(
    clipped: ClippedSum, receipt: Receipt, plan: Plan, round_: int, entropy: Entropy
) -> ClippedSumWithNoiseShare:
    """Add a discrete Gaussian of standard deviation `sigma_local` to each value.

    Args:
        clipped: the site's clamped sum, [d].
        receipt: of the charge that paid for this attempt.
        plan: noise placement, sigma_local and Delta come from it alone.
        round_: the round, in whose stage they stand.
        entropy: `OsEntropy` outside tests.

    Raises:
        MechanismViolation: the plan wants no noise share, or bound and receipt are not the plan's.
    """
    if plan.privacy.noise != "distributed":
        raise MechanismViolation(
            "the plan lets the coordinator add the noise; a noise share on top would spoil the sum"
        )
    stage = plan.stage_of(round_)
    if clipped.sensitivity != stage.sensitivity:
        raise MechanismViolation(f"the sum can move by {clipped.sensitivity}, the plan says {stage.sensitivity}")
    if receipt.event != stage.event or (receipt.digest, receipt.round) != (plan.digest, round_):
        raise MechanismViolation("the receipt paid for another mechanism than the plan's; no noise was drawn")
    noise = discrete_gaussian(entropy, stage.sigma_local, clipped.values.size)
    return ClippedSumWithNoiseShare(clipped.values + noise, stage.sigma_local, receipt.entry_hash)
