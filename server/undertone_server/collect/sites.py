"""Asking sites: who is there, and one exchange of messages with all of them.

A reply is hostile until it is read (PRIVACY 20): what is wrong with it is the reason why its sender is missing.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from google.protobuf.message import DecodeError

from undertone import PROTOCOL
from undertone.core.federation import Federation
from undertone.core.text import REASON, shown
from undertone.errors import NotApproved, ProtocolError
from undertone.privacy.entropy import OsEntropy
from undertone.wire.flower import MESSAGE_TYPES, reply_from_records, request_to_records
from undertone.wire.hello import CHALLENGE_BYTES, PROOF_BYTES, proves
from undertone.wire.messages import Due, Reply, Request, is_ledger_head
from undertone.wire.vectors import Packed
from undertone_server.collect.deadlines import Deadlines
from undertone_server.collect.names import Names

_POLL_SECONDS = 0.5
_SHORTEST_LIFE = 1.0  # of a message, seconds: Flower takes none that is over already
_NO_PROOF = "a node that calls itself so does not sign with the site's key"
# Flower unpacks what a node sent in this process, and says in these words that it cannot.
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    DecodeError,
    LookupError,
    MemoryError,
    ProtocolError,
    RecursionError,
    TypeError,
    UnexpectedObjectContentError,
    ValueError,
)


class Sites:
    """The roster's sites as Flower nodes; a missing or refusing site is named, never hidden.

    Attributes:
        missing: site -> why it is not in; one printable line of `shown.REASON` characters at the most.
    """

    def __init__(
        self,
        grid: Grid,
        roster: tuple[str, ...],
        federation: Federation,
        deadlines: Deadlines,
        ledger_heads: MutableMapping[str, str] | None = None,
        left_out: MutableMapping[str, str] | None = None,
    ) -> None:
        """Begin with nobody.

        Args:
            grid: Flower's.
            roster: the plan's sites.
            federation: whose key speaks for which site.
            deadlines: how long to wait for the replies to a message, which lives as long.
            ledger_heads: holds the newest head of each site's ledger, and is told of newer ones.
            left_out: holds why a site is not asked any more, and is told of further ones.
        """
        self._grid = grid
        self._federation = federation
        self._roster = roster
        self._deadlines = deadlines
        self._ledger_heads: MutableMapping[str, str] = {} if ledger_heads is None else ledger_heads
        self._left_out: MutableMapping[str, str] = {} if left_out is None else left_out
        self._accusers: dict[str, set[str]] = {}
        self._nodes: dict[str, int] = {}
        self._silent: set[int] = set()
        self._names = Names(roster)
        self.missing: dict[str, str] = dict.fromkeys(roster, "did not answer")

    @property
    def present(self) -> tuple[str, ...]:
        """The sites that are in, sorted."""
        return tuple(sorted(self._nodes))

    def find(self) -> None:
        """Ask every connected node that is not in who it is; keep those on the roster that prove it.

        It is over when each site that is looked for has proven its name: nobody waits for a stranger. A node that did
        not answer the last time is waited for a short while. Two nodes of one name end nothing: see `Names.chosen`.
        """
        wanted = set(self._roster) - self._nodes.keys() - set(self._left_out)
        if not wanted:
            return
        known, entropy, proven = set(self._nodes.values()), OsEntropy(), set[str]()
        asked = {node: entropy.bytes(CHALLENGE_BYTES) for node in self._grid.get_node_ids() if node not in known}
        hello = {node: Request("hello", PROTOCOL, body=challenge) for node, challenge in asked.items()}
        seconds = self._deadlines.again if self._silent.issuperset(asked) else self._deadlines.hello
        self._silent.update(asked)
        for node, reply in self._exchange(hello, Due(body=PROOF_BYTES), seconds, lambda: wanted <= proven):
            self._silent.discard(node)
            if not reply.error and proves(self._federation, reply.site, asked[node], reply.body):
                proven.add(reply.site)
            elif not reply.error:
                reply = replace(reply, error=NotApproved.__name__, message=_NO_PROOF)
            self._names.heard(node, reply)
        for site, claims in self._names.claims().items():
            if site in self._nodes:
                continue
            if site in self._left_out:
                self._leave(site, self._left_out[site])
                continue
            speaker, reason = self._names.chosen(site, claims)
            if speaker is None:
                self._leave(site, reason)
            else:
                self._nodes[site] = speaker
                del self.missing[site]

    def ask(self, requests: Mapping[str, Request], due: Due) -> Iterator[tuple[str, Reply]]:
        """Each site its request; good replies as they arrive. A site that fails drops out with its reason.

        A reply is not kept here: who reads them one by one holds one vector at a time.

        Args:
            requests: site -> what it is asked.
            due: what a good reply to any of them holds at the most.
        """
        heads = self._kept_ledger_heads()
        by_node = {self._nodes[site]: site for site in requests if site in self._nodes}
        silent = set(by_node.values())
        # One request that goes to many sites stays one: its model state is packed once.
        dated = {id(request): replace(request, ledger_heads=heads) for request in requests.values()}
        asked = {node: dated[id(requests[site])] for node, site in by_node.items()}
        for node, reply in self._exchange(asked, due, self._seconds(asked.values(), due)):
            site = by_node[node]
            silent.discard(site)
            if reply.error and reply.site in (site, ""):
                if reply.blamed and reply.blamed != site:
                    self._accusers.setdefault(reply.blamed, set()).add(site)
                self._leave(site, f"{reply.error}: {reply.message}")
            elif reply.site != site:
                self.drop(site, f"answered as {reply.site}")
            else:
                self._ledger_heads[site] = reply.ledger_head
                yield site, reply
        for site in silent:
            self._leave(site, "did not answer")

    def drop(self, site: str, reason: str) -> None:
        """Leave out a site that sent something wrong, until `find` meets it again."""
        if site in self._nodes:
            self._names.forget(site)
        self._leave(site, reason)

    def accused(self, more_than: int) -> set[str]:
        """The sites on the roster whose messages more than so many others refused, naming them; not yet left out."""
        roster = (self.missing.keys() | self._nodes.keys()) - set(self._left_out)
        return {site for site, accusers in self._accusers.items() if site in roster and len(accusers) > more_than}

    def leave_out(self, site: str, reason: str) -> None:
        """Ask a site no more in this study; durable before it returns."""
        self._left_out[site] = f"left out of this study: {reason}"
        self.drop(site, self._left_out[site])

    def _leave(self, site: str, reason: str) -> None:
        self.missing[site] = shown(reason, REASON)
        self._nodes.pop(site, None)

    def _kept_ledger_heads(self) -> dict[str, str]:
        """The newest ledger heads. A site whose head is damaged is left out: its ledger could be an older copy."""
        heads = {site: head for site, head in self._ledger_heads.items() if site in self._nodes or site in self.missing}
        for site in [site for site, head in heads.items() if not is_ledger_head(head)]:
            del heads[site]
            if site in self._nodes:
                self._leave(
                    site,
                    f"its ledger head in RUN/checkpoints/ledger-heads/{site} is damaged; restore it, or remove it "
                    "once the site has made sure that its ledger is the newest",
                )
        return heads

    def _seconds(self, requests: Iterable[Request], due: Due) -> float:
        """How long the longest of these requests and its answer may take."""
        answer = 0 if due.words is None else due.words[1] * (1 if due.words[0] else 4)
        times = (self._deadlines.of(each.kind, answer + _length(each)) for each in _distinct(requests))
        return max(times, default=0.0)

    def _exchange(
        self,
        requests: Mapping[int, Request],
        due: Due,
        seconds: float,
        enough: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, Reply]]:
        """Push each node its request, then pull reply by reply until all are there, it is enough or time is up.

        Keyed by message: the sender of an error that Flower itself makes is not the node that failed.
        """
        pending = dict(self._push(requests, max(seconds, _SHORTEST_LIFE)))
        deadline = time.monotonic() + seconds
        while pending:
            arrived = 0
            for identifier, node in list(pending.items()):
                for reply in self._pull(identifier, node, due):
                    arrived += 1
                    if pending.pop(identifier, None) is not None and reply is not None:
                        yield node, reply
                    del reply  # before the next one is pulled
            if time.monotonic() > deadline or enough():
                return
            if pending and not arrived:
                time.sleep(_POLL_SECONDS)

    def _pull(self, identifier: str, node: int, due: Due) -> Iterator[Reply | None]:
        """What has arrived for a message, read; None for an error of Flower's own: that node is absent.

        A node's reply that cannot be read is that node's refusal, not the end of the study.
        """
        try:
            for message in self._grid.pull_messages([identifier]):
                if message.has_error():
                    yield None
                elif message.metadata.src_node_id == node:
                    yield _read(message, due)
        except _UNREADABLE:
            yield _refusal("the reply is malformed: Flower cannot unpack it")

    def _push(self, requests: Mapping[int, Request], ttl: float) -> Iterator[tuple[str, int]]:
        """(message id, node) of each request that Flower took; nodes that are asked the same share its records."""
        records = {id(request): request_to_records(request) for request in _distinct(requests.values())}
        for node, request in requests.items():
            message = Message(
                records[id(request)],
                dst_node_id=node,
                message_type=MESSAGE_TYPES[request.kind],
                group_id=str(request.round),
                ttl=ttl,
            )
            for identifier in self._grid.push_messages([message]):
                if identifier:
                    yield identifier, node


def _distinct(requests: Iterable[Request]) -> Iterable[Request]:
    return {id(request): request for request in requests}.values()


def _length(request: Request) -> int:
    """Bytes of the state that goes with a request."""
    state = request.state
    return 0 if state is None else len(state.data) if isinstance(state, Packed) else state.nbytes


def _read(message: Message, due: Due) -> Reply:
    try:
        return reply_from_records(message.content, due)
    except ProtocolError as error:
        return _refusal(str(error))


def _refusal(message: str) -> Reply:
    """In the place of a reply that cannot be read."""
    return Reply("", PROTOCOL, error=ProtocolError.__name__, message=message)
