"""kill -9 on real processes, at each failpoint and at random moments (PRIVACY 11, 12).

Each process is forked from `tests/support/crash_driver.py` and runs a whole study in process; after each of them
`tests/support/auditor.py` reads what is on disk. `slow` goes through every hit of every failpoint.
"""

import json
import random
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.crashes import DONE, KILLED, REFUSED, SITES, Run, Story, run_alone
from tests.support.oracle import expected_states, opened
from undertone.core.failpoints import NAMES

SEED = 7
# Where a site is asked for its vector and Q is not yet durable: a death here makes the attempt void.
VOIDING = {
    "ledger/before commit",  # its first hit is a node's
    "session/survivors durable",
    "secure/survivors durable",
    "secure/consistency checked",
    "rounds/asked durable",
    "node/before charge",
    "node/charge durable",
    "node/before answer",
    "rounds/answered",
    "run/salt durable",
    "run/sites durable",
}
Begin = Callable[..., Story]


@pytest.fixture(scope="module")
def undisturbed(begin: Begin) -> dict[str, dict[str, bytes]]:
    """Study -> the release of a run that nobody kills."""
    releases = {}
    for study in ("one shot", "rounds", "secure", "summing"):
        story = begin(study)
        assert story.finish() == DONE
        releases[study] = story.release()
    return releases


def assert_as_worked_out(story: Story) -> None:
    """Each round's state is bit-identical to what the oracle makes of the attempts that were opened."""
    sums = opened(story.world)
    for round_, state in enumerate(expected_states(story.world, SEED, sums), 1):
        path = story.world / "run" / "checkpoints" / f"round-{round_:06d}" / "state.npy"
        np.testing.assert_array_equal(np.load(path), state)


def is_void(story: Story, round_: int = 1) -> bool:
    """The round's last attempt was asked for and left neither Q nor V."""
    at = story.world / "run" / "checkpoints" / f"round-{round_:06d}"
    return bool(list(at.glob("asked-*.mark"))) and not list(at.glob("sum-*.npy")) and not list(at.glob("noised-*.npy"))


# --- every failpoint ------------------------------------------------------------------------------


# Where a one-shot study does not come by: test_a_void_attempt_..., and test_a_study_whose_sites_add_the_noise_....
ELSEWHERE = ("rounds/void durable", "gate/V with noise shares durable")


def some_fast(values: list[Any], *fast: Any) -> list[Any]:
    """All values, of which only `fast` are tried in the fast suite."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


# One of each kind of durable step in every run of the tests; the others in `make test-all`.
FAST = (
    "preparing/coins durable",
    "preparing/rows durable",
    "summing/sum durable",
    "node/charge durable",
    "node/before answer",
    "session/survivors durable",
    "secure/survivors durable",
    "rounds/asked durable",
    "run/Q durable",
    "gate/before charge",
    "gate/receipt durable",
    "gate/noise drawn",
    "run/V durable",
    "rounds/state durable",
    "release/weights durable",
    "release/manifest durable",
    "release/renamed",
)


def kind_of(failpoint: str) -> str:
    """Which kind of study comes by it; "" where all do."""
    kinds = {"session": "secure", "secure": "secure", "summing": "summing"}
    return kinds.get(failpoint.split("/")[0], "")


@pytest.mark.parametrize("name", some_fast([name for name in NAMES if name not in ELSEWHERE], *FAST))
def test_a_one_shot_study_killed_anywhere_is_charged_once_or_void(
    begin: Begin, undisturbed: dict[str, dict[str, bytes]], name: str
) -> None:
    study = kind_of(name) or "one shot"
    story = begin(study)
    assert story.process(failpoint=name) == KILLED, "a run never comes by this failpoint"
    void, end = is_void(story), story.finish()
    assert void == (name in VOIDING)
    if void:
        assert end == REFUSED
        assert [line["error"] for line in story.witnessed("refused")] == ["BudgetExceeded"]
        assert story.auditor.charges() == []
        assert story.auditor.voids() == [(1, 1)]
    else:
        assert end == DONE
        assert story.auditor.charges() == [(1, 1)]
        assert story.release() == undisturbed[study]


def test_a_void_attempt_is_noted_once_and_another_is_charged(begin: Begin) -> None:
    story = begin("rounds")
    assert story.process(failpoint="rounds/answered", count=2) == KILLED
    assert story.process(failpoint="rounds/void durable") == KILLED
    assert story.process(failpoint="run/salt durable") == KILLED
    assert story.finish() == DONE
    assert story.auditor.voids() == [(2, 1), (2, 2)]
    assert story.auditor.charges() == [(1, 1), (2, 3), (3, 1)]
    assert_as_worked_out(story)


@pytest.mark.parametrize("name", ["gate/receipt durable", "gate/noise drawn", "run/V durable", "rounds/state durable"])
def test_a_study_of_several_rounds_goes_on_to_the_same_release(
    begin: Begin, undisturbed: dict[str, dict[str, bytes]], name: str
) -> None:
    story = begin("rounds")
    for _ in range(2):
        story.process(failpoint=name, count=2)
    assert story.finish() == DONE
    assert story.ends[0] == KILLED
    assert story.release() == undisturbed["rounds"]
    assert_as_worked_out(story)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("session/step durable", 4),
        ("session/stored state durable", 8),
        ("session/survivors durable", 2),
        ("secure/survivors durable", 1),
        ("secure/consistency checked", 1),
        ("secure/consistency checked", 2),
        ("gate/receipt durable", 2),
    ],
)
def test_a_securely_aggregated_study_goes_on(begin: Begin, name: str, count: int) -> None:
    story = begin("secure rounds")
    assert story.process(failpoint=name, count=count) == KILLED
    assert story.finish() == DONE
    assert story.auditor.charges() == [(round_, sums[0]) for round_, sums in opened(story.world).items()]
    assert_as_worked_out(story)


@pytest.mark.parametrize(
    ("name", "attempts"),
    [
        ("gate/before charge", [(1, 2), (2, 1)]),  # not paid for: void
        ("gate/receipt durable", [(1, 1), (1, 2), (2, 1)]),  # paid for and not opened: lost
        ("gate/V with noise shares durable", [(1, 1), (2, 1)]),  # V is there: used
    ],
)
def test_a_study_whose_sites_add_the_noise_is_charged_before_its_sum_is_opened(
    begin: Begin, name: str, attempts: list[tuple[int, int]]
) -> None:
    story = begin("distributed")
    assert story.process(failpoint=name) == KILLED
    assert story.finish() == DONE
    assert story.auditor.charges() == attempts
    assert [sums[0] for sums in opened(story.world).values()] == [attempts[-2][1], 1]


def test_the_oracle_and_an_undisturbed_run_agree(begin: Begin) -> None:
    story = begin("rounds")
    assert story.finish() == DONE
    assert opened(story.world) == {round_: (1, tuple(sorted(SITES))) for round_ in (1, 2, 3)}
    assert_as_worked_out(story)


@pytest.mark.parametrize("name", ["run/Q durable", "gate/receipt durable", "gate/noise drawn"])
def test_with_the_kernels_randomness_a_round_has_one_noise_all_the_same(begin: Begin, name: str) -> None:
    story = begin("rounds", seed=None)
    for count in (1, 2):
        assert story.process(failpoint=name, count=count) == KILLED
    assert story.finish() == DONE
    assert story.auditor.charges() == [(1, 1), (2, 1), (3, 1)]


def test_a_fresh_interpreter_dies_where_its_environment_says(begin: Begin) -> None:
    story = begin("one shot")
    assert run_alone(Run(str(story.world), SEED), "gate/receipt durable:1") == KILLED
    story.auditor.look()
    assert story.finish() == DONE
    assert story.auditor.charges() == [(1, 1)]
    assert_as_worked_out(story)


# --- a node's own process -------------------------------------------------------------------------


PREPARING = [
    "latents/durable",
    "preparing/coins drawn",
    "preparing/coins durable",
    "preparing/rows computed",
    "preparing/rows durable",
    "attempt_store/before commit",
]
ANSWERING = ["node/before charge", "ledger/before commit", "node/charge durable", "node/before answer"]


@pytest.mark.parametrize("name", PREPARING + ANSWERING)
def test_a_node_that_dies_is_left_out_of_the_round_and_named(begin: Begin, name: str) -> None:
    story = begin("rounds")
    assert story.process(failpoint=name, site="east") == DONE
    story.auditor.look_at_the_end()
    all_three = tuple(sorted(SITES))
    assert [sites for _, sites in opened(story.world).values()] == [("north", "south"), all_three, all_three]
    statement = json.loads((story.world / "run" / "release" / "privacy.json").read_bytes())
    assert statement["cohort"]["sites_missing"] == {"east": "not in every sum"}
    assert statement["cohort"]["sums_of_missing_sites"] == {"east": 2}  # no more than its ledger charges
    charged = name in ("node/charge durable", "node/before answer")
    assert story.auditor.charges("east") == [*([(1, 1)] if charged else []), (2, 1), (3, 1)]
    assert story.auditor.charges() == [(1, 1), (2, 1), (3, 1)]
    assert_as_worked_out(story)


@pytest.mark.parametrize("name", some_fast(PREPARING, "preparing/coins durable", "preparing/rows durable"))
def test_a_node_that_died_while_preparing_costs_no_attempt_and_its_coins_stay(begin: Begin, name: str) -> None:
    story = begin("pair", seed=None)
    assert story.process(failpoint=name, site="east") == REFUSED
    assert story.witnessed("refused")[0]["error"] == "TooFewSites"
    assert story.auditor.charges("north") == []
    assert story.finish() == DONE
    assert story.auditor.charges() == story.auditor.charges("east") == [(1, 1), (2, 1)]


@pytest.mark.parametrize("name", ANSWERING)
def test_a_node_that_died_while_answering_costs_the_attempt_and_never_answers_it_again(begin: Begin, name: str) -> None:
    story = begin("pair")
    assert story.process(failpoint=name, site="east") == REFUSED
    assert story.finish() == DONE
    assert story.auditor.voids() == [(1, 1)]
    assert story.auditor.charges() == [(1, 2), (2, 1)]
    charged = name in ("node/charge durable", "node/before answer")
    assert story.auditor.charges("east") == [*([(1, 1)] if charged else []), (1, 2), (2, 1)]
    assert_as_worked_out(story)


def test_at_sampling_rate_1_who_answered_once_never_answers_that_round_again(begin: Begin) -> None:
    story = begin("pair, p = 1")
    assert story.process(failpoint="node/before answer", site="east") == REFUSED
    assert story.finish() == REFUSED
    last = story.witnessed("refused")[-1]
    assert last["error"] == "TooFewSites"
    assert "planned anew" in last["message"]
    assert story.auditor.charges() == []
    assert [story.auditor.charges(site) for site in ("north", "east")] == [[(1, 1)], [(1, 1)]]


# --- random moments, and every hit ------------------------------------------------------------------


def kill_at_random_moments(begin: Begin, moments: random.Random, wanted: int) -> tuple[int, int]:
    """Studies killed from outside until `wanted` processes died, each brought to its end: (deaths, void attempts)."""
    killed, voids = 0, 0
    while killed < wanted:
        story = begin("long", SEED if moments.random() < 0.5 else None)
        for _ in range(min(12, wanted - killed)):
            if story.process(kill_after=0.6 * moments.random() ** 2) == DONE:
                break
        assert story.finish() == DONE
        assert set(story.ends) <= {KILLED, DONE}
        if story.seed:
            assert_as_worked_out(story)
        killed, voids = killed + story.ends.count(KILLED), voids + len(story.auditor.voids())
        shutil.rmtree(story.world)
    return killed, voids


def test_kill_9_at_random_moments(begin: Begin) -> None:
    assert kill_at_random_moments(begin, random.Random(1), 6)[0] >= 6


@pytest.mark.slow
def test_kill_9_at_random_moments_many_times(begin: Begin) -> None:
    killed, voids = kill_at_random_moments(begin, random.Random(2), 200)
    print(f"{killed} processes killed, {voids} attempts void")
    assert voids > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_every_hit_of_every_failpoint(begin: Begin, name: str) -> None:
    study = {"secure": "secure rounds", "summing": "summing, rounds"}.get(kind_of(name), "rounds")
    for count in range(1, 1000):
        story = begin(study)
        if story.process(failpoint=name, count=count) == DONE:
            break
        assert story.ends == [KILLED]
        assert story.finish() == DONE
        assert story.auditor.charges() == [(round_, sums[0]) for round_, sums in opened(story.world).items()]
        assert_as_worked_out(story)
        shutil.rmtree(story.world)
    print(f"{name}: killed {count - 1} times")
    assert 1 < count < 999
