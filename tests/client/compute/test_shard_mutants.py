"""The list of mutants fits the code: each text that one replaces is there once (`shard_mutants.py` runs them)."""

import pytest

from tests.client.compute.shard_mutants import MUTANTS
from tests.support.mutants import ROOT


@pytest.mark.parametrize(("file", "old", "test"), [(file, old, test) for _, file, old, _, test in MUTANTS])
def test_what_a_mutant_replaces_is_there_once(file: str, old: str, test: str) -> None:
    assert (ROOT / file).read_text(encoding="utf-8").count(old) == 1
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")
