"""Asking sites: who is there, and one exchange of messages with all of them."""

from collections.abc import Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from undertone import PROTOCOL
from undertone.errors import ProtocolError
from undertone.messages import Reply, Request
from undertone.transport import MESSAGE_TYPES, reply_from_records, request_to_records


class Sites:
    """The roster's sites as Flower nodes; a missing or refusing site is named, never hidden."""

    def __init__(self, grid: Grid, roster: tuple[str, ...], timeout: float) -> None:
        self._grid = grid
        self._timeout = timeout
        self._nodes: dict[str, int] = {}
        self.missing: dict[str, str] = dict.fromkeys(roster, "did not answer")

    def find(self) -> None:
        """Ask every connected node who it is; keep those on the roster."""
        wanted = set(self.missing)
        for node, reply in self._exchange(list(self._grid.get_node_ids()), Request("hello", PROTOCOL)).items():
            if reply.error and reply.site in wanted:
                self.missing[reply.site] = f"{reply.error}: {reply.message}"
            elif reply.site in self._nodes:
                raise ProtocolError(f"two nodes call themselves {reply.site}; stop one of them")
            elif reply.site in wanted:
                self._nodes[reply.site] = node
                del self.missing[reply.site]

    def ask(self, request: Request) -> Mapping[str, Reply]:
        """One request to every site that is still in; those that fail drop out with their reason."""
        by_node = {node: site for site, node in self._nodes.items()}
        replies = self._exchange(list(by_node), request)
        good: dict[str, Reply] = {}
        for node, site in by_node.items():
            reply = replies.get(node)
            reason = _fault(reply, site)
            if reply is not None and not reason:
                good[site] = reply
            else:
                self.drop(site, reason)
        return good

    def drop(self, site: str, reason: str) -> None:
        """Leave a site out from here on."""
        self.missing[site] = reason
        self._nodes.pop(site, None)

    def _exchange(self, nodes: list[int], request: Request) -> dict[int, Reply]:
        content = request_to_records(request)
        messages = [
            Message(
                content,
                dst_node_id=node,
                message_type=MESSAGE_TYPES[request.kind],
                group_id=str(request.round),
            )
            for node in nodes
        ]
        replies: dict[int, Reply] = {}
        for message in self._grid.send_and_receive(messages, timeout=self._timeout):
            if message.has_error():
                continue  # an error's sender is not the node that failed; whoever is absent here dropped out
            replies[message.metadata.src_node_id] = _read(message)
        return replies


def _read(message: Message) -> Reply:
    """A node's reply; one that cannot be read is that node's refusal, not the end of the study."""
    try:
        return reply_from_records(message.content)
    except ProtocolError as error:
        return Reply("", PROTOCOL, error=type(error).__name__, message=str(error))


def _fault(reply: Reply | None, site: str) -> str:
    """Why a reply does not count; empty if it does."""
    if reply is None:
        return "did not answer"
    if reply.error:
        return f"{reply.error}: {reply.message}"
    return "" if reply.site == site else f"answered as {reply.site}"
