"""STUDY.toml: each bad input is one line that names the thing."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.studies import study_with, write_study
from undertone.errors import ModelError, StudyError
from undertone.methods.registry import method_for
from undertone.study.resolve import resolve
from undertone.study.schema import Study, caption_fields, load_study, parse_study


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(study_with(changes), "study.toml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_study_is_read_as_written(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path / "study.toml", study_with()))
    assert study == parse_study(study_with())
    assert study.privacy.epsilon == 4.0
    assert study.cohort.units == {"north": 280, "east": 200, "south": 120}
    assert list(study.cohort.units) == ["north", "east", "south"]


def test_defaults_are_the_designs() -> None:
    study = parse_study(
        {
            "study": {"name": "s"},
            "model": {"base": "embedded:tiny"},
            "method": {"name": "dpagg-ti"},
            "privacy": {"unit": "record", "epsilon": 1, "delta": 1e-5},
        }
    )
    privacy = study.privacy
    assert (privacy.clip_norm, privacy.sampling_rate, privacy.rounds, privacy.noise) == (*["auto"] * 3, "central")
    assert (privacy.max_attempts, privacy.allow_noisy, study.cohort.min_sites) == (None, False, 3)


def test_whole_numbers_stand_for_floats() -> None:
    assert parse_study(study_with({"privacy.epsilon": 4})).privacy.epsilon == 4.0


@pytest.mark.parametrize(
    ("where", "near"),
    [
        ("privcy", "privacy"),
        ("privacy.epsillon", "epsilon"),
        ("privacy.clipnorm", "clip_norm"),
        ("study.nam", "name"),
        ("model.bas", "base"),
        ("data.captoin", "caption"),
        ("cohort.minsites", "min_sites"),
    ],
)
def test_an_unknown_key_names_the_closest(where: str, near: str) -> None:
    message = refusal({where: 1 if "." in where else {}})
    assert f"unknown key {where}" in message
    assert f"did you mean {near}?" in message


def test_a_methods_unknown_key_names_the_closest() -> None:
    study = parse_study(study_with({"method.name": "dpagg-ti", "method.stpes": 3}))
    with pytest.raises(StudyError, match=r"unknown key stpes; did you mean steps\?"):
        method_for(study.method.name, study.method.options)


@pytest.mark.parametrize(("name", "near"), [("dpaggti", "dpagg-ti"), ("DPAgg-TI", "dpagg-ti")])
def test_an_unknown_method_names_the_closest(name: str, near: str) -> None:
    with pytest.raises(StudyError, match=f'did you mean "{near}"'):
        method_for(name, {})


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("privacy.epsilon", 0),
        ("privacy.epsilon", -1.0),
        ("privacy.epsilon", 101),
        ("privacy.epsilon", float("nan")),
        ("privacy.epsilon", float("inf")),
        ("privacy.epsilon", "4"),
        ("privacy.epsilon", True),
        ("privacy.delta", 0),
        ("privacy.delta", 1e-2),
        ("privacy.delta", -1e-5),
        ("privacy.delta", 1.5),
        ("privacy.delta", "1e-5"),
        ("privacy.clip_norm", 0),
        ("privacy.clip_norm", -1.0),
        ("privacy.clip_norm", "automatic"),
        ("privacy.clip_norm", True),
        ("privacy.sampling_rate", 0),
        ("privacy.sampling_rate", 1.01),
        ("privacy.rounds", 0),
        ("privacy.rounds", 1.5),
        ("privacy.max_attempts", 0),
        ("privacy.unit", "person"),
        ("privacy.noise", "none"),
        ("privacy.allow_noisy", 1),
        ("study.name", ""),
        ("study.name", "Chest X-Ray"),
        ("study.name", "../elsewhere"),
        ("study.name", "name\n"),
        ("model.base", ""),
        ("cohort.min_sites", 1),
        ("cohort.units", {"north": 0}),
        ("cohort.units", {"north": 2.5}),
        ("cohort.units", {"North Site": 10}),
        ("data.caption", ""),
        ("study", 3),
    ],
)
def test_a_value_out_of_range_names_its_key(where: str, value: Any) -> None:
    message = refusal({where: value})
    assert where in message
    assert "constrained" not in message  # pydantic's inner names mean nothing to a person
    assert "literal" not in message


@pytest.mark.parametrize(
    "where", ["study", "model", "method", "privacy", "study.name", "privacy.unit", "privacy.delta"]
)
def test_a_missing_key_is_named(where: str) -> None:
    assert f"{where} is missing; add it" in refusal({where: None})


def test_unit_patient_needs_a_column() -> None:
    assert "data.unit_column" in refusal({"data.unit_column": None})
    assert "data.unit_column" in refusal({"data.unit_column": ""})


@pytest.mark.parametrize("unit", ["record", "site"])
def test_other_units_take_no_column(unit: str) -> None:
    assert "data.unit_column" in refusal({"privacy.unit": unit})


@pytest.mark.parametrize("changes", [{"privacy.noise": "distributed"}, {"privacy.sampling_rate": 0.5}])
def test_a_public_time_is_set_only_where_it_hides_something(changes: dict[str, object]) -> None:
    timed = {"privacy.ready_seconds_per_unit": 2, "aggregation": {}}
    assert "ready_seconds_per_unit goes with" in refusal(changes | timed)
    both = {"privacy.noise": "distributed", "privacy.sampling_rate": 0.5}
    assert parse_study(study_with(both | timed)).privacy.ready_seconds_per_unit == 2.0


def test_attempts_below_rounds_are_refused() -> None:
    message = refusal({"privacy.rounds": 5, "privacy.max_attempts": 4})
    assert "max_attempts = 4" in message
    assert "rounds = 5" in message


@pytest.mark.parametrize(
    "caption",
    [
        "a {token",
        "a token}",
        "a {}",
        "a {0}",
        "a {a.b}",
        "a {a[0]}",
        "a {token!r}",
        "a {token:>9}",
        "a {to ken}",
        "a {\n}",
    ],
)
def test_a_caption_that_is_no_template_is_refused(caption: str) -> None:
    assert "data.caption" in refusal({"data.caption": caption})


@pytest.mark.parametrize(
    ("caption", "fields"), [("plain", []), ("a {token}, {finding}", ["token", "finding"]), ("{{x}} {token}", ["token"])]
)
def test_caption_fields_in_order(caption: str, fields: list[str]) -> None:
    assert caption_fields(caption) == fields


@pytest.mark.parametrize("caption", ["a picture", "a {token} beside a {token}", "a {finding}"])
def test_dpagg_ti_wants_the_token_once(caption: str, tiny_base: Path) -> None:
    changes = {"method": {"name": "dpagg-ti"}, "data.caption": caption}
    with pytest.raises(StudyError, match=r"\{token\} once"):
        resolve(parse_study(study_with(changes, str(tiny_base))))


@pytest.mark.parametrize(
    "changes",
    [
        {"method.steps": 0},
        {"method.vectors": 17},
        {"method.learning_rate": 0},
        {"method.rescale": -1.0},
        {"method.token": "<Big>"},
        {"method.token": "plain"},
        {"method.initial_word": ""},
        {"method.steps": "15"},
    ],
)
def test_dpagg_ti_options_out_of_range_name_their_key(changes: dict[str, Any]) -> None:
    study = parse_study(study_with({"method.name": "dpagg-ti", **changes}))
    with pytest.raises(StudyError, match=next(iter(changes)).removeprefix("method.")):
        method_for(study.method.name, study.method.options)


def test_an_initial_word_must_be_one_token(tiny_base: Path) -> None:
    changes = {"method": {"name": "dpagg-ti", "initial_word": "hippopotamus"}, "data.caption": "a {token}"}
    with pytest.raises(ModelError, match="hippopotamus"):
        resolve(parse_study(study_with(changes, str(tiny_base))))


def test_a_one_shot_method_has_one_round(tiny_base: Path) -> None:
    changes = {"method": {"name": "dpagg-ti"}, "data.caption": "a {token}", "privacy.rounds": 2}
    with pytest.raises(StudyError, match=r"privacy.rounds = 2"):
        resolve(parse_study(study_with(changes, str(tiny_base))))


def resolved_with(changes: dict[str, Any], base: Path) -> Any:
    return resolve(parse_study(study_with(changes, str(base))))


def test_a_study_without_units_cannot_be_planned(dummy_method: None, dummy_base: Path) -> None:
    with pytest.raises(StudyError, match=r"cohort.units is missing"):
        resolved_with({"cohort.units": None}, dummy_base)


def test_fewer_sites_than_the_minimum_cannot_be_planned(dummy_method: None, dummy_base: Path) -> None:
    with pytest.raises(StudyError, match=r"cohort.min_sites = 4"):
        resolved_with({"cohort.min_sites": 4}, dummy_base)


def test_a_clip_norm_too_small_for_the_grid_is_refused(dummy_method: None, dummy_base: Path) -> None:
    with pytest.raises(StudyError, match="clip_norm"):
        resolved_with({"privacy.clip_norm": 1e-16}, dummy_base)


def test_a_delta_too_small_for_the_accountant_is_refused(dummy_method: None, dummy_base: Path) -> None:
    with pytest.raises(StudyError, match=r"privacy.delta"):
        resolved_with({"privacy.delta": 1e-40}, dummy_base)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("embedded:huge", "embedded:tiny"),
        ("no such folder", "neither a folder"),
        ("org/name", "model.revision"),
    ],
)
def test_a_base_that_is_not_there(reference: str, says: str, dummy_method: None) -> None:
    with pytest.raises(ModelError, match=says):
        resolve(parse_study(study_with({}, reference)))


@pytest.mark.parametrize("text", ["[study", 'name = "a"\nname = "b"', "x = 0x", "a = nope"])
def test_what_is_not_toml_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=r"bad\.toml: not valid TOML") as caught:
        load_study(path)
    assert "\n" not in str(caught.value)


def test_a_study_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[study]\nname = "\xe9"\n')
    for name in ("missing.toml", "latin.toml", "."):
        with pytest.raises(StudyError, match="cannot be read"):
            load_study(tmp_path / name)


def test_studies_are_frozen() -> None:
    study = parse_study(study_with())
    assert isinstance(study, Study)
    with pytest.raises(ValueError, match="frozen"):
        study.privacy.epsilon = 99.0  # type: ignore[misc]
