"""What a process remembers has a bound."""

from undertone.core.remembered import Remembered


def test_the_newest_are_remembered_and_no_more() -> None:
    kept = Remembered[str, int](2)
    assert kept.get("a") is None
    assert [kept.put(name, place) for place, name in enumerate("abab")] == [0, 1, 2, 3]
    assert (kept.get("a"), kept.get("b")) == (2, 3)
    kept.put("c", 4)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (None, 3, 4)
