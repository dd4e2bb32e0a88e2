"""Membership inference on scores whose answer is known, and the words that go with it."""

import numpy as np
import pytest

from undertone.evaluation import membership
from undertone.evaluation.membership import MEANING, Scored, attack


def scored(shift: float, count: int, seed: int, each: int = 1) -> Scored:
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(shift, 1, count), [f"{seed}/{n // each}" for n in range(count)])


def test_scores_that_know_members_are_found_and_others_are_not() -> None:
    known = attack(scored(2.0, 150, 0), scored(0.0, 150, 1))
    assert known.auc.value > 0.85
    assert known.auc.low > 0.5
    assert known.caught is not None
    assert known.caught > 0.3
    blind = attack(scored(0.0, 150, 2), scored(0.0, 150, 3))
    assert blind.auc.low < 0.5 < blind.auc.high
    assert blind.caught is not None
    assert blind.caught < 0.1


def test_one_in_a_hundred_others_at_most_lies_above_the_threshold() -> None:
    others = Scored(np.arange(300.0), [str(n) for n in range(300)])
    members = Scored(np.array([295.9, 296.1, 10.0]), ["a", "b", "c"])
    assert attack(members, others).caught == pytest.approx(1 / 3)  # 297, 298 and 299 alone lie above 296
    assert attack(members, Scored(others.scores[:99], others.units[:99])).caught is None


def test_a_part_keeps_units_with_their_scores() -> None:
    found = Scored(np.array([1.0, 2.0, 3.0]), ["a", "b", "c"]).part(np.array([True, False, True]))
    assert (found.scores.tolist(), list(found.units)) == ([1.0, 3.0], ["a", "c"])


def test_the_words_promise_nothing() -> None:
    assert "never proof of privacy" in MEANING
    assert "epsilon" in MEANING
    for word in ("anonym", "safe", "guarantee", "no member"):
        assert word not in MEANING.lower()
    assert "never proof of privacy" in (membership.__doc__ or "")
