"""The plan: one spelling, one digest, and no two numbers that contradict each other."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.studies import study_with
from tests.support.world import make_plan, secure
from undertone import __version__
from undertone.core.canonical import canonical_json, sha256_hex
from undertone.errors import MechanismViolation, NoisyRelease, PlanChanged
from undertone.models.pinned import pin
from undertone.study.claim import check_claim, recompute_epsilon
from undertone.study.plan import FORMAT, Plan, PlannedData
from undertone.study.rehearsal import drawn_units, rehearsal_of, rehearsal_plan
from undertone.study.resolve import refuse_noise, resolve, units_for_signal
from undertone.study.schema import parse_study
from undertone.study.timing import check_timing

SITES = ("north", "east", "south")
AMPLIFIED = {"sampling_rate": 0.5, "rounds": 2, "max_attempts": 5}


@pytest.fixture(scope="module")
def plan(dummy_base: Path) -> Plan:
    return make_plan(dummy_base, {"north": 280, "east": 200, "south": 120}, rounds=2, max_attempts=3, sampling_rate=0.5)


@pytest.fixture(scope="module")
def resolved(dummy_base: Path) -> Iterator[Plan]:
    """The good study's plan; calibration takes seconds, so it is made once."""
    from tests.support.dummy import DummyMethod
    from undertone.methods.registry import METHODS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "dummy", DummyMethod)
        yield resolve(parse_study(study_with({}, str(dummy_base))))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    return [path]


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * (1 + 2**-50) if value else 0.5
    if value is None:
        return "x"
    return ("0" if value[0] != "0" else "1") + value[1:]


def put(tables: Any, path: tuple[Any, ...], value: Any) -> None:
    for part in path[:-1]:
        tables = tables[part]
    tables[path[-1]] = value


def test_the_plan_survives_a_round_trip(plan: Plan, resolved: Plan) -> None:
    for one in (plan, resolved):
        assert Plan.from_bytes(one.as_bytes()) == one
        assert Plan.from_bytes(one.as_bytes()).digest == one.digest == sha256_hex(one.as_bytes())


def test_the_digest_is_the_same_for_two_resolves_and_any_order(
    resolved: Plan, dummy_method: None, dummy_base: Path
) -> None:
    tables = study_with({}, str(dummy_base))
    backwards = {name: dict(reversed(list(table.items()))) for name, table in reversed(list(tables.items()))}
    backwards["cohort"]["units"] = dict(reversed(list(tables["cohort"]["units"].items())))
    assert resolve(parse_study(backwards)).digest == resolved.digest


def test_the_resolved_numbers_follow_from_the_study(resolved: Plan) -> None:
    privacy, grid = resolved.privacy, resolved.grid
    assert privacy.sensitivity == grid.clip_units == grid.scale  # C = 1
    assert grid.site_clamp == (2**31 - 1) // 3
    assert grid.clip_units * (280 + 6 * 280**0.5) <= grid.site_clamp
    assert grid.clip_units == 1 << 22 or 2 * grid.clip_units * (280 + 6 * 280**0.5) > grid.site_clamp
    assert 3.99 < privacy.epsilon <= 4.0 < privacy.epsilon_rdp
    assert (privacy.rounds, privacy.max_attempts) == (1, 2)
    assert resolved.cohort.units_origin == "published"


def test_the_claim_is_recomputed_from_the_integers_to_the_last_bit(resolved: Plan) -> None:
    assert recompute_epsilon(resolved) == (resolved.privacy.epsilon, resolved.privacy.epsilon_rdp)


def test_every_field_of_the_plan_is_in_its_digest(plan: Plan) -> None:
    spelled = plan.model_dump(mode="json")
    digests = {plan.digest}
    paths = leaves(spelled)
    for path in paths:
        tables = copy.deepcopy(spelled)
        put(tables, path, changed(_get(spelled, path)))
        digests.add(sha256_hex(canonical_json(tables)))
    assert len(digests) == len(paths) + 1
    unsaid = {"earlier", "start", "successor"}  # which plans of one stage and no other study do not spell
    assert {path[0] for path in paths} | unsaid == set(Plan.model_fields)


def _get(tables: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        tables = tables[part]
    return tables


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_field_is_another_plan_or_none(plan: Plan, data: st.DataObject) -> None:
    spelled = json.loads(plan.as_bytes())
    path = data.draw(st.sampled_from(leaves(spelled)))
    value = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
    )
    before = canonical_json(_get(spelled, path))
    put(spelled, path, value)
    try:
        other = Plan.from_bytes(canonical_json(spelled))
    except PlanChanged:
        return
    assert (other.digest == plan.digest) == (canonical_json(value) == before)


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_is_another_plan_or_none(plan: Plan, position: int, byte: int) -> None:
    data = bytearray(plan.as_bytes())
    position %= len(data)
    if data[position] == byte:
        return
    data[position] = byte
    with contextlib.suppress(PlanChanged):
        assert Plan.from_bytes(bytes(data)).digest != plan.digest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b'":', b'": ', 1),
        lambda data: json.dumps(dict(reversed(list(json.loads(data).items())))).encode(),
        lambda data: data.replace(b'"protocol":', b'"protocol":1,"protocol":', 1),
        lambda data: data.replace(b'"delta":1e-05', b'"delta":0.00001'),
    ],
    ids=["newline", "space before", "space within", "order", "key twice", "other float"],
)
def test_only_the_canonical_spelling_is_read(plan: Plan, spoil: Any) -> None:
    data = spoil(plan.as_bytes())
    assert data != plan.as_bytes()
    with pytest.raises(PlanChanged):
        Plan.from_bytes(data)


@pytest.mark.parametrize(("number", "message"), [(3, "has format 3; undertone .* reads format 1, 2"), ("1", "format")])
def test_a_plan_of_another_format_is_refused_by_its_number_before_anything_else(
    plan: Plan, number: Any, message: str
) -> None:
    later = {"format": number, "what": "no key of today"}
    with pytest.raises(PlanChanged, match=message):
        Plan.from_bytes(canonical_json(later))
    spelled = json.loads(plan.as_bytes()) | {"format": number}
    with pytest.raises(PlanChanged, match=message):
        Plan.from_bytes(canonical_json(spelled))


def test_a_plan_runs_under_its_own_version_alone_and_names_both(plan: Plan) -> None:
    plan.check_version()
    with pytest.raises(PlanChanged, match=rf"made for undertone 0.0.1, this is {__version__}"):
        plan.model_copy(update={"package": "0.0.1"}).check_version()
    with pytest.raises(PlanChanged, match="protocol 99, this program protocol"):
        plan.model_copy(update={"protocol": 99}).check_version()
    with pytest.raises(PlanChanged, match=f"the plan has format 1, this program runs format {FORMAT}"):
        plan.model_copy(update={"format": 1}).check_version()


def test_a_plan_of_format_1_is_read_as_it_was_written(plan: Plan) -> None:
    old = Plan.model_validate(plan.model_dump() | {"format": 1})
    assert b"rehearsal" not in old.as_bytes()
    assert b"ready_seconds" not in old.as_bytes()
    assert Plan.from_bytes(old.as_bytes()) == old
    for changes in ({"rehearsal": False}, {"privacy": json.loads(plan.as_bytes())["privacy"]}):
        with pytest.raises(PlanChanged, match="canonical form"):
            Plan.from_bytes(canonical_json(json.loads(old.as_bytes()) | changes))


def test_a_plan_of_format_2_spells_every_key(plan: Plan) -> None:
    spelled = json.loads(plan.as_bytes())
    assert (spelled["format"], spelled["rehearsal"], spelled["privacy"]["ready_seconds_per_unit"]) == (2, False, 0.0)
    del spelled["rehearsal"]
    with pytest.raises(PlanChanged, match="canonical form"):
        Plan.from_bytes(canonical_json(spelled))


@pytest.mark.parametrize("changes", [{"rehearsal": True}, {"ready_seconds_per_unit": 1.0}])
def test_format_1_cannot_say_what_it_has_no_words_for(dummy_base: Path, changes: dict[str, Any]) -> None:
    shared = make_plan(dummy_base, dict.fromkeys(SITES, 10), aggregation=secure(3), noise="distributed", **AMPLIFIED)
    tables = shared.model_dump() | {"format": 1}
    where = tables if "rehearsal" in changes else tables["privacy"]
    where.update(changes)
    with pytest.raises(ValidationError, match="format 1 has no"):
        Plan.model_validate(tables)


def test_a_rehearsal_is_another_plan_of_one_round(plan: Plan, dummy_base: Path) -> None:
    rehearsal = rehearsal_of(plan, "dummy-rehearsal-1")
    assert Plan.from_bytes(rehearsal.as_bytes()) == rehearsal == rehearsal_plan(rehearsal.as_bytes())
    assert rehearsal.digest != plan.digest
    assert (rehearsal.privacy.rounds, rehearsal.privacy.max_attempts) == (1, 3)
    assert rehearsal_of(plan, "dummy-rehearsal-2").digest != rehearsal.digest
    check_claim(rehearsal)
    same = {"grid", "method", "model", "cohort", "aggregation", "data", "package_sha256"}
    assert rehearsal.model_dump(include=same) == plan.model_dump(include=same)
    for changes in ({"rounds": 2}, {"max_attempts": 4}):
        privacy = rehearsal.privacy.model_copy(update=changes)
        with pytest.raises(ValidationError, match="one round in at most 3 attempts"):
            Plan.model_validate(rehearsal.model_copy(update={"privacy": privacy}).model_dump())


def test_a_rehearsals_public_time_is_short_and_there_where_the_studys_is(dummy_base: Path) -> None:
    units = {"north": 280, "east": 200, "south": 120}
    timed = {"aggregation": secure(3), "noise": "distributed", "ready_seconds_per_unit": 5.0}
    rehearsal = rehearsal_of(make_plan(dummy_base, units, **timed, **AMPLIFIED), "r")
    assert 0 < rehearsal.ready_after("south") < rehearsal.ready_after("north") <= 10.0
    check_timing(rehearsal)
    assert [drawn_units(rehearsal, site) for site in units] == [8, 8, 8]


def test_what_is_no_rehearsal_is_none(plan: Plan) -> None:
    quoting = plan.model_copy(
        update={"study": "x", "data": PlannedData(unit_column="p", caption='{token} "rehearsal"')}
    )
    for data in (plan.as_bytes(), quoting.as_bytes(), b'"rehearsal":true', b"\xff" + b'"rehearsal":true', b""):
        assert rehearsal_plan(data) is None


def test_a_site_is_ready_at_a_public_time_where_its_pace_would_tell_its_coins(dummy_base: Path) -> None:
    units = {"north": 280, "east": 200, "south": 120}

    def planned(**privacy: Any) -> Plan:
        return make_plan(dummy_base, units, aggregation=secure(3), **privacy)

    shared = planned(noise="distributed", ready_seconds_per_unit=0.5, **AMPLIFIED)
    assert [shared.ready_after(site) for site in units] == [140.0, 100.0, 60.0]
    at_once = planned(noise="distributed", **AMPLIFIED)
    assert at_once.amplified_at_sites
    assert at_once.ready_after("north") == 0.0
    for hidden in ({"noise": "distributed"}, AMPLIFIED):
        assert not planned(**hidden).amplified_at_sites
        assert planned(**hidden).ready_after("north") == 0.0
        with pytest.raises(ValidationError, match="has a time at which a site is ready"):
            planned(ready_seconds_per_unit=0.5, **hidden)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"protocol":1}', b"{" * 5000])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(PlanChanged, match="does not hold a plan"):
        Plan.from_bytes(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("privacy.sensitivity", 1),
        ("privacy.max_attempts", 1),
        ("privacy.sigma", 63),
        ("privacy.sampling_rate", 0.0),
        ("privacy.sampling_rate", 1.5),
        ("privacy.rounds", 0),
        ("privacy.adjacency", "replace one"),
        ("privacy.noise", "distributed"),
        ("cohort.min_sites", 4),
        ("cohort.min_sites", 1),
        ("cohort.units", {}),
        ("cohort.units", {"north": 0, "east": 1, "south": 1}),
        ("cohort.units", {"Not A Site": 1, "east": 1, "south": 1}),
        ("grid.clip_units", 512),
        ("grid.site_clamp", 2**31 // 3 + 1),
        ("grid.modulus_bits", 31),
        ("method.dimension", 0),
        ("method.layout_digest", "abc"),
        ("package_sha256", "ABC"),
        ("aggregation", "masked"),
        ("study", "../x"),
        ("extra", 1),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(plan: Plan, path: str, value: Any) -> None:
    tables = plan.model_dump(mode="json")
    put(tables, tuple(path.split(".")), value)
    with pytest.raises(PlanChanged):
        Plan.from_bytes(canonical_json(tables))


def test_the_denominator_is_s_times_p_times_published_units(plan: Plan) -> None:
    assert plan.denominator(1, ("north", "south")) == plan.grid.scale * 0.5 * 400
    for sites in ((), ("west",)):
        with pytest.raises(MechanismViolation):
            plan.denominator(1, sites)


def test_a_release_of_noise_is_refused_unless_the_study_says_so(plan: Plan, dummy_base: Path) -> None:
    def with_ratio(ratio: float, allowed: bool) -> Plan:
        privacy = plan.privacy.model_copy(update={"noise_to_signal": ratio, "allow_noisy": allowed})
        return plan.model_copy(update={"privacy": privacy})

    base = pin(str(dummy_base))
    refuse_noise(with_ratio(1.0, False), base)
    refuse_noise(with_ratio(9.0, True), base)
    with pytest.raises(NoisyRelease, match=r"2\.5 times.*about 1500 units.*600 are planned"):
        refuse_noise(with_ratio(2.5, False), base)
    assert units_for_signal(with_ratio(2.5, False)) == 1500
