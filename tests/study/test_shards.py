"""Plans and studies whose rows are of shards: Delta, N_i, and the people apart (PRIVACY 5, 6, 10, 15)."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld
from scipy import optimize, stats

from tests.support.approvals import wide_policy
from tests.support.dummy import DIMENSION
from tests.support.forgery import Forgery, forge
from tests.support.lineage import claiming, start_from, started
from tests.support.studies import study_with
from tests.support.world import World, make_plan, secure
from undertone.core.canonical import canonical_json
from undertone.errors import NotVerified, PlanChanged, StudyError
from undertone.models.pinned import pin
from undertone.privacy.accounting import GaussianEvent, calibrate
from undertone.privacy.stages import PER_SHARD, Sensitivity
from undertone.release.statement import TookPart, privacy_statement
from undertone.release.verify import verify
from undertone.study.claim import check_claim, delta_warning, recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone.study.rehearsal import drawn_units, rehearsal_of
from undertone.study.remedies import ratios_by_auto, what_works
from undertone.study.resolve import refuse_noise, resolve, units_for_signal
from undertone.study.schema import parse_study
from undertone_cli.commands.plan import describe
from undertone_client.approval.checks import check_asked
from undertone_client.site.folder import SiteDir
from undertone_client.site.violations import violations

Make = Callable[..., World]
PEOPLE = {"north": 280, "east": 200, "south": 120}


@pytest.fixture
def plan(dummy_base: Path, dummy_method: None) -> Plan:
    del dummy_method
    return make_plan(dummy_base, PEOPLE, sharded={}, rounds=4, max_attempts=4, sigma=5000, sampling_rate=1.0)


def study_of(base: Path, changes: Mapping[str, Any] = {}) -> Any:
    cohort = {"cohort.units": None, "cohort.patients": PEOPLE, "method.name": "dummy-shards"}
    return parse_study(study_with(cohort | dict(changes), str(base)))


# --- Delta and the claim ----------------------------------------------------------------------------------


def test_a_stage_of_shards_has_delta_of_two_rows(plan: Plan) -> None:
    (stage,) = plan.stages
    assert stage.sensitivity == Sensitivity(2048, PER_SHARD)
    assert stage.event == GaussianEvent(5000, 2048, 1.0, 1)
    assert plan.denominator(1, ("east", "north")) == 256 * 1 * 8


def test_the_claim_is_the_analytic_gaussian_at_two_s_c_root_t(plan: Plan) -> None:
    """Balle and Wang 2018, theorem 8; and the existing Gaussian event, T times: a relation of its own, charged once."""
    z = 5000 / (2 * 1024 * math.sqrt(4))

    def excess(epsilon: float) -> float:
        first = stats.norm.cdf(1 / (2 * z) - epsilon * z)
        return float(first - math.exp(epsilon + stats.norm.logcdf(-1 / (2 * z) - epsilon * z)) - plan.privacy.delta)

    assert recompute_epsilon(plan)[0] == pytest.approx(optimize.brentq(excess, 0.0, 50.0), rel=1e-3)
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(5000 / 2048), 4)
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    by_pld = pld.PLDAccountant(relation, 1e-3).compose(event).get_epsilon(plan.privacy.delta)
    assert plan.privacy.epsilon == pytest.approx(by_pld, rel=1e-9)


# --- the plan ---------------------------------------------------------------------------------------------


def changed(plan: Plan, **tables: dict[str, Any]) -> bytes:
    spelled: Any = json.loads(plan.as_bytes())
    for table, changes in tables.items():
        spelled[table] = {key: value for key, value in (spelled[table] | changes).items() if value is not None}
    return canonical_json(spelled)


SELECTION = {
    "name": "selection",
    "rounds": 1,
    "max_attempts": 1,
    "dimension": 6,
    "sampling_rate": 1.0,
    "sigma": 5000,
    "sigma_local": 0,
    "sensitivity": 2048,
    "clip_origin": "study",
    "noise_to_signal": 0.5,
}


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"privacy": {"sampling_rate": 0.5}}, "every shard answers every round"),
        ({"privacy": {"sensitivity": 1024}}, "not the clip bound of the grid; where rows are of shards, twice"),
        ({"privacy": {"sensitivity": 4096}}, "not the clip bound"),
        ({"cohort": {"units": PEOPLE}}, "N_i is not the number of shards"),
        ({"cohort": {"units": {"north": 4, "east": 4, "south": 5}}}, "N_i is not the number of shards"),
        ({"cohort": {"patients": None}}, "does not name each site"),
        ({"cohort": {"patients": {"north": 280, "east": 200}}}, "does not name each site"),
        ({"cohort": {"patients": PEOPLE | {"stranger": 3}}}, "does not name each site"),
        ({"cohort": {"patients": PEOPLE | {"south": 0}}}, "patients"),
        ({"method": {"shards": None}}, "query|patients goes with|w alone"),
        ({"method": {"shards": 8}}, "N_i is not the number of shards"),
        ({"method": {"shards": 0}}, "shards"),
        ({"method": {"shards": 4097}}, "shards"),
        ({"method": {"sent": 14}}, "query of shards"),
    ],
)
def test_a_plan_of_shards_is_refused_where_its_figures_do_not_agree(
    plan: Plan, tables: dict[str, Any], why: str
) -> None:
    with pytest.raises(PlanChanged, match=why):
        Plan.from_bytes(changed(plan, **tables))


def test_a_plan_of_shards_is_of_no_site_and_has_one_stage(plan: Plan) -> None:
    with pytest.raises(PlanChanged, match="its unit is no site"):
        Plan.from_bytes(changed(plan, privacy={"unit": "site"}))
    spelled: Any = json.loads(plan.as_bytes())
    spelled["earlier"] = [SELECTION | {"grid": spelled["grid"]}]
    with pytest.raises(PlanChanged, match="a plan of shards has one stage"):
        Plan.from_bytes(canonical_json(spelled))


def test_a_plan_without_shards_has_neither_key(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    plan = make_plan(dummy_base, PEOPLE)
    spelled: Any = json.loads(plan.as_bytes())
    assert "shards" not in spelled["method"]
    assert "patients" not in spelled["cohort"]
    assert plan.patients == PEOPLE
    spelled["cohort"]["patients"] = PEOPLE
    with pytest.raises(PlanChanged, match="goes with a method of shards"):
        Plan.from_bytes(canonical_json(spelled))


def test_what_is_read_back_is_what_was_written(plan: Plan) -> None:
    assert Plan.from_bytes(plan.as_bytes()) == plan
    assert (plan.cohort.units, plan.patients) == (dict.fromkeys(PEOPLE, 4), PEOPLE)


def hiding(plan: Plan) -> Plan:
    """The plan without its shards: Delta is that of one row."""
    spelled: Any = json.loads(plan.as_bytes())
    del spelled["method"]["shards"], spelled["cohort"]["patients"], spelled["method"]["sent"]
    spelled["privacy"]["sensitivity"] = 1024
    return Plan.from_bytes(canonical_json(spelled))


def test_a_plan_that_hides_its_shards_is_refused_by_who_knows_the_method(plan: Plan, make_world: Make) -> None:
    """Its Delta would be half of what it is: coordinator, node and a reader of a release ask the method."""
    hidden = hiding(plan)
    with pytest.raises(PlanChanged, match="4 shards at a site, the plan counts no shards"):
        planned_method(hidden, pin(plan.model.base))
    world = make_world({"north": 6, "east": 4, "south": 4}, sharded={})
    site = SiteDir(world.sites["north"])
    world.allow("north", **wide_policy(hidden, "0" * 64).model_dump(include={"methods", "models", "fewest_patients"}))
    with pytest.raises(PlanChanged, match="the plan counts no shards"):
        check_asked(SiteDir(site.folder), hidden)


def test_a_plan_whose_ancestor_hides_its_shards_is_refused(plan: Plan, make_world: Make, tmp_path: Path) -> None:
    """By the same three, and so is one whose ancestor's method nobody here knows."""
    hidden, world = claiming(hiding(plan)), make_world({"north": 6, "east": 4, "south": 4})
    why = "from whose release it starts: dummy-shards makes 4 shards at a site, the plan counts no shards"
    successor = started(world.plan, hidden)
    check_claim(successor)
    with pytest.raises(PlanChanged, match=why):
        planned_method(successor, pin(plan.model.base))
    with pytest.raises(PlanChanged, match=why):
        check_asked(SiteDir(world.sites["north"]), successor)
    signer = forge(tmp_path / "release", Path(plan.model.base), Forgery(plan={"start": start_from(hidden)}))
    with pytest.raises(NotVerified, match=why):
        verify(tmp_path / "release", signer)
    planned_method(started(world.plan, plan), pin(plan.model.base))
    unknown = hidden.model_copy(update={"method": hidden.method.model_copy(update={"name": "dp-unheard-of"})})
    with pytest.raises(PlanChanged, match="dp-unheard-of"):
        planned_method(started(world.plan, unknown), pin(plan.model.base))


# --- the study --------------------------------------------------------------------------------------------


def test_a_study_of_shards_is_planned_with_n_i_as_many_as_shards(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    plan = resolve(study_of(dummy_base))
    assert plan.cohort.units == dict.fromkeys(PEOPLE, 4)
    assert plan.patients == PEOPLE
    assert (plan.method.shards, plan.method.row, plan.method.sent) == (4, 6, 3)
    assert plan.privacy.sampling_rate == 1
    assert plan.privacy.sensitivity == 2 * plan.grid.clip_units
    assert plan.privacy.epsilon <= 4 < plan.privacy.epsilon * 1.01
    check_claim(plan)
    mean = plan.privacy.sigma * math.sqrt(6 / 3) / (plan.grid.scale * 12)
    assert plan.privacy.noise_to_signal == pytest.approx(mean / plan.stages[0].clip_norm)
    assert units_for_signal(plan) == math.ceil(12 * plan.privacy.noise_to_signal)


def test_distributed_noise_is_of_two_rows_too(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    plan = resolve(study_of(dummy_base, {"privacy.noise": "distributed"}))
    assert plan.stages[0].event.sensitivity == 2 * plan.grid.clip_units
    assert plan.privacy.sigma_local**2 * plan.noise_shares >= plan.privacy.sigma**2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cohort.units": PEOPLE, "cohort.patients": None}, "cohort.units: rows of dummy-shards are of shards"),
        ({"cohort.units": PEOPLE}, "cohort.units: rows of dummy-shards are of shards"),
        ({"cohort.patients": None}, "cohort.patients is missing"),
        ({"cohort.patients": {"north": 9}}, "fewer than cohort.min_sites"),
        ({"method.name": "dummy"}, "cohort.patients goes with a method of shards"),
        ({"privacy.sampling_rate": 0.5}, "a rate of 1; leave it out"),
        ({"privacy.unit": "site", "data.unit_column": None}, "say another unit"),
    ],
)
def test_a_study_says_what_goes_with_its_method(
    dummy_base: Path, dummy_method: None, changes: dict[str, Any], why: str
) -> None:
    del dummy_method
    with pytest.raises(StudyError, match=why):
        resolve(study_of(dummy_base, changes))


def test_simulate_fills_people_in_and_not_n_i(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    plan = resolve(study_of(dummy_base, {"cohort.patients": None}), simulated_units=dict.fromkeys(PEOPLE, 30))
    assert (plan.patients, plan.cohort.units) == (dict.fromkeys(PEOPLE, 30), dict.fromkeys(PEOPLE, 4))
    assert plan.cohort.units_origin == "filled in by simulate"


# --- whoever counts people --------------------------------------------------------------------------------


def test_people_are_counted_by_the_public_figures_and_not_by_shards(plan: Plan) -> None:
    """Twelve shards of 600 patients: minimum patients, the 1/N check, statement, table and rehearsal see the 600."""
    large = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"delta": 0.005})})
    warning = delta_warning(large)
    assert warning is not None
    assert "600 units" in warning
    assert delta_warning(plan) is None
    policy = wide_policy(plan, "0" * 64)
    fewest = [one.key for one in violations(plan, policy.model_copy(update={"fewest_patients": 601}))]
    assert "fewest_patients" in fewest
    assert "fewest_patients" not in [
        one.key for one in violations(plan, policy.model_copy(update={"fewest_patients": 600}))
    ]
    took_part = TookPart(sorted(PEOPLE), {}, 3)
    said: Any = privacy_statement(plan, setting="simulation", ledger_head="", charges=4, took_part=took_part)
    assert said["cohort"]["units_public"] == PEOPLE
    assert said["mechanism"]["sensitivity_relation"] == PER_SHARD
    assert said["mechanism"]["sensitivity_l2"] == 2048
    assert "4 shards" in said["mechanism"]["sampling"]
    assert any("by their ids alone" in str(line) for line in said["trust"])
    assert "measured, not proved" in said["mechanism"]["floating_point"]
    assert any("in every round" in str(line) and "number of records" in str(line) for line in said["trust"])
    rows = dict(describe(plan))
    assert "(600 in all)" in rows["units"]
    assert rows["shards"] == "4 at each site (12 in all), each in every round; Delta is 2 s C"
    assert "shards would bring it to 1" in rows["noise-to-signal"]
    rehearsal = rehearsal_of(plan, "trial")
    assert rehearsal.method.shards == 4
    assert drawn_units(rehearsal, "south") == 4


def test_a_site_publishes_its_people(make_world: Make) -> None:
    world = make_world({"north": 6, "east": 4, "south": 4}, sharded={})
    assert world.plan.patients == {"north": 3, "east": 2, "south": 2}
    assert not world.ask("prepare").error
    other = make_plan(Path(world.plan.model.base), {"north": 4, "east": 2, "south": 2}, sharded={})
    reply = world.ask("prepare", **world.signed(other))
    assert "counts 4 units at north, which publishes 3" in reply.message


def test_noise_is_refused_in_numbers_of_shards(plan: Plan) -> None:
    loud = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"noise_to_signal": 9.0})})
    with pytest.raises(Exception, match="about 108 shards would bring it under 1, 12 are planned"):
        refuse_noise(loud, pin(plan.model.base))


def test_remedies_count_people_for_methods_of_units_and_shards_for_those_of_shards(plan: Plan) -> None:
    """Delta is of two rows, a row is shorter than w, and each site has as many shards as the method makes by auto."""
    base, z = pin(plan.model.base), calibrate(plan.privacy.epsilon_target, plan.privacy.delta, 1.0, 1)
    for one in (plan, make_plan(Path(plan.model.base), PEOPLE)):
        ratios = ratios_by_auto(one, base)
        assert ratios["dummy-shards"] == pytest.approx(z * 2 * math.sqrt(6) / (4 * 3))
        assert ratios["dummy"] == pytest.approx(z * math.sqrt(DIMENSION) / 600)
    fewer = plan.model_copy(update={"method": plan.method.model_copy(update={"options": {"shards": 2}, "shards": 2})})
    assert what_works(fewer, base).endswith("leave out the other keys of [method]")


def test_shards_go_with_secure_aggregation(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    found = make_plan(dummy_base, PEOPLE, sharded={}, aggregation=secure(3), rounds=2, max_attempts=5)
    assert found.aggregation.rosters == "chain"
    assert not found.once_per_round
