"""The lists of mutants fit the code: each text that one replaces is there once, and its test is there."""

import pytest

from tests.methods import base_mutants, class_mutants, dpdm_mutants, mutants, prototype_mutants, sad_mutants
from tests.support.mutants import ROOT

MUTANTS = [
    *mutants.MUTANTS,
    *class_mutants.MUTANTS,
    *base_mutants.MUTANTS,
    *prototype_mutants.MUTANTS,
    *dpdm_mutants.MUTANTS,
    *sad_mutants.MUTANTS,
]


@pytest.mark.parametrize(("file", "old", "test"), [(file, old, test) for _, file, old, _, test in MUTANTS])
def test_what_a_mutant_replaces_is_there_once(file: str, old: str, test: str) -> None:
    assert (ROOT / file).read_text(encoding="utf-8").count(old) == 1
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")
