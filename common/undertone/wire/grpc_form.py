"""Requests and replies as frames of a gRPC stream: a header, then its vector in chunks of 1 MiB at the most.

It is how a relay and its node talk over a Unix socket (`node.proto`). What arrives is read as strictly as from Flower:
each field by length and alphabet, no field that is not known, exactly the bytes that the header announces. Memory grows
with what has arrived, never with what a sender claims, and no further than what is due.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, get_args

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from undertone import PROTOCOL
from undertone.core import bounds
from undertone.core.unit import is_site_name
from undertone.errors import ProtocolError
from undertone.wire.messages import (
    LARGEST_BODY,
    LARGEST_NUMBER,
    LARGEST_PLAN,
    MOST_SITES,
    Kind,
    Reply,
    Request,
    Words,
    is_ledger_head,
    is_signature,
    refusal,
)
from undertone.wire.node_pb2 import LedgerHead, ReplyFrame, ReplyHeader, RequestFrame, RequestHeader, Vector
from undertone.wire.vectors import LARGEST_HEADER, Packed, packed

_FrameT = TypeVar("_FrameT", RequestFrame, ReplyFrame)

KINDS: tuple[Kind, ...] = get_args(Kind)
CHUNK_BYTES = 1 << 20
LARGEST_FRAME = 2 << 20
"""A header with the longest plan, the longest body and a ledger head of each site has 1.5 MB; a chunk has less."""
LARGEST_VECTOR = 4 * bounds.DIMENSION + LARGEST_HEADER
"""Bytes of the longest vector, in numpy's file format."""
_MOST_DIMENSIONS = 4
_TEXT = 64  # of a vector's dtype and stype


def request_to_frames(request: Request) -> Iterator[RequestFrame]:
    """Request -> frames; the state goes as it came."""
    state = request.state
    vector = state if state is None or isinstance(state, Packed) else packed(state)
    header = RequestHeader(
        protocol=request.protocol,
        kind=request.kind,
        plan=request.plan,
        signature=request.signature,
        round=request.round,
        attempt=request.attempt,
        session=request.session,
        body=request.body,
        ledger_heads=[LedgerHead(site=site, head=head) for site, head in request.ledger_heads.items()],
        state=_described(vector),
    )
    yield RequestFrame(header=header)
    for chunk in _chunks(vector):
        yield RequestFrame(chunk=chunk)


def request_from_frames(frames: Iterable[RequestFrame], state_due: Callable[[Request], int]) -> Request:
    """Frames -> Request; the state stays packed.

    One of another protocol is read no further, so that the node can refuse it with both numbers.

    Args:
        frames: as they arrive.
        state_due: the most bytes of a state that this request, still without it, may bring. Where it says 0 no chunk
            is read and the request has no state: nobody holds a vector for a sender who is refused anyway.

    Raises:
        ProtocolError: a field is missing, too long or not known; or more or fewer chunks than announced.
    """
    stream = iter(frames)
    header = _first(stream, "request").header
    kind = next((kind for kind in KINDS if kind == header.kind), None)
    if header.protocol != PROTOCOL:
        return Request(kind or "hello", header.protocol)
    if kind is None:
        raise _wrong("request", "kind")
    request = _request(kind, header)
    if not header.HasField("state"):
        _need(next(stream, None) is None, "request", "a frame too many")
        return request
    due = state_due(request)
    if not due:
        return request
    return Request(**(vars(request) | {"state": _vector(header.state, stream, due, "request")}))


def reply_to_frames(reply: Reply) -> Iterator[ReplyFrame]:
    """Reply -> frames."""
    vector = None if reply.words is None else packed(reply.words)
    header = ReplyHeader(
        protocol=reply.protocol,
        site=reply.site,
        body=reply.body,
        ledger_head=reply.ledger_head,
        error=reply.error,
        message=reply.message,
        blamed=reply.blamed,
        words=_described(vector),
    )
    yield ReplyFrame(header=header)
    for chunk in _chunks(vector):
        yield ReplyFrame(chunk=chunk)


def reply_from_frames(frames: Iterable[ReplyFrame], words_due: int) -> Reply:
    """Frames -> Reply: a refusal, or an answer with a vector of `words_due` bytes at the most, 0 for none.

    Raises:
        ProtocolError: another protocol, a field that is too long or not known, or what is not due.
    """
    stream = iter(frames)
    header = _first(stream, "reply").header
    if header.protocol != PROTOCOL:
        raise ProtocolError(f"the node speaks protocol {header.protocol}, this relay protocol {PROTOCOL}")
    site = header.site
    _need(is_site_name(site) or (not site and bool(header.error)), "reply", "site")
    _need(not header.blamed or (bool(header.error) and is_site_name(header.blamed)), "reply", "blamed")
    if header.error:
        empty = not (header.body or header.ledger_head or header.HasField("words"))
        _need(empty and next(stream, None) is None, "reply", "a refusal carries nothing else")
        return refusal(site, header.error, header.message, header.blamed)
    _need(not header.message, "reply", "a message without an error")
    _need(len(header.body) <= LARGEST_BODY, "reply", "body")
    _need(not header.ledger_head or is_ledger_head(header.ledger_head), "reply", "ledger_head")
    words = None
    if header.HasField("words"):
        words = _words(_vector(header.words, stream, words_due, "reply"))
    _need(next(stream, None) is None, "reply", "a frame too many")
    return Reply(site, PROTOCOL, words=words, body=header.body, ledger_head=header.ledger_head)


def _request(kind: Kind, header: RequestHeader) -> Request:
    """Every field but the state."""
    _need(len(header.plan) <= LARGEST_PLAN, "request", "plan")
    _need(not header.signature or is_signature(header.signature), "request", "signature")
    for name in ("round", "attempt", "session"):
        _need(getattr(header, name) <= LARGEST_NUMBER, "request", name)
    _need(len(header.body) <= LARGEST_BODY, "request", "body")
    entries = header.ledger_heads
    _need(len(entries) <= MOST_SITES, "request", "ledger_heads")
    heads = {entry.site: entry.head for entry in entries if is_site_name(entry.site) and is_ledger_head(entry.head)}
    _need(len(heads) == len(entries), "request", "ledger_heads")
    return Request(
        kind,
        PROTOCOL,
        plan=header.plan,
        signature=header.signature,
        round=header.round,
        attempt=header.attempt,
        session=header.session,
        body=header.body,
        ledger_heads=heads,
    )


def _described(vector: Packed | None) -> Vector | None:
    if vector is None:
        return None
    return Vector(dtype=vector.dtype, shape=vector.shape, stype=vector.stype, size=len(vector.data))


def _chunks(vector: Packed | None) -> Iterator[bytes]:
    data = b"" if vector is None else vector.data
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _first(stream: Iterator[_FrameT], name: str) -> _FrameT:
    """The frame with the header, without a field that is not known in it."""
    frame = next(stream, None)
    if frame is None or frame.WhichOneof("frame") != "header":
        raise _wrong(name, "it does not begin with a header")
    _need(not _unknown(frame), name, "a field that is not known")
    return frame


def _vector(described: Vector, stream: Iterator[_FrameT], due: int, name: str) -> Packed:
    """The vector that a header describes: its chunks, to the last byte and no further."""
    _need(described.size <= due, name, "its vector is longer than what is due")
    _need(max(len(described.dtype), len(described.stype)) <= _TEXT, name, "its vector's type")
    _need(len(described.shape) <= _MOST_DIMENSIONS, name, "its vector's shape")
    chunks, size = [], 0
    for frame in stream:
        fits = frame.WhichOneof("frame") == "chunk" and not UnknownFieldSet(frame)
        _need(fits and 0 < len(frame.chunk) <= CHUNK_BYTES, name, "a frame that is no chunk")
        size += len(frame.chunk)
        _need(size <= described.size, name, "its vector has more bytes than announced")
        chunks.append(frame.chunk)
    _need(size == described.size, name, "its vector has fewer bytes than announced")
    return Packed(described.dtype, tuple(described.shape), described.stype, b"".join(chunks))


def _words(vector: Packed) -> Words:
    """A vector of words, whatever its length: the coordinator alone knows that."""
    _need(len(vector.shape) == 1, "reply", "its vector's shape")
    length = vector.shape[0]
    return vector.read(np.uint8, length) if vector.dtype == "uint8" else vector.read(np.uint32, length)


def _unknown(message: Message) -> bool:
    """Whether a message, or one inside it, has a field that is not known: a new one needs a new protocol number."""
    inner = [value for field, value in message.ListFields() if field.message_type is not None]
    parts = [part for value in inner for part in ([value] if isinstance(value, Message) else value)]
    return bool(len(UnknownFieldSet(message))) or any(map(_unknown, parts))


def _need(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise _wrong(name, what)


def _wrong(name: str, what: str) -> ProtocolError:
    """Names fields of ours, never what the sender wrote."""
    return ProtocolError(f"the {name} is malformed: {what}")
