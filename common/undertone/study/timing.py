"""Between institutions a site may not show how long it took, where that tells what the claim takes as secret."""

from undertone.errors import TimingRevealed
from undertone.study.plan import Plan


def check_timing(plan: Plan) -> None:
    """Refuse a plan whose sites would be ready as soon as they are done, where their coins must stay secret.

    In a simulation all sites are one person's, so `simulate` does not ask.

    Raises:
        TimingRevealed: distributed noise, p < 1, and no public time (PRIVACY 26).
    """
    if plan.amplified_at_sites and not plan.privacy.ready_seconds_per_unit:
        rate = min(stage.sampling_rate for stage in plan.stages)
        raise TimingRevealed(
            f"plan {plan.digest[:8]}: with distributed noise and sampling rate {rate:g} how long "
            "a site takes would tell the coordinator how many units it drew, and the claim counts on nobody knowing. "
            "Say privacy.ready_seconds_per_unit: what the slowest site needs for one unit of its public figure, and "
            "half as much again"
        )
