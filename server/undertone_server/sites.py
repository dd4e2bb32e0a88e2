"""Asking sites: who is there, and one exchange of messages with all of them."""

import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

from undertone import PROTOCOL
from undertone.errors import ProtocolError
from undertone.messages import Reply, Request
from undertone.transport import MESSAGE_TYPES, reply_from_records, request_to_records

_POLL_SECONDS = 0.5


class Sites:
    """The roster's sites as Flower nodes; a missing or refusing site is named, never hidden."""

    def __init__(
        self, grid: Grid, roster: tuple[str, ...], timeout: float, heads: MutableMapping[str, str] | None = None
    ) -> None:
        """`heads` holds the newest token of each site's ledger, and is told of newer ones."""
        self._grid = grid
        self._timeout = timeout
        self._heads: MutableMapping[str, str] = {} if heads is None else heads
        self._nodes: dict[str, int] = {}
        self.missing: dict[str, str] = dict.fromkeys(roster, "did not answer")

    @property
    def present(self) -> tuple[str, ...]:
        """The sites that are in, sorted."""
        return tuple(sorted(self._nodes))

    def find(self) -> None:
        """Ask every connected node that is not known yet who it is; keep those on the roster.

        Raises:
            ProtocolError: two nodes use one site's name.
        """
        wanted, known = set(self.missing), set(self._nodes.values())
        strangers = [node for node in self._grid.get_node_ids() if node not in known]
        for node, reply in self._exchange(dict.fromkeys(strangers, Request("hello", PROTOCOL))):
            if reply.error and reply.site in wanted:
                self.missing[reply.site] = f"{reply.error}: {reply.message}"
            elif reply.site in self._nodes:
                raise ProtocolError(f"two nodes call themselves {reply.site}; stop one of them")
            elif reply.site in wanted:
                self._nodes[reply.site] = node
                del self.missing[reply.site]

    def ask(self, requests: Mapping[str, Request]) -> Iterator[tuple[str, Reply]]:
        """Each site its request; good replies as they arrive. A site that fails drops out with its reason.

        A reply is not kept here: who reads them one by one holds one vector at a time.
        """
        by_node = {self._nodes[site]: site for site in requests if site in self._nodes}
        silent, heads = set(by_node.values()), dict(self._heads)
        # One request that goes to many sites stays one: its model state is packed once.
        dated = {id(request): replace(request, heads=heads) for request in requests.values()}
        for node, reply in self._exchange({node: dated[id(requests[site])] for node, site in by_node.items()}):
            site = by_node[node]
            silent.discard(site)
            reason = _fault(reply, site)
            if reason:
                self.drop(site, reason)
            else:
                self._heads[site] = reply.head
                yield site, reply
        for site in silent:
            self.drop(site, "did not answer")

    def drop(self, site: str, reason: str) -> None:
        """Leave a site out until `find` meets it again."""
        self.missing[site] = reason
        self._nodes.pop(site, None)

    def _exchange(self, requests: Mapping[int, Request]) -> Iterator[tuple[int, Reply]]:
        """Push each node its request, then pull reply by reply until all are there or time is up.

        Keyed by message: the sender of an error that Flower itself makes is not the node that failed.
        """
        pending = dict(self._push(requests))
        deadline = time.monotonic() + self._timeout
        while pending:
            arrived = 0
            for identifier in list(pending):
                for message in self._grid.pull_messages([identifier]):
                    arrived += 1
                    node = pending.pop(identifier)
                    if not message.has_error():  # whoever is absent here dropped out
                        yield node, _read(message)
            if time.monotonic() > deadline:
                return
            if pending and not arrived:
                time.sleep(_POLL_SECONDS)

    def _push(self, requests: Mapping[int, Request]) -> Iterator[tuple[str, int]]:
        """(message id, node) of each request that Flower took; nodes that are asked the same share its records."""
        records = {id(request): request_to_records(request) for request in _distinct(requests)}
        for node, request in requests.items():
            message = Message(
                records[id(request)],
                dst_node_id=node,
                message_type=MESSAGE_TYPES[request.kind],
                group_id=str(request.round),
            )
            for identifier in self._grid.push_messages([message]):
                if identifier:
                    yield identifier, node


def _distinct(requests: Mapping[int, Request]) -> Iterable[Request]:
    return {id(request): request for request in requests.values()}.values()


def _read(message: Message) -> Reply:
    """A node's reply; one that cannot be read is that node's refusal, not the end of the study."""
    try:
        return reply_from_records(message.content)
    except ProtocolError as error:
        return Reply("", PROTOCOL, error=type(error).__name__, message=str(error))


def _fault(reply: Reply, site: str) -> str:
    """Why a reply does not count; empty if it does."""
    if reply.error:
        return f"{reply.error}: {reply.message}"
    return "" if reply.site == site else f"answered as {reply.site}"
