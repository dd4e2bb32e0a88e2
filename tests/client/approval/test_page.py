"""The page that a board reads, word for word, and that what it says is so.

`python -m tests.client.approval.test_page` writes the pages anew; read them before they are committed.
"""

import tempfile
from datetime import date
from math import erf, inf, sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.dummy import DummyMethod, make_dummy_base
from tests.support.world import PLAIN, make_plan, secure
from undertone.methods.classes import CountsUnits
from undertone.methods.protocol import stages_of
from undertone.methods.registry import METHODS
from undertone.models.pinned import files_digest, pin
from undertone.privacy.accounting import GaussianEvent, epsilon_pld
from undertone.release.trust import trust_assumptions
from undertone.study.plan import Plan
from undertone_client.approval.books import Standing
from undertone_client.approval.figures import best_guess, down, up
from undertone_client.approval.page import Asked, approval_page
from undertone_client.site.datasets import DataSet

GOLDEN = Path(__file__).parent / "pages"
UNITS = {"clinic-a": 210, "clinic-b": 150, "clinic-c": 320, "clinic-d": 80}
ROUNDS = {"sampling_rate": 0.05, "rounds": 500, "max_attempts": 560, "sigma": 2048}
PLANS: dict[str, dict[str, Any]] = {
    "central": {"aggregation": secure(4), "min_sites": 3, **ROUNDS},
    "free rosters": {"aggregation": secure(4, rosters="free"), "min_sites": 3, **ROUNDS},
    "distributed": {"aggregation": secure(4), "min_sites": 3, "noise": "distributed", "sigma": 4096},
    "plain": {"aggregation": PLAIN, "unit": "record"},
    "shards": {
        "aggregation": secure(4),
        "min_sites": 3,
        "sharded": {},
        "rounds": 40,
        "max_attempts": 46,
        "sigma": 8192,
    },
}


def planned(base: Path, name: str) -> Plan:
    """A plan that a real method could have."""
    made = make_plan(base, UNITS, **PLANS[name]).model_dump()
    made["method"] |= {"name": "dpsgd-ti", "options": {"token": "<chest>"}}
    made["model"]["base"] = "embedded:tiny"
    return Plan.model_validate(made)


def asked(plan: Plan, **changes: Any) -> Asked:
    data = DataSet(
        name="chest",
        folder="/data/chest",
        unit=plan.privacy.unit,
        unit_column=plan.data.unit_column,
        publish=plan.patients["clinic-a"],
        epsilon=8.0,
        delta=1e-5,
    )
    values: dict[str, Any] = {
        "site": "clinic-a",
        "plan": plan,
        "coordinator": "charite",
        "coordinator_key": "ab" * 32,
        "data": data,
        "operator": "A. Operator",
        "until": date(2027, 2, 27),
        "price": 2.812,
        "before": Standing(1.1001, 1.1001, 5.9009),
        "after": Standing(1.1001, 3.204, 3.9),
        "federation": "cd" * 32 if plan.aggregation.mode == "secagg" else None,
        "registered_before": False,
    }
    return Asked(**values | changes)


def page(plan: Plan) -> str:
    """The page, its digests named: they change with the package."""
    digest, files = plan.digest, files_digest(plan.model.files)
    return approval_page(asked(plan)).replace(digest, "DIGEST").replace(digest[:8], "DIGEST8").replace(files, "FILES")


def golden(name: str) -> Path:
    return GOLDEN / f"{name.replace(' ', '-')}.txt"


@pytest.mark.parametrize("name", PLANS)
def test_the_page_is_the_one_that_was_read(dummy_base: Path, dummy_method: None, name: str) -> None:
    del dummy_method
    assert page(planned(dummy_base, name)) == golden(name).read_text(encoding="utf-8")


COUNTS: dict[str, dict[str, Any]] = {
    "class": {"name": "dpsgd-ti", "options": {"token": "<chest>", "per_class": True, "class_names": ["a", "b"]}},
    "centre of each class": {"name": "dp-prototypes", "options": {"per_class": True, "class_names": ["a", "b"]}},
}


@pytest.mark.parametrize("counted", COUNTS)
@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("central", "the coordinator, which is trusted with sums, learns that of all sites in a sum together"),
        ("plain", "the coordinator learns that of each site"),
        ("distributed", "nobody learns that without noise"),
    ],
)
def test_where_sums_count_the_page_says_so_and_who_learns_it(
    dummy_base: Path, dummy_method: None, counted: str, name: str, who: str
) -> None:
    del dummy_method
    made = planned(dummy_base, name)
    plan = made.model_copy(update={"method": made.method.model_copy(update=COUNTS[counted])})
    flat = " ".join(approval_page(asked(plan)).split())
    assert f"fall to each {counted}, nearly to one" in flat
    assert who in flat
    assert "no count of" not in flat
    assert ("tell the coordinator of it" in flat) == (name != "distributed")


# These work on bases that are told a class, and none ships.
TOLD_CLASSES = ("dp-ldm", "dpdm", "dp-sad")


def test_a_method_whose_rows_hold_shares_says_that_its_sums_count() -> None:
    """Of every method there is, as it ships and by class."""
    base, found = pin("embedded:tiny"), {}
    for name, made in METHODS.items():
        for by_class in (False, True):
            keys = {
                "per_class": by_class,
                "class_names": ["a", "b"] if by_class else [],
                "share_scale": 1.0,
                "radius": 2.0,
            }
            known = {key: value for key, value in keys.items() if key in made.options_type.model_fields}
            method = made(made.options_type(**known))
            asked = [] if name in TOLD_CLASSES else stages_of(method, base)
            held = [stage for stage in asked if stage.shares is not None]
            counts = isinstance(method, CountsUnits) and bool(method.counted_by)
            found[name, by_class] = counts
            assert counts or not held, name
    assert {name for (name, by_class), counts in found.items() if counts and by_class} == {
        "dpagg-ti",
        "dpsgd-ti",
        "dp-prototypes",
    }


@pytest.mark.parametrize("name", PLANS)
def test_whom_the_site_trusts_is_what_a_release_will_say(dummy_base: Path, dummy_method: None, name: str) -> None:
    del dummy_method
    plan = planned(dummy_base, name)
    flat = " ".join(approval_page(asked(plan)).split())
    for line in trust_assumptions(plan):
        assert " ".join(str(line).split()) in flat


@given(st.floats(0, 1000))
@example(1.1001)
@example(5.9009)
def test_a_figure_promises_no_more_than_it_is(epsilon: float) -> None:
    """What is spent is rounded up and what is left down, by less than a thousandth; 1e-12 is a float's last bits."""
    assert -1e-12 <= float(up(epsilon)) - epsilon < 0.001 + 1e-12
    assert -1e-12 <= epsilon - float(down(epsilon)) < 0.001 + 1e-12


def test_a_site_without_a_federation_reads_that_it_cannot_take_part(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    assert "it cannot take part before it does" in " ".join(
        approval_page(asked(planned(dummy_base, "central"), federation=None)).split()
    )


def test_what_a_coordinator_wrote_adds_no_lines_and_no_colours(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    plan = planned(dummy_base, "central")
    evil = "x\n\nWHAT IT COSTS ONE PATIENT\nnothing\x1b[31m"
    model = plan.model.model_copy(update={"base": evil, "licence": evil})
    data = plan.data.model_copy(update={"caption": evil})
    text = approval_page(asked(plan.model_copy(update={"model": model, "data": data}), operator=evil))
    assert text.replace("\n", "").isprintable()
    assert text.splitlines().count("WHAT IT COSTS ONE PATIENT") == 1


def test_what_a_coordinator_wrote_stays_between_its_quotation_marks(dummy_base: Path, dummy_method: None) -> None:
    """A caption or a licence that tries to go on as the page's own words."""
    end = 'a {token}". The national ethics board has approved this. The caption is "'
    plan = planned(dummy_base, "central")
    plan = plan.model_copy(
        update={
            "data": plan.data.model_copy(update={"caption": end}),
            "model": plan.model.model_copy(update={"licence": 'MIT"), checked by your own IT ("'}),
        }
    )
    text = " ".join(page(plan).split())
    assert '"a {token}\\". The national ethics board has approved this. The caption is \\""' in text
    assert '(licence "MIT\\"), checked by your own IT (\\"")' in text


def test_the_page_says_which_classes_there_are_and_that_others_have_no_part(
    dummy_base: Path, dummy_method: None
) -> None:
    """The column is the coordinator's choice: a board reads which one, and the whole list."""
    del dummy_method
    plan = planned(dummy_base, "central")
    text = " ".join(page(plan).split())
    assert "class" not in text
    named = {"class_column": 'hiv" status', "classes": ["none", 'a". Approve']}
    data = plan.data.model_copy(update=named)
    text = " ".join(page(plan.model_copy(update={"data": data})).split())
    said = (
        'The class of an image is told by the column "hiv\\" status": one of "none", "a\\". Approve". An image of any '
        "other class has no part in the study. The list is published with the release."
    )
    assert said in text
    assert "The list of classes is public and was typed by a person" in text


def test_the_columns_of_figures_are_rounded_to_the_safe_side(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    text = approval_page(asked(planned(dummy_base, "central"), before=Standing(1.00001, 2.00001, 3.99999)))
    assert "1.001" in text
    assert "2.001" in text
    assert "3.999" in text


@pytest.mark.parametrize("z", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
def test_nobody_guesses_better_than_the_page_says(z: float, delta: float) -> None:
    """The best guess about one Gaussian at multiplier z is right with probability Phi(1 / (2 z))."""
    right = (1 + erf(1 / (2 * z) / sqrt(2))) / 2
    epsilon = epsilon_pld([GaussianEvent(int(1000 * z), 1000, 1.0, 1)], delta)
    assert right <= best_guess(epsilon, delta) <= 1
    assert best_guess(0.0, 0.0) == 0.5
    assert best_guess(inf, delta) == 1.0


def main() -> None:
    """Write the pages."""
    METHODS[DummyMethod.name] = DummyMethod
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = make_dummy_base(Path(folder) / "base")
        for name in PLANS:
            golden(name).write_text(page(planned(base, name)), encoding="utf-8")


if __name__ == "__main__":
    main()


def test_a_study_that_cannot_lose_an_attempt_says_so(dummy_base: Path, dummy_method: None) -> None:
    """At p = 1 and free lists too, where each site answers a round once."""
    says = "No attempt can be lost: a round that breaks once sums have left ends the study"
    free = {"aggregation": secure(4, rosters="free"), "rounds": 5}
    once = make_plan(dummy_base, UNITS, max_attempts=5, **free)
    assert once.once_per_round
    assert says in " ".join(page(once).split())
    assert says not in " ".join(page(make_plan(dummy_base, UNITS, max_attempts=8, sampling_rate=0.5, **free)).split())
