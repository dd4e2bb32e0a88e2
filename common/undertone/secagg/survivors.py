"""The chain of survivor lists: no two sums that are opened may differ by one site (docs/secure-aggregation.md, 7).

Two opened sums over U3 and U3' subtract to the sum over the sites in which they differ. A site therefore signs, within
one study, only lists that form a chain: each equals the one it signed last, or is a subset of it that is smaller by at
least c + 2. Any two opened lists share an honest signer (2t > n + c), so all of them form one chain, and each part in
which two neighbours differ holds two honest sites or more, as does the smallest list (t - c >= 2).

No I/O: whoever keeps the lists makes a new one durable before it is signed.
"""

from collections.abc import Callable
from typing import Protocol

from undertone.errors import SurvivorsChanged
from undertone.secagg.messages import Indices


class SignedLists(Protocol):
    """The survivor lists that one site has signed in one study, oldest first."""

    def append(self, survivors: Indices, allowed: Callable[[Indices | None], None]) -> None:
        """Make one more list durable, and return only then: the signature follows.

        Args:
            survivors: the list.
            allowed: is given the list that was appended last (None before the first) and raises where this one may
                not follow it. Between that and the append nothing else may be appended: one transaction.
        """
        ...


def check_follows(last: Indices | None, survivors: Indices, colluders: int) -> None:
    """Insist that a survivor list continues the chain.

    Args:
        last: the list that this party signed (or asked to be signed) last in the study; None before the first.
        survivors: the list that is to be signed now; that it holds the quorum is checked elsewhere.
        colluders: c.

    Raises:
        SurvivorsChanged: it is neither the last list nor a subset with at least c + 2 sites fewer.
    """
    if last is None or survivors == last:
        return
    if not set(survivors) <= set(last):
        raise SurvivorsChanged(
            "the survivors hold a site that is not in the list signed last in this study; a site that was left out "
            "cannot come back, since the difference of two sums could be one site's. Nothing was signed; restore the "
            "coordinator's newest RUN, or plan the study anew"
        )
    if len(last) - len(survivors) < colluders + 2:
        raise SurvivorsChanged(
            f"the survivors are {len(last) - len(survivors)} fewer than in the list signed last in this study; with "
            f"c = {colluders}, {colluders + 2} or more must go together, or the difference of two sums could be "
            "one site's. Nothing was signed; go on when all sites of that list are back"
        )
