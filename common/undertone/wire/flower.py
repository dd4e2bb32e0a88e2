"""Requests and replies as Flower records. Vectors travel as ArrayRecords, which Flower sends in chunks.

What arrives is read strictly: each field by type, length and alphabet, no field that is not known, no record that is
not due. Nothing is allocated for what a sender merely claims.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict
from numpy.typing import NDArray

from undertone import PROTOCOL
from undertone.core.unit import is_site_name
from undertone.errors import ProtocolError
from undertone.wire.messages import (
    LARGEST_BODY,
    LARGEST_NUMBER,
    LARGEST_PLAN,
    MOST_SITES,
    Due,
    Kind,
    Reply,
    Request,
    Words,
    is_ledger_head,
    is_signature,
    refusal,
)
from undertone.wire.vectors import Packed

_T = TypeVar("_T", int, str, bytes, list[object])

# Flower message type of each kind: long work is a train message, short questions are queries.
MESSAGE_TYPES: dict[Kind, str] = {
    "hello": "query.hello",
    "prepare": "train.prepare",
    "ready": "query.ready",
    "plain_input": "train.plain_input",
    "share_keys": "query.share_keys",
    "masked_input": "train.masked_input",
    "consistency_check": "query.consistency_check",
    "unmasking": "query.unmasking",
}


def request_to_records(request: Request) -> RecordDict:
    """Request -> RecordDict."""
    header: dict[str, ConfigRecordValues] = {
        "protocol": request.protocol,
        "plan": request.plan,
        "signature": request.signature,
        "round": request.round,
        "attempt": request.attempt,
        "session": request.session,
        "body": request.body,
        "sites": list(request.ledger_heads),
        "ledger_heads": list(request.ledger_heads.values()),
    }
    records = RecordDict({"header": ConfigRecord(header)})
    if request.state is not None:
        records["state"] = ArrayRecord({"w": _array(request.state)})
    return records


def request_from_records(kind: Kind, records: RecordDict) -> Request:
    """RecordDict -> Request. The state is left unread until its signature has been checked.

    One of another protocol is read no further, so that the node can refuse it with both numbers.

    Raises:
        ProtocolError: a field is missing, of another type, too long or not known.
    """
    fields = _Fields(records, "request")
    protocol = fields.take("protocol", int)
    if protocol != PROTOCOL:
        return Request(kind, protocol)
    request = Request(
        kind=kind,
        protocol=protocol,
        plan=fields.take("plan", bytes, lambda plan: len(plan) <= LARGEST_PLAN),
        signature=fields.take("signature", str, lambda text: text == "" or is_signature(text)),
        round=fields.take("round", int, _counts),
        attempt=fields.take("attempt", int, _counts),
        session=fields.take("session", int, _counts),
        body=fields.take("body", bytes, lambda body: len(body) <= LARGEST_BODY),
        ledger_heads=_ledger_heads(fields),
        state=fields.vector("state", "w"),
    )
    fields.done()
    return request


def reply_to_records(reply: Reply) -> RecordDict:
    """Reply -> RecordDict."""
    header: dict[str, ConfigRecordValues] = {
        "site": reply.site,
        "protocol": reply.protocol,
        "body": reply.body,
        "ledger_head": reply.ledger_head,
        "error": reply.error,
        "message": reply.message,
        "blamed": reply.blamed,
    }
    records = RecordDict({"header": ConfigRecord(header)})
    if reply.words is not None:
        records["words"] = ArrayRecord({"y": Array(reply.words)})
    return records


def reply_from_records(records: RecordDict, due: Due) -> Reply:
    """RecordDict -> Reply: a refusal, or what is due and no more.

    A refusal's `error` is a word that this program knows, its `message` one printable line.

    Raises:
        ProtocolError: another protocol, or a field that is missing, of another type, too long or not known.
    """
    fields = _Fields(records, "reply")
    protocol = fields.take("protocol", int)
    if protocol != PROTOCOL:
        raise ProtocolError(f"the site speaks protocol {protocol}, this coordinator protocol {PROTOCOL}")
    error, message = fields.take("error", str), fields.take("message", str)
    if error:
        return _refusal(fields, error, message)
    words = fields.vector("words", "y") if due.words else None
    reply = Reply(
        site=fields.take("site", str, is_site_name),
        protocol=protocol,
        words=None if words is None or due.words is None else _words(words, *due.words),
        body=fields.take("body", bytes, lambda body: len(body) <= due.body),
        ledger_head=fields.take("ledger_head", str, is_ledger_head if due.ledger_head else _empty),
    )
    fields.take("blamed", str, _empty)
    fields.done()
    if message:
        raise ProtocolError("the reply is malformed: a message without an error")
    return reply


class _Fields:
    """The header of one message, taken field by field. Errors name fields of ours, never what the sender wrote."""

    def __init__(self, records: RecordDict, name: str) -> None:
        """Raise ProtocolError unless there is a header."""
        self._name = name
        self._records = dict(records)
        header = self._records.pop("header", None)
        if not isinstance(header, ConfigRecord):
            raise self.wrong("header")
        self._left = dict(header)

    def take(self, name: str, wanted: type[_T], fits: Callable[[_T], bool] = lambda _: True) -> _T:
        """A field of exactly this type that fits."""
        value = self._left.pop(name, None)
        if type(value) is not wanted or not fits(value):
            raise self.wrong(name)
        return value

    def vector(self, record: str, key: str) -> Packed | None:
        """The one vector of a record, unread; None if the record is not there."""
        arrays = self._records.pop(record, None)
        if arrays is None:
            return None
        if not isinstance(arrays, ArrayRecord) or list(arrays) != [key]:
            raise self.wrong(record)
        array = arrays[key]
        return Packed(array.dtype, tuple(array.shape), array.stype, array.data)

    def done(self) -> None:
        """Refuse whatever else came: a new field needs a new protocol number."""
        if self._left or self._records:
            raise self.wrong("a field or record that is not known, or not due")

    def wrong(self, what: str) -> ProtocolError:
        """The error to raise about this message."""
        return ProtocolError(f"the {self._name} is malformed: {what}")


def _refusal(fields: _Fields, error: str, message: str) -> Reply:
    """A refusal carries nothing else. Its site may be empty: a relay that cannot reach its node knows no name."""
    site = fields.take("site", str, lambda name: name == "" or is_site_name(name))
    fields.take("body", bytes, _empty)
    fields.take("ledger_head", str, _empty)
    blamed = fields.take("blamed", str, lambda name: name == "" or is_site_name(name))
    fields.done()
    return refusal(site, error, message, blamed)


def _ledger_heads(fields: _Fields) -> dict[str, str]:
    sites, heads = fields.take("sites", list), fields.take("ledger_heads", list)
    found = {
        site: head
        for site, head in zip(sites[: MOST_SITES + 1], heads, strict=False)
        if isinstance(site, str) and isinstance(head, str) and is_site_name(site) and is_ledger_head(head)
    }
    if not len(found) == len(sites) == len(heads) <= MOST_SITES:
        raise fields.wrong("ledger_heads")
    return found


def _words(words: Packed, packed: bool, length: int) -> Words:
    return words.read(np.uint8, length) if packed else words.read(np.uint32, length)


def _counts(number: int) -> bool:
    return 0 <= number <= LARGEST_NUMBER


def _empty(value: str | bytes) -> bool:
    return not value


def _array(vector: NDArray[np.float32] | Packed) -> Array:
    if isinstance(vector, Packed):
        return Array(dtype=vector.dtype, shape=vector.shape, stype=vector.stype, data=vector.data)
    return Array(vector)
