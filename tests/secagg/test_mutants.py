"""The list of mutants fits the code: each text that one replaces is there once (`mutants.py` runs them, in minutes)."""

import pytest

from tests.secagg.mutants import AROUND, CHAIN, MUTANTS, SECAGG
from tests.support.mutants import ROOT


@pytest.mark.parametrize(
    ("file", "old"),
    [(f"{SECAGG}/{file}", old) for _, file, old, _ in MUTANTS] + [(file, old) for _, file, old, _ in AROUND + CHAIN],
)
def test_what_a_mutant_replaces_is_there_once(file: str, old: str) -> None:
    assert (ROOT / file).read_text(encoding="utf-8").count(old) == 1
