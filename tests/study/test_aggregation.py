"""Thresholds, colluders and the place of the noise: from the study to the plan, what it prints and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dummy import DIMENSION, DummyMethod
from tests.support.studies import study_with
from tests.support.world import World, make_plan
from undertone.core.canonical import canonical_json
from undertone.errors import MechanismViolation, PlanChanged, StudyError
from undertone.methods.registry import METHODS
from undertone.privacy import accounting
from undertone.privacy.accounting import epsilon_rdp
from undertone.privacy.distributed import DistributedEvent, noise_margin, noise_share_sigma
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.noise import LARGEST_SIGMA
from undertone.privacy.stages import Sensitivity, Sum
from undertone.release.statement import TookPart, privacy_statement
from undertone.secagg.thresholds import default_colluders, default_threshold, fault
from undertone.study.claim import recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.resolve import resolve
from undertone.study.schema import DEFAULT_MODE, parse_study
from undertone_cli.commands.plan import describe
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import pass_gate

pytestmark = pytest.mark.usefixtures("dummy_method")

TEN = {f"site-{number}": 100 for number in range(10)}
MASKED = {"mode": "secagg", "threshold": 3, "colluders": 1, "wire_bits": 32}
Make = Callable[..., World]


def units(sites: int) -> dict[str, int]:
    return {f"site-{number}": 100 for number in range(sites)}


@pytest.fixture(scope="module")
def planned(dummy_base: Path) -> Callable[..., Plan]:
    """Resolve the good study with changes; RDP calibrates in a moment, PLD's z is put in by hand."""

    def make(changes: dict[str, Any], multiplier: float | None = 1.5) -> Plan:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(METHODS, "dummy", DummyMethod)
            if changes.get("privacy.noise") != "distributed":
                patch.setattr("undertone.study.settling.calibrate", lambda *_, **__: multiplier)
                patch.setattr("undertone.study.settling.epsilons", lambda *_: (3.9, 4.1))
            return resolve(parse_study(study_with({"aggregation.mode": "secagg", **changes}, str(dummy_base))))

    return make


@pytest.fixture(scope="module")
def distributed(planned: Callable[..., Plan]) -> Plan:
    return planned({"privacy.noise": "distributed", "cohort.units": TEN, "privacy.max_attempts": 3})


def refusal(changes: dict[str, Any], planned: Callable[..., Plan]) -> str:
    with pytest.raises(StudyError) as caught:
        planned(changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- thresholds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "threshold", "dropouts"), [(3, 3, 0), (5, 4, 1), (10, 7, 3), (20, 14, 6), (100, 67, 33)]
)
def test_the_default_threshold_is_that_of_the_research_page(sites: int, threshold: int, dropouts: int) -> None:
    assert default_threshold(sites) == threshold
    assert sites - threshold == dropouts


@given(sites=st.integers(3, 2000))
def test_the_defaults_are_always_allowed(sites: int) -> None:
    threshold = default_threshold(sites)
    colluders = default_colluders(sites, threshold)
    assert colluders == max(1, min(sites // 3, threshold - 2))
    for noise in (True, False):
        assert fault(sites, threshold, colluders, distributed=noise) is None


@given(sites=st.integers(1, 40), threshold=st.integers(-2, 45), colluders=st.integers(-2, 45), noise=st.booleans())
def test_what_is_allowed_is_what_the_rules_say(sites: int, threshold: int, colluders: int, noise: bool) -> None:
    allowed = (
        sites >= 3
        and 1 <= threshold <= sites
        and colluders >= (1 if noise else 0)
        and threshold - colluders >= 2
        and 2 * threshold > sites + colluders
    )
    message = fault(sites, threshold, colluders, distributed=noise)
    assert (message is None) == allowed
    if message is not None:
        assert "aggregation." in message


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_plan_holds_allowed_numbers_or_is_none(dummy_base: Path, data: st.DataObject) -> None:
    """Whatever a plan.json says: thresholds of `fault`, a quorum within the roster, plain without any."""
    sites = data.draw(st.integers(2, 7))
    numbers = {
        "mode": data.draw(st.sampled_from(["secagg", "plain"])),
        "threshold": data.draw(st.integers(0, 8)),
        "colluders": data.draw(st.integers(0, 4)),
        "wire_bits": 32,
    }
    n, t, c = sites, numbers["threshold"], numbers["colluders"]
    allowed = (t, c) == (0, 0) if numbers["mode"] == "plain" else n >= 3 and t <= n and t - c >= 2 and 2 * t > n + c
    try:
        plan = make_plan(dummy_base, units(sites), aggregation=numbers)
    except ValueError:
        assert not allowed
    else:
        assert allowed
        assert plan.quorum == max(2, t) <= sites


def test_the_default_mode_is_in_one_place(planned: Callable[..., Plan]) -> None:
    assert parse_study(study_with()).aggregation.mode == DEFAULT_MODE
    assert planned({"aggregation": {}}).aggregation.mode == DEFAULT_MODE


def test_a_masked_plan_has_the_defaults_and_the_studys_numbers(planned: Callable[..., Plan]) -> None:
    plan = planned({"cohort.units": TEN})
    assert plan.aggregation.model_dump() == {
        "mode": "secagg",
        "threshold": 7,
        "colluders": 3,
        "wire_bits": 32,
        "rosters": "chain",
    }
    assert (plan.privacy.noise, plan.privacy.sigma_local, plan.grid.noise_margin, plan.quorum) == ("central", 0, 0, 7)
    changes = {"aggregation.threshold": 8, "aggregation.colluders": 0, "aggregation.wire_bits": 24}
    plan = planned({"cohort.units": TEN, "cohort.min_sites": 9, **changes})
    assert plan.aggregation.model_dump() == {
        "mode": "secagg",
        "threshold": 8,
        "colluders": 0,
        "wire_bits": 24,
        "rosters": "chain",
    }
    assert (plan.grid.modulus_bits, plan.quorum) == (24, 9)
    assert 10 * plan.grid.site_clamp < 1 << 23


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cohort.units": units(2)}, ["2 sites", "add sites", 'aggregation.mode = "plain"']),
        ({"aggregation.threshold": 4}, ["aggregation.threshold = 4", "3 sites"]),
        ({"aggregation.threshold": 2, "aggregation.colluders": 1}, ["threshold = 3 and colluders = 1 would work"]),
        (
            {"cohort.units": TEN, "aggregation.threshold": 6},
            ["2t > n + c", "threshold = 7 and colluders = 3 would work"],
        ),
        ({"cohort.units": TEN, "aggregation.colluders": 4}, ["2t > n + c", "threshold = 7 and colluders = 3"]),
        ({"privacy.noise": "distributed", "aggregation.colluders": 0}, ["aggregation.colluders = 0", "at least 1"]),
        ({"privacy.noise": "distributed", "aggregation.mode": "plain"}, ['aggregation.mode = "secagg"']),
        ({"aggregation.mode": "plain", "aggregation.threshold": 3}, ["aggregation.threshold", "leave it out"]),
        ({"aggregation.mode": "plain", "aggregation.colluders": 1}, ["aggregation.colluders", "leave it out"]),
        ({"aggregation.mode": "plain", "aggregation.wire_bits": 24}, ["aggregation.wire_bits"]),
        ({"aggregation.wire_bits": 16}, ["aggregation.wire_bits = 16"]),
        ({"aggregation.treshold": 3}, ["aggregation.treshold", "did you mean threshold?"]),
        ({"aggregation.mode": "masked"}, ["aggregation.mode"]),
        ({"aggregation.wire_bits": 24, "cohort.units": {"a": 10**6, "b": 10**6, "c": 10**6}}, ["wire_bits = 32"]),
    ],
)
def test_a_study_that_cannot_be_says_what_would_do(
    changes: dict[str, Any], words: list[str], planned: Callable[..., Plan]
) -> None:
    message = refusal(changes, planned)
    for word in words:
        assert word in message, message


def test_noise_beyond_the_sampler_is_refused_when_planning(planned: Callable[..., Plan]) -> None:
    with pytest.raises(StudyError, match=r"privacy\.epsilon"):
        planned({}, multiplier=float(LARGEST_SIGMA))


# --- distributed noise ------------------------------------------------------------------------------------------------


def test_distributed_noise_follows_from_the_study(distributed: Plan) -> None:
    privacy, grid = distributed.privacy, distributed.grid
    assert (distributed.aggregation.threshold, distributed.aggregation.colluders, distributed.noise_shares) == (7, 3, 4)
    assert privacy.sigma_local == noise_share_sigma(privacy.sigma, 4)
    assert grid.noise_margin == noise_margin(privacy.sigma_local, 10, DIMENSION)
    assert grid.site_clamp == ((1 << 31) - 1 - grid.noise_margin) // 10
    event = DistributedEvent(privacy.sigma_local, 4, DIMENSION, privacy.sensitivity, 1.0, 1)
    assert distributed.stages[0].event == event
    assert privacy.epsilon == privacy.epsilon_rdp == epsilon_rdp([event] * 3, 1e-5)
    assert 3.99 < privacy.epsilon <= 4.0
    assert recompute_epsilon(distributed) == (privacy.epsilon, privacy.epsilon_rdp)
    assert Plan.from_bytes(distributed.as_bytes()) == distributed


def test_the_same_claim_costs_more_noise_by_rdp_than_by_pld(distributed: Plan) -> None:
    privacy = distributed.privacy
    central = accounting.GaussianEvent(privacy.sigma, privacy.sensitivity, 1.0, 3)
    assert accounting.epsilon_pld([central], 1e-5) < 3.9 < privacy.epsilon


def test_the_grid_leaves_room_for_the_noise_and_is_the_finest_that_does(planned: Callable[..., Plan]) -> None:
    """With a narrow wire and much noise the margin decides."""
    changes = {
        "privacy.noise": "distributed",
        "aggregation.wire_bits": 24,
        "cohort.units": TEN,
        "privacy.epsilon": 0.05,
    }
    plan = planned(changes)
    load = 100 + 6 * 10
    multiplier = plan.privacy.sigma / plan.privacy.sensitivity

    def fits(clip_units: int) -> bool:
        margin = noise_margin(noise_share_sigma(round(multiplier * clip_units), 4), 10, DIMENSION)
        return clip_units * load <= ((1 << 23) - 1 - margin) // 10

    assert fits(plan.grid.clip_units)
    assert not fits(2 * plan.grid.clip_units)
    assert plan.grid.noise_margin + 10 * plan.grid.site_clamp < 1 << 23
    assert plan.grid.noise_margin > plan.grid.site_clamp


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("privacy.sigma_local", 0),
        ("privacy.sigma_local", "less"),
        ("privacy.sigma", "more"),
        ("privacy.noise", "central"),
        ("privacy.epsilon", 3.0),
        ("grid.noise_margin", 0),
        ("grid.noise_margin", "less"),
        ("grid.modulus_bits", 24),
        ("grid.site_clamp", "more"),
        ("aggregation.colluders", 2),
        ("aggregation.colluders", 0),
        ("aggregation.threshold", 8),
        ("aggregation.threshold", 11),
        ("aggregation.wire_bits", 24),
        ("aggregation.mode", "plain"),
        ("aggregation.rosters", "chain"),
        ("aggregation", {"mode": "plain", "threshold": 0, "colluders": 0, "wire_bits": 32, "rosters": "free"}),
        ("method.dimension", 10**6),
    ],
)
def test_a_distributed_plan_that_contradicts_itself_is_refused(distributed: Plan, path: str, value: Any) -> None:
    tables = distributed.model_dump(mode="json")
    table, _, key = path.partition(".")
    if key:
        old = tables[table][key]
        tables[table][key] = (
            {"less": old - 1, "more": old + 1}.get(value, value)
            if isinstance(value, str) and isinstance(old, int)
            else value
        )
    else:
        tables[table] = value
    with pytest.raises(PlanChanged):
        Plan.from_bytes(canonical_json(tables))


# --- what is printed and stated ---------------------------------------------------------------------------------------


def test_plan_prints_aggregation_and_noise(distributed: Plan, planned: Callable[..., Plan]) -> None:
    rows = dict(describe(distributed))
    assert rows["threshold"].startswith("7 of 10")
    assert "3 sites" in rows["colluders"]
    assert rows["dropouts tolerated"] == "3"
    assert rows["sites needed"] == "7 of 10"
    assert "distributed" in rows["noise"]
    assert str(distributed.privacy.sigma_local) in rows["a noise share"]
    assert rows["excess noise"].startswith("2.50 x variance")
    assert "e-300 of epsilon" in rows["tau term"]
    assert "epsilon (RDP, the claim)" in rows
    assert not any("PLD" in name for name in rows)
    three = dict(describe(planned({})))
    assert three["dropouts tolerated"].startswith("none after keys are exchanged")
    assert "central" in three["noise"]
    assert "epsilon (PLD, the claim)" in three
    plain = dict(describe(planned({"aggregation.mode": "plain"})))
    assert "coordinator sees each site's sum" in plain["aggregation"]
    assert "threshold" not in plain


def stated(plan: Plan, sites: int) -> dict[str, Any]:
    roster = sorted(plan.cohort.units)
    took_part = TookPart(roster[:sites], dict.fromkeys(roster[sites:], "away"), sites)
    return privacy_statement(plan, setting="simulation", ledger_head="0" * 64, charges=1, took_part=took_part)


def test_the_statement_says_who_sees_what(distributed: Plan, planned: Callable[..., Plan]) -> None:
    said = stated(distributed, 8)
    trust = " ".join(said["trust"])
    assert "nobody, the coordinator included, sees a sum without noise" in trust
    assert "even if 3 of the sites leave theirs out" in trust
    assert "sees sums over at least 7 sites, each with noise in it, and no site's own, even if it lies" in trust
    assert "Renyi" in said["guarantee"]["accountant"]
    assert said["mechanism"]["distributed"]["noise_shares_counted"] == 4
    assert "2.00 times" in said["mechanism"]["distributed"]["remark"]
    assert said["aggregation"]["sites_needed"] == 7
    masked = stated(planned({}), 3)
    assert "trusted with the sum before noise" in " ".join(masked["trust"])
    assert "sees sums over at least 3 sites" in " ".join(masked["trust"])
    assert masked["mechanism"]["distributed"] is None
    assert "privacy loss distribution" in masked["guarantee"]["accountant"]
    plain = stated(planned({"aggregation.mode": "plain"}), 3)
    assert "the coordinator also sees each site's sum" in " ".join(plain["trust"])


def test_what_two_sums_give_away_is_printed_and_stated(distributed: Plan, planned: Callable[..., Plan]) -> None:
    """A chain, free lists, noise in each vector, plain: each in its own words, in plan, statement and trust lines."""
    chain, free = planned({"cohort.units": TEN}), planned({"cohort.units": TEN, "aggregation.rosters": "free"})
    plain = planned({"aggregation.mode": "plain"})
    rows = dict(describe(chain))
    assert rows["survivor lists"].startswith("a chain: no combination of this study's sums")
    assert rows["a site that stays away"].endswith("the list of sites can lose none, for want of 5")
    assert rows["not covered"].startswith("other studies over the same images, and what one sum gives away")
    assert rows["dropouts tolerated"].startswith("3 before the first sum")
    one = {"aggregation.threshold": 7, "aggregation.colluders": 1}
    assert "lose 3 to 3 at once" in dict(describe(planned({"cohort.units": TEN, **one})))["a site that stays away"]
    said = dict(describe(free))["survivor lists"]
    assert said.startswith("free: a coordinator that lies can learn one site's sum as the difference of two")
    assert said.endswith("each round has one attempt")
    sampled = planned({"cohort.units": TEN, "aggregation.rosters": "free", "privacy.sampling_rate": 0.5})
    assert not dict(describe(sampled))["survivor lists"].endswith("one attempt")
    for other in (distributed, plain):
        assert "survivor lists" not in dict(describe(other))
    for plan, meant, trusted in (
        (chain, "form a chain", "the sites of all sums form a chain"),
        (free, "a coordinator that lies can learn one site's sum", "two sums that differ by one site"),
        (distributed, "each carries noise", "each with noise in it"),
        (plain, "sees each site's sum", "also sees each site's sum"),
    ):
        statement = stated(plan, 3)
        assert statement["aggregation"]["rosters"] == plan.aggregation.rosters
        assert meant in statement["aggregation"]["rosters_mean"]
        assert trusted in " ".join(statement["trust"])
    trust = " ".join(stated(chain, 3)["trust"])
    assert "another study with other sites over the same images" in trust
    assert "extracts from one sum before noise" in trust
    assert "Distributed noise" in trust
    assert "no site's own" not in " ".join(stated(free, 3)["trust"])


# --- survivor lists and their price -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rosters", "once"),
    [
        ({}, "chain", False),
        ({"aggregation": {}}, "chain", False),
        ({"aggregation.rosters": "chain"}, "chain", False),
        ({"aggregation.rosters": "free"}, "free", True),
        ({"aggregation.rosters": "free", "privacy.sampling_rate": 0.999999}, "free", False),
        ({"aggregation.mode": "plain"}, "free", True),
        ({"aggregation.mode": "plain", "aggregation.rosters": "free"}, "free", True),
        ({"privacy.noise": "distributed"}, "free", False),
        ({"privacy.noise": "distributed", "aggregation.rosters": "free"}, "free", False),
    ],
)
def test_which_survivor_lists_a_study_gets(
    changes: dict[str, Any], rosters: str, once: bool, planned: Callable[..., Plan]
) -> None:
    plan = planned(changes)
    assert (plan.aggregation.rosters, plan.once_per_round) == (rosters, once)
    protected = plan.aggregation.mode == "secagg" and plan.privacy.noise == "central"
    assert plan.free_rosters == (protected and rosters == "free")
    with pytest.raises(PlanChanged, match="rosters"):
        Plan.from_bytes(plan.as_bytes().replace(f'"rosters":"{rosters}"'.encode(), b'"rosters":"k of n"'))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aggregation.mode": "plain"}, "sees each site's sum anyway: leave it out"),
        ({"privacy.noise": "distributed"}, "each vector carries noise"),
    ],
)
def test_a_chain_that_protects_nothing_is_refused(
    changes: dict[str, Any], words: str, planned: Callable[..., Plan]
) -> None:
    message = refusal({"aggregation.rosters": "chain", **changes}, planned)
    assert 'aggregation.rosters = "chain" goes with' in message
    assert words in message
    plan = planned(changes).model_dump(mode="json")
    plan["aggregation"]["rosters"] = "chain"
    with pytest.raises(PlanChanged, match="a chain of survivor lists goes with"):
        Plan.from_bytes(canonical_json(plan))


MANY = {"privacy.rounds": 100, "privacy.sampling_rate": 0.5}


@pytest.mark.parametrize(
    ("changes", "attempts"),
    [
        ({}, 118),  # n = 10: 10.6 for waits, and two standard deviations of 3.4
        ({"aggregation.rosters": "free"}, 125),
        ({"aggregation.rosters": "free", "privacy.rounds": 2}, 5),
        ({"aggregation.rosters": "free", "privacy.rounds": 13}, 17),
        ({"aggregation.rosters": "free", "privacy.sampling_rate": 1.0}, 100),
        ({"aggregation.mode": "plain"}, 125),
        ({"aggregation.mode": "plain", "privacy.sampling_rate": 1.0}, 100),
        ({"privacy.noise": "distributed"}, 125),
        ({"privacy.sampling_rate": 1.0}, 118),
        ({"cohort.units": units(3)}, 107),
        ({"cohort.units": units(100)}, 317),
        ({"privacy.rounds": 1}, 2),
        ({"privacy.max_attempts": 100}, 100),
        ({"privacy.max_attempts": 500}, 500),
    ],
)
def test_attempts_are_priced_by_what_can_go_wrong(
    changes: dict[str, Any], attempts: int, planned: Callable[..., Plan]
) -> None:
    assert planned({"cohort.units": TEN, **MANY, **changes}).privacy.max_attempts == attempts


def test_a_one_shot_method_has_one_attempt_under_any_lists(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DummyMethod, "one_shot", True)
    for rosters in ("chain", "free"):
        assert planned({"aggregation.rosters": rosters}).privacy.max_attempts == 1


def test_the_allowance_covers_sites_that_are_each_away_one_time_in_a_hundred() -> None:
    """Of simulated studies of 100 rounds at ten sites 2 in 100 or so need more; half of them need more than 110."""
    generator = np.random.default_rng(12)
    needed = 100 + generator.negative_binomial(100, 0.99**10, size=20_000)
    assert 0.005 < np.mean(needed > 118) < 0.04
    assert np.mean(needed > 110) > 0.4


@pytest.mark.parametrize("mode", ["secagg", "plain"])
def test_attempts_that_no_site_would_answer_are_refused(planned: Callable[..., Plan], mode: str) -> None:
    free = {"aggregation.mode": mode, "aggregation.rosters": "free", "privacy.max_attempts": 2}
    message = refusal(free, planned)
    assert "could never be used" in message
    assert ('rosters = "chain"' in message) == (mode == "secagg")
    assert planned({**free, "privacy.sampling_rate": 0.999999}).privacy.max_attempts == 2
    assert planned({**free, "privacy.max_attempts": 1}).privacy.max_attempts == 1


# --- doors that a masked or distributed plan does not pass ------------------------------------------------------------


def gate(world: World, sites: tuple[str, ...], plan: Plan | None = None) -> None:
    plan = plan or world.plan
    total = Sum(np.zeros(DIMENSION, dtype=np.int64), Sensitivity(plan.privacy.sensitivity), sites)
    with Ledger.open(world.run.ledger) as ledger:
        pass_gate(AttemptRef(plan, ledger, world.run, 1, 1), total, bytes(32), OsEntropy())


def test_the_gate_opens_no_sum_of_fewer_sites_than_the_quorum(make_world: Make, draws: list[np.ndarray]) -> None:
    world = make_world(aggregation=MASKED)
    with pytest.raises(MechanismViolation, match="3 or more"):
        gate(world, ("east", "north"))
    assert not draws
    assert world.charges() == []
    with pytest.raises(MechanismViolation, match="the plan needs 3"):
        world.plan.denominator(1, ("east", "north"))


def test_the_gate_adds_no_noise_to_a_sum_that_has_its_own(
    make_world: Make, distributed: Plan, draws: list[np.ndarray]
) -> None:
    world = make_world()
    with pytest.raises(MechanismViolation, match="added by its sites"):
        gate(world, tuple(sorted(distributed.cohort.units)), distributed)
    assert not draws
    assert world.charges() == []


def test_plan_says_what_spare_attempts_cost_or_that_there_are_none(planned: Callable[..., Plan]) -> None:
    spare = planned({"aggregation.rosters": "free", "privacy.rounds": 4, "privacy.sampling_rate": 0.5})
    rows = dict(describe(spare))
    assert rows["rounds, attempts"] == "4, at most 7"
    count, _, without = rows["attempts to spare"].partition("; without them epsilon is ")
    assert count == "3"
    assert 0 < float(without) < spare.privacy.epsilon
    assert "a broken round" not in rows
    once = dict(describe(planned({"aggregation.rosters": "free", "privacy.rounds": 4})))
    assert once["a broken round"].startswith("ends the study")
    assert "attempts to spare" not in once
