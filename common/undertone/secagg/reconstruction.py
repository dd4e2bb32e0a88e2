"""Unmasking: secrets reconstructed from shares, and who lied where they do not fit (docs/secure-aggregation.md, 6)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from math import comb

from undertone.errors import UnfaithfulSite
from undertone.secagg.shamir import reconstruct, value_at

# How many subsets of t shares are tried in one session, all secrets together: seconds, at 100 sites.
MOST_SUBSETS = 10_000


class Reconstructor:
    """Reconstructs one secret after the other, and remembers who revealed a share that does not fit.

    Attributes:
        wrong: (revealing site, owner) of every share off its owner's polynomial, roster indices.
    """

    def __init__(self, threshold: int, colluders: int) -> None:
        self.wrong: list[tuple[int, int]] = []
        self._threshold = threshold
        self._colluders = colluders
        self._left = MOST_SUBSETS

    def secret(self, owner: int, shares: Mapping[int, bytes], fits: Callable[[bytes], bool], name: str) -> bytes:
        """The 32 bytes that `fits` accepts.

        Args:
            owner: roster index of the site whose secret it is.
            shares: point -> share, at least t; points are roster index + 1.
            fits: compares with what the owner published.
            name: the owner's.

        Raises:
            UnfaithfulSite: no subset of t shares that was tried gives a secret that fits. It blames the owner where
                that is proven: t shares of sites that do not lie are among them, if at most c lie.
        """
        for turn, points in enumerate(self._subsets(shares)):
            chosen = {point: shares[point] for point in points}
            secret = reconstruct(chosen)
            if secret is not None and fits(secret):
                if turn:
                    self._blame(owner, chosen, shares)
                return secret
        proven = self._left > 0 and len(shares) - self._colluders >= self._threshold
        raise UnfaithfulSite(
            f"the shares of {name} give no secret that it committed to: it dealt wrong shares, or too many sites "
            "revealed wrong ones. Nothing was opened; start another attempt, without it if this happens again",
            name if proven else "",
        )

    def _subsets(self, shares: Mapping[int, bytes]) -> Iterator[tuple[int, ...]]:
        """Subsets of t points, those without a known liar first; the session's budget bounds their number."""
        liars = {site + 1 for site, _ in self.wrong}
        points = sorted(shares, key=lambda point: (point in liars, point))
        yield tuple(points[: self._threshold])
        for subset in _candidates(points, self._threshold):
            if self._left == 0:
                return
            self._left -= 1
            yield subset

    def _blame(self, owner: int, chosen: Mapping[int, bytes], shares: Mapping[int, bytes]) -> None:
        """Remember every other share that is off the polynomial through `chosen`."""
        for point in shares.keys() - chosen.keys():
            if value_at(point, chosen) != int.from_bytes(shares[point], "big"):
                self.wrong.append((point - 1, owner))


def _candidates(points: list[int], size: int) -> Iterator[tuple[int, ...]]:
    """All subsets where there are few; else the first `size` of ever new orders, so that few liars are soon out."""
    if comb(len(points), size) <= MOST_SUBSETS:
        yield from combinations(points, size)
        return
    for turn in range(MOST_SUBSETS):
        yield tuple(sorted(points, key=lambda point, turn=turn: _rank(turn, point))[:size])  # type: ignore[misc]


def _rank(turn: int, point: int) -> bytes:
    """A public order without pattern: nothing secret depends on it."""
    return hashlib.sha256(turn.to_bytes(4, "big") + point.to_bytes(4, "big")).digest()
