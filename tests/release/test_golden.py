"""A release that was made once is verified for ever: one of each format of plan.json, as it lay there on its day."""

import hashlib
from pathlib import Path

import pytest

from tests.support.runs import call
from undertone.study.plan import FORMATS, Plan

GOLDEN = Path(__file__).parent / "golden"
# SHA-256 of each MANIFEST.json, which lists all other files: nobody makes a golden release again by accident.
MANIFESTS = {
    1: "71d9982fbbd203a77ad85f53b814713122be9a0cb0afb210a48f2081ad9df470",
    2: "79fc4994a293258afb3c65a7cde894a4bd0929faea1c5752f91b76da509b2762",
}


def test_each_format_has_a_golden_release() -> None:
    assert sorted(GOLDEN.glob("format-*/")) == sorted(GOLDEN / f"format-{number}" for number in FORMATS)
    assert set(MANIFESTS) == set(FORMATS)


@pytest.mark.parametrize("number", FORMATS)
def test_it_is_as_it_was_made_and_verifies_with_its_coordinators_key(number: int) -> None:
    release = GOLDEN / f"format-{number}"
    assert hashlib.sha256((release / "MANIFEST.json").read_bytes()).hexdigest() == MANIFESTS[number]
    key = (GOLDEN / f"format-{number}.coordinator").read_text(encoding="ascii").strip()
    result = call("verify", release, "--coordinator", key)
    assert result.exit_code == 0, result.output
    assert Plan.from_bytes((release / "plan.json").read_bytes()).format == number
    assert call("verify", release, "--coordinator", key[::-1]).exit_code == 3
