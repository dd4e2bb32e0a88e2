"""docs/study.md names every key that STUDY.toml can hold, with the default that the code has."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from undertone.methods.registry import METHODS, method_for
from undertone.study.schema import Study, load_study
from undertone_cli.commands.demo import STUDY as DEMO

PAGE = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
# "`privacy.epsilon`, `.delta`" names two keys of one table.
ROWS = [
    ([name.strip("` ") for name in re.findall(r"`[^`]+`", keys)], default)
    for keys, default in re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE, flags=re.MULTILINE)
]
# What "auto" is there for, by the tables of the methods that share one.
AUTOMATIC = {
    1: {*METHODS["dpagg-ti"].automatic.options, METHODS["dpagg-ti"].automatic.measured},
    2: {*METHODS["dp-ldm"].automatic.options, METHODS["dp-ldm"].automatic.measured},
    3: {"radius"},
    4: set(),
}
NAMED = {name.rsplit(".", 1)[-1] for names, _ in ROWS for name in names}


def keys_of(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


@pytest.mark.parametrize("table", [name for name in Study.model_fields if name != "method"])
def test_every_key_of_a_table_is_explained(table: str) -> None:
    model = Study.model_fields[table].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    assert set(keys_of(model)) <= NAMED


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_option_of_a_method_is_explained(method: str) -> None:
    assert set(keys_of(METHODS[method].options_type)) <= NAMED


@pytest.mark.parametrize(("method", "part"), [("dpagg-ti", 1), ("dpsgd-ti", 2), ("dp-prototypes", 3), ("dp-sad", 4)])
def test_defaults_are_those_of_the_code(method: str, part: int) -> None:
    stated = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE.split("## `[method]`")[part], flags=re.MULTILINE))
    fields = METHODS[method].options_type.model_fields
    assert len(fields.keys() & stated.keys()) >= 6
    for key in fields.keys() & stated.keys():
        if key in AUTOMATIC[part]:
            assert stated[key].strip("`") == '"auto"', key
            continue
        default = fields[key].default
        assert stated[key].strip("`") == (f'"{default}"' if isinstance(default, str) else f"{default:g}"), key


def test_the_demos_study_is_one() -> None:
    study = load_study(DEMO)
    assert method_for(study.method.name, study.method.options).token == "<digits>"
