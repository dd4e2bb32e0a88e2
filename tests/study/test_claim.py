"""Whoever reads a plan recomputes what it claims and refuses a lower claim; figures are bounded before use."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.forgery import changed_plan
from tests.support.studies import study_with
from tests.support.world import World, data_of, make_plan, secure
from undertone.errors import PlanChanged, StudyError, UnderstatedClaim
from undertone.methods.release_format import Description
from undertone.models.pinned import PinnedBase
from undertone.release.trust import trust_assumptions
from undertone.study import claim
from undertone.study.claim import check_claim, delta_warning, recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.resolve import resolve
from undertone.study.schema import parse_study
from undertone_cli.commands import plan as plan_command
from undertone_cli.commands import simulate as simulate_command
from undertone_client.registration.registered import register
from undertone_client.site.folder import SiteDir
from undertone_server.card import model_card
from undertone_server.run_folder import RunFolder
from undertone_server.run_study import run_study

Make = Callable[..., World]
pytestmark = pytest.mark.usefixtures("dummy_method")

SITES = {"north": 30, "east": 20, "south": 20}
KINDS: list[dict[str, Any]] = [{}, {"noise": "distributed", "aggregation": secure(3)}]


def claiming(plan: Plan, **figures: float) -> Plan:
    return plan.model_copy(update={"privacy": plan.privacy.model_copy(update=figures)})


def lower(plan: Plan, factor: float = 0.5) -> Plan:
    privacy = plan.privacy
    return claiming(plan, epsilon=privacy.epsilon * factor, epsilon_rdp=privacy.epsilon_rdp * factor)


# --- the check ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=["central", "distributed"])
def test_a_true_claim_passes_and_a_lower_one_is_refused_with_both_figures(
    dummy_base: Path, kind: dict[str, Any]
) -> None:
    plan = make_plan(dummy_base, SITES, rounds=2, max_attempts=3, **kind)
    check_claim(plan)
    assert recompute_epsilon(plan) == (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    with pytest.raises(UnderstatedClaim) as refusal:
        check_claim(lower(plan))
    assert f"claims epsilon {plan.privacy.epsilon / 2:.6g}" in str(refusal.value)
    assert f"gives {plan.privacy.epsilon:.6g}" in str(refusal.value)


def test_either_figure_alone_is_checked(dummy_base: Path) -> None:
    plan = make_plan(dummy_base, SITES)
    for name in ("epsilon", "epsilon_rdp"):
        with pytest.raises(UnderstatedClaim):
            check_claim(claiming(plan, **{name: getattr(plan.privacy, name) * 0.999}))


def test_the_last_bits_of_another_processor_pass_and_no_more(dummy_base: Path) -> None:
    plan = make_plan(dummy_base, SITES)
    check_claim(lower(plan, 1 - 5e-10))
    with pytest.raises(UnderstatedClaim):
        check_claim(lower(plan, 1 - 2e-9))


def test_a_higher_claim_says_less_than_it_gives_and_passes(dummy_base: Path) -> None:
    check_claim(lower(make_plan(dummy_base, SITES), 1.5))


@pytest.mark.parametrize(
    ("change", "privacy"),
    [
        ({"sigma": 4096}, {"sigma": 2048}),
        ({}, {"max_attempts": 2}),
        ({"max_attempts": 2, "sampling_rate": 0.5}, {"sampling_rate": 0.6}),
        ({"delta": 1e-5}, {"delta": 1e-6}),
    ],
)
def test_the_claim_of_a_milder_mechanism_is_refused(
    dummy_base: Path, change: dict[str, Any], privacy: dict[str, Any]
) -> None:
    plan = make_plan(dummy_base, SITES, **change)
    with pytest.raises(UnderstatedClaim):
        check_claim(plan.model_copy(update={"privacy": plan.privacy.model_copy(update=privacy)}))


def test_noise_that_no_accountant_certifies_is_refused(dummy_base: Path) -> None:
    """Below a sixteenth of Delta epsilon is infinite, whatever is claimed; the RDP is still told."""
    plan = make_plan(dummy_base, SITES, epsilon=99.0, epsilon_rdp=1e20, sigma=64, clip_units=2048)
    with pytest.raises(UnderstatedClaim, match=r"gives inf \(RDP"):
        check_claim(plan)


def test_a_mechanism_is_worked_out_once(dummy_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(claim, "epsilon_claim", lambda events, delta: asked.append((events, delta)) or 0.0)
    claim.epsilons.cache_clear()
    try:
        plan = make_plan(dummy_base, SITES, sigma=2000)
        for _ in range(5):
            check_claim(plan)
        assert len(asked) == 1
        make_plan(dummy_base, SITES, sigma=2001)
        assert len(asked) == 2
    finally:
        claim.epsilons.cache_clear()


ALONE = """
import sys
from pathlib import Path
from undertone.study.claim import check_claim
from undertone.errors import UnderstatedClaim
from undertone.models.pinned import pin
from undertone.study.plan import Plan
for name in sys.argv[1:]:
    try:
        check_claim(Plan.from_bytes(Path(name).read_bytes()))
        print("true")
    except UnderstatedClaim:
        print("refused")
heavy = ("torch", "diffusers", "transformers", "peft", "flwr", "tensorboard", "sklearn")
print(sorted(name for name in sys.modules if name.split(".")[0] in heavy or name.startswith("undertone.methods")))
"""


def test_plan_and_accounting_are_all_it_needs(dummy_base: Path, tmp_path: Path) -> None:
    plan = make_plan(dummy_base, SITES)
    for name, one in (("true", plan), ("false", lower(plan))):
        (tmp_path / name).write_bytes(one.as_bytes())
    words = [sys.executable, "-c", ALONE, str(tmp_path / "true"), str(tmp_path / "false")]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    assert out.split("\n")[:3] == ["true", "refused", "[]"]


# --- who asks for it ------------------------------------------------------------------------------


def test_a_site_registers_no_record_for_a_claim_that_is_too_low(make_world: Make) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    before = sorted((site.folder / "registered").iterdir())
    with pytest.raises(UnderstatedClaim):
        register(site, lower(world.plan), data_of(site))
    assert sorted((site.folder / "registered").iterdir()) == before


def test_a_registration_that_is_there_does_not_hide_the_claim(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    assert register(site, world.plan, data_of(site)).records
    monkeypatch.setattr("undertone.study.claim.epsilons", lambda *_: (50.0, 60.0))
    with pytest.raises(UnderstatedClaim):
        register(site, world.plan, data_of(site))


@pytest.mark.parametrize("kind", ["prepare", "plain_input"])
def test_a_node_answers_no_plan_that_claims_too_little(make_world: Make, kind: str) -> None:
    """Signed by the coordinator and approved by the site, and false."""
    world = make_world()
    false = lower(world.plan)
    reply = world.ask(kind, **world.signed(false))
    assert reply.error == "UnderstatedClaim"
    assert reply.words is None
    assert "claims epsilon" in reply.message
    assert "UnderstatedClaim" in world.log()
    assert world.charges("north") == []


def test_a_coordinator_neither_starts_nor_resumes_it(make_world: Make, tmp_path: Path) -> None:
    false = lower(make_world().plan)
    run = RunFolder.create(tmp_path / "false", false, {"setting": "test"})
    grid: Any = None  # nothing is asked
    for _ in range(2):
        with pytest.raises(UnderstatedClaim):
            run_study(grid, run.folder)
    assert not list(run.checkpoints.iterdir())


def test_simulate_checks_before_a_run_is_written(
    tmp_path: Path, dummy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = lower(make_plan(dummy_base, SITES))
    for name in ("_check_roster", "_check_all_images"):
        monkeypatch.setattr(simulate_command, name, lambda *_: None)
    monkeypatch.setattr(simulate_command, "resolved", lambda *_, **__: SimpleNamespace(plan=false))
    monkeypatch.setattr(simulate_command, "start_of", lambda _: None)
    study: Any = None
    machine: Any = None
    with pytest.raises(UnderstatedClaim):
        simulate_command._prepare(study, tmp_path / "study.toml", tmp_path / "RUN", {}, machine)
    assert not list(tmp_path.iterdir())


def test_plan_prints_no_table_for_it(tmp_path: Path, dummy_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.runs import call

    false = lower(make_plan(dummy_base, SITES))
    monkeypatch.setattr(plan_command, "load_study", lambda _: None)
    monkeypatch.setattr(plan_command, "resolved", lambda *_, **__: SimpleNamespace(plan=false))
    monkeypatch.setattr(plan_command, "start_of", lambda _: None)
    result = call("plan", tmp_path / "study.toml")
    assert result.exit_code == 3
    assert "UnderstatedClaim" in result.stderr
    assert result.stdout == ""


# --- delta ----------------------------------------------------------------------------------------


def test_a_delta_above_one_in_the_number_of_units_is_said_everywhere(dummy_base: Path) -> None:
    large = {name: units * 10 for name, units in SITES.items()}
    loud = make_plan(dummy_base, large, delta=0.005)
    warning = delta_warning(loud)
    assert warning is not None
    assert "delta of 0.005 is large for 700 units" in warning
    assert ("WARNING", warning) in plan_command.describe(loud)
    assert warning in trust_assumptions(loud)
    assert warning in model_card(loud, {"": "a picture"}, 3, Description("a word", "a word", "# load it"))
    quiet = make_plan(dummy_base, SITES, delta=1e-5)
    assert delta_warning(quiet) is None
    assert "WARNING" not in dict(plan_command.describe(quiet))
    assert not [line for line in trust_assumptions(quiet) if "is large for" in str(line)]


def test_the_warning_begins_above_one_in_the_number_of_units(dummy_base: Path) -> None:
    units = {"north": 100, "east": 50, "south": 50}
    assert delta_warning(make_plan(dummy_base, units, delta=1 / 200)) is None
    assert delta_warning(make_plan(dummy_base, units, delta=1 / 200 * 1.01)) is not None


# --- bounds of the schema -------------------------------------------------------------------------

TOO_LARGE: list[tuple[str, Any]] = [
    ("privacy.delta", 0.0),
    ("privacy.delta", 0.01),
    ("privacy.delta", -1e-5),
    ("privacy.rounds", 10**6 + 1),
    ("privacy.rounds", 10**11),
    ("privacy.max_attempts", 10**6 + 1),
    ("privacy.epsilon", 100.1),
    ("privacy.epsilon_target", 100.1),
    ("privacy.epsilon_rdp", -0.1),
    ("privacy.epsilon_rdp", 1e31),
    ("privacy.noise_to_signal", 1e31),
    ("privacy.noise_to_signal", -1.0),
    ("privacy.sensitivity", (1 << 24) + 1),
    ("privacy.sigma", (1 << 38) + 1),
    ("method.dimension", (1 << 32) + 1),
    ("method.name", "x" * 201),
    ("method.options", {f"key-{number}": 1 for number in range(101)}),
    ("method.options", {"x" * 201: 1}),
    ("method.options.rate", "x" * 2001),
    ("method.options.rate", (1 << 53) + 1),
    ("method.options.rate", 1e31),
    ("method.options.rate", ["x"] * 1001),
    ("method.options.rate", ["x" * 2001]),
    ("grid.scale", 1 << 63),
    ("grid.scale", 3),
    ("grid.clip_units", (1 << 22) + 1),
    ("grid.site_clamp", 1 << 31),
    ("grid.noise_margin", 1 << 31),
    ("cohort.units", {f"site-{number}": 10 for number in range(1001)}),
    ("cohort.units.north", 10**9 + 1),
    ("cohort.min_sites", 1001),
    ("aggregation.threshold", 1001),
    ("aggregation.colluders", 1001),
    ("data.caption", "x" * 2001),
    ("data.unit_column", "x" * 201),
    ("model.base", "x" * 4097),
    ("model.revision", "x" * 201),
    ("model.licence", "x" * 2001),
    ("model.files", {f"file-{number}": "0" * 64 for number in range(2001)}),
    ("model.files", {"x" * 4097: "0" * 64}),
    ("package", "x" * 201),
    ("protocol", 10**6 + 1),
    ("protocol", -1),
    ("study", "x" * 64),
]


@pytest.mark.parametrize(
    ("where", "value"), TOO_LARGE, ids=[f"{where}-{index}" for index, (where, _) in enumerate(TOO_LARGE)]
)
def test_every_figure_of_a_plan_has_a_bound(dummy_base: Path, where: str, value: Any) -> None:
    spelled = changed_plan(make_plan(dummy_base, SITES), {where: value})
    with pytest.raises(PlanChanged, match=r"plan\.json") as refusal:
        Plan.from_bytes(spelled)
    assert "canonical" not in str(refusal.value) or where == "method.options.rate"
    assert len(str(refusal.value)) < 1000


def test_a_plan_that_is_too_long_is_not_parsed(dummy_base: Path) -> None:
    spelled = make_plan(dummy_base, SITES).as_bytes()
    assert Plan.from_bytes(spelled)
    with pytest.raises(PlanChanged, match="no plan has more than"):
        Plan.from_bytes(spelled + b" " * (1 << 20))


@pytest.mark.parametrize(
    "data",
    [
        b" " * (1 << 20) + b" ",
        b"[" * (1 << 20),
        b'{"protocol":' + b"9" * (1 << 19) + b"}",
        b'{"' + b"\\u0001" * 1000 + b'":1}',
    ],
    ids=["longer", "deep", "a number of half a million digits", "a key of control characters"],
)
def test_what_is_no_plan_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(PlanChanged) as refusal:
        Plan.from_bytes(data)
    assert len(str(refusal.value)) < 1000
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("privacy.max_attempts", 10**7),
        ("cohort.units", {f"site-{number}": 10 for number in range(1001)}),
        ("cohort.units", {"north": 10**10, "east": 10, "south": 10}),
        ("cohort.min_sites", 1001),
        ("aggregation.threshold", 1001),
        ("aggregation.colluders", 1001),
        ("data.caption", "a {token}" + "x" * 2000),
        ("data.unit_column", "x" * 201),
        ("model.revision", "x" * 201),
        ("privacy.delta", 0.01),
    ],
)
def test_a_study_has_the_same_bounds(key: str, value: Any) -> None:
    with pytest.raises(StudyError, match=key.replace(".", r"\.")):
        parse_study(study_with({key: value}))


def test_a_study_that_makes_no_readable_plan_is_bad_input(
    dummy_base: Path, dummy_method: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone.study.settling.calibrate", lambda *_, **__: 15.0)
    study = parse_study(study_with({}, str(dummy_base)))
    monkeypatch.setattr("undertone.study.resolve.PLAN_BYTES", 100)
    with pytest.raises(StudyError, match="100 bytes"):
        resolve(study)
    monkeypatch.undo()


def test_a_plan_that_would_claim_more_than_was_asked_for_is_bad_input(
    dummy_base: Path, dummy_method: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tiny delta rounding may decide between two looks at nearly the same noise: nobody gets less than asked."""
    study = parse_study(study_with({}, str(dummy_base)))
    monkeypatch.setattr("undertone.study.settling.epsilons", lambda *_: (study.privacy.epsilon * 1.01, 9.0))
    with pytest.raises(StudyError, match=r"raise privacy\.delta"):
        resolve(study)


def test_a_licence_too_long_for_a_plan_is_bad_input(
    dummy_base: Path, dummy_method: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone.study.settling.calibrate", lambda *_, **__: 15.0)
    monkeypatch.setattr(PinnedBase, "licence", "x" * 3000)
    with pytest.raises(StudyError, match="licence"):
        resolve(parse_study(study_with({}, str(dummy_base))))
