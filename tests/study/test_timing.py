"""A clock tells nothing that the claim takes as secret: such a plan sets a public time, or is refused (PRIVACY 26)."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.world import make_plan, secure
from undertone.errors import TimingRevealed
from undertone.release.trust import trust_assumptions
from undertone.study.plan import Plan
from undertone.study.timing import check_timing
from undertone_cli.commands.plan import describe

UNITS = {"north": 40, "east": 20, "south": 10}
AMPLIFIED = {"sampling_rate": 0.5, "rounds": 2, "max_attempts": 5}


def planned(base: Path, **privacy: Any) -> Plan:
    return make_plan(base, UNITS, aggregation=secure(3), **privacy)


def test_distributed_noise_with_secret_coins_needs_a_public_time(dummy_base: Path) -> None:
    with pytest.raises(TimingRevealed, match="ready_seconds_per_unit"):
        check_timing(planned(dummy_base, noise="distributed", **AMPLIFIED))
    check_timing(planned(dummy_base, noise="distributed", ready_seconds_per_unit=0.1, **AMPLIFIED))


@pytest.mark.parametrize("hidden", [{"noise": "distributed"}, AMPLIFIED, {}])
def test_elsewhere_there_is_nothing_to_hide(dummy_base: Path, hidden: dict[str, Any]) -> None:
    check_timing(planned(dummy_base, **hidden))


def test_plan_and_statement_say_what_a_clock_tells(dummy_base: Path, dummy_method: None) -> None:
    timed = planned(dummy_base, noise="distributed", ready_seconds_per_unit=0.1, **AMPLIFIED)
    at_once = planned(dummy_base, noise="distributed", **AMPLIFIED)
    assert "at a public time, 1 to 4 s after" in dict(describe(timed))["sites are ready"]
    assert "for simulate alone" in dict(describe(at_once))["sites are ready"]
    assert "sites are ready" not in dict(describe(planned(dummy_base)))
    assert "computes tells the coordinator nothing" in str(trust_assumptions(timed)[-1])
    assert "How long a node takes is not protected" in str(trust_assumptions(at_once)[-1])
