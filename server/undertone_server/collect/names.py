"""Which node speaks for which site: a name is proven, and has one node."""

from collections.abc import Iterable, Mapping

from undertone.wire.messages import Reply


class Names:
    """What each node has called itself. A node is known as a site's until it sends something wrong in that name."""

    def __init__(self, roster: Iterable[str]) -> None:
        self._roster = frozenset(roster)
        self._known: dict[str, int] = {}
        self._was: dict[int, str] = {}
        self._heard: dict[str, dict[int, str]] = {}

    def heard(self, node: int, reply: Reply) -> None:
        """A node's answer to hello, or its refusal.

        A node whose answer cannot be read, and one that does not know its own name, is the site that it was before.
        """
        site = reply.site or self._was.get(node, "")
        if site in self._roster:
            self._heard.setdefault(site, {})[node] = f"{reply.error}: {reply.message}" if reply.error else ""

    def claims(self) -> Mapping[str, Mapping[int, str]]:
        """Site -> node that calls itself so -> why that is not so, empty if it is; heard since the last time."""
        claims, self._heard = self._heard, {}
        return dict(sorted(claims.items()))

    def chosen(self, site: str, claims: Mapping[int, str]) -> tuple[int | None, str]:
        """The node that speaks for `site`, else why there is none.

        Of several that prove the name, the one that is known. Where none is, nobody speaks for the site: one of them
        is a copy, and the site's operator must say which.
        """
        able = [node for node, refusal in claims.items() if not refusal]
        if len(able) > 1:
            able = [node for node in able if self._known.get(site) == node]
            if not able:
                return None, f"two nodes call themselves {site}; stop one of them"
        if not able:
            return None, next(iter(claims.values()))
        self._known[site], self._was[able[0]] = able[0], site
        return able[0], ""

    def forget(self, site: str) -> None:
        """The node that spoke for `site` sent something wrong."""
        self._known.pop(site, None)
