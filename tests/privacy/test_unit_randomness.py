"""A row's key: a function of its own unit alone."""

import hashlib
import hmac
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertone.errors import MechanismViolation
from undertone.privacy.unit_randomness import row_generator, row_key

SECRET = bytes(range(32))


def independent_key(secret: bytes, study: str, round_: int, attempt: int, unit: str) -> bytes:
    parts = [b"undertone/row/1", study.encode(), struct.pack(">Q", round_), struct.pack(">Q", attempt), unit.encode()]
    return hmac.digest(secret, b"".join(struct.pack(">Q", len(part)) + part for part in parts), hashlib.sha256)


@given(st.text(), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text())
def test_key_matches_an_independent_implementation(study: str, round_: int, attempt: int, unit: str) -> None:
    expected = independent_key(SECRET, study, round_, attempt, unit)
    assert row_key(SECRET, study, round_, attempt, unit) == expected


def test_golden_key() -> None:
    assert row_key(SECRET, "ab" * 32, 1, 2, "patient-7").hex() == GOLDEN


def test_every_field_matters_and_none_runs_into_the_next() -> None:
    cases = [
        ("a", 1, 2, "bc"),
        ("ab", 1, 2, "c"),
        ("a", 2, 1, "bc"),
        ("a", 1, 3, "bc"),
        ("a", 1, 2, "bd"),
        ("", 1, 2, ""),
    ]
    keys = {row_key(SECRET, *case) for case in cases} | {row_key(SECRET[::-1], *cases[0])}
    assert len(keys) == len(cases) + 1


@pytest.mark.parametrize(
    ("secret", "round_", "attempt"), [(SECRET[:31], 0, 0), (b"", 0, 0), (SECRET, -1, 0), (SECRET, 0, 1 << 64)]
)
def test_short_secrets_and_wild_numbers_are_refused(secret: bytes, round_: int, attempt: int) -> None:
    with pytest.raises(MechanismViolation):
        row_key(secret, "study", round_, attempt, "unit")


def test_an_id_that_is_no_valid_text_still_has_a_key() -> None:
    # File systems hand out lone surrogates; a record must not be able to raise (PRIVACY 17).
    assert len(row_key(SECRET, "study", 1, 1, "patient-\udcff")) == 32


def test_generator_repeats_per_key_and_differs_between_keys() -> None:
    first = row_key(SECRET, "study", 1, 1, "a")
    second = row_key(SECRET, "study", 1, 1, "b")
    assert np.array_equal(row_generator(first).random(100), row_generator(first).random(100))
    assert not np.array_equal(row_generator(first).random(100), row_generator(second).random(100))


def test_generator_wants_a_whole_key() -> None:
    with pytest.raises(MechanismViolation):
        row_generator(SECRET[:16])


GOLDEN = "999f6ce4eb929a30254f8edcc9af8e7e6714928e4644062bd733d4ca0d246b79"
