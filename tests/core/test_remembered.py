"""What a process remembers has a bound."""

import sys
from concurrent.futures import ThreadPoolExecutor

from undertone.core.remembered import Remembered


def test_the_newest_are_remembered_and_no_more() -> None:
    kept = Remembered[str, int](2)
    assert kept.get("a") is None
    assert [kept.put(name, place) for place, name in enumerate("abab")] == [0, 1, 2, 3]
    assert (kept.get("a"), kept.get("b")) == (2, 3)
    kept.put("c", 4)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (None, 3, 4)


def test_threads_that_remember_at_once_keep_the_bound() -> None:
    kept, before = Remembered[int, int](3), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            asked = list(threads.map(lambda first: [kept.put(first + n, n) for n in range(4000)], range(8)))
    finally:
        sys.setswitchinterval(before)
    assert asked == [list(range(4000))] * 8
    assert sum(kept.get(key) is not None for key in range(4008)) == 3
