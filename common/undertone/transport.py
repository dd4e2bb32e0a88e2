"""Requests and replies as Flower records. Vectors travel as ArrayRecords, which Flower sends in chunks."""

from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict
from numpy.typing import NDArray

from undertone.errors import ProtocolError
from undertone.messages import Kind, Reply, Request, Words

_T = TypeVar("_T", int, str, bytes, list[object])
_Scalar = TypeVar("_Scalar", bound=np.generic)

# Whatever numpy makes of bytes that are no array: empty ones, zip files, text.
_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, EOFError, BadZipFile)

# Flower message type of each kind: long work is a train message, short questions are queries.
MESSAGE_TYPES: dict[Kind, str] = {
    "hello": "query.hello",
    "prepare": "train.prepare",
    "share": "query.share",
    "contribute": "train.contribute",
    "confirm": "query.confirm",
    "unmask": "query.unmask",
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
        "sites": list(request.heads),
        "heads": list(request.heads.values()),
    }
    records = RecordDict({"header": ConfigRecord(header)})
    if request.state is not None:
        records["state"] = ArrayRecord({"w": Array(request.state)})
    return records


def request_from_records(kind: Kind, records: RecordDict) -> Request:
    """RecordDict -> Request.

    Raises:
        ProtocolError: a field is missing or of another type.
    """
    try:
        header = records.config_records["header"]
        state = records.array_records["state"]["w"].numpy() if "state" in records.array_records else None
        return Request(
            kind=kind,
            protocol=_typed(header["protocol"], int),
            plan=_typed(header["plan"], bytes),
            signature=_typed(header["signature"], str),
            round=_typed(header["round"], int),
            attempt=_typed(header["attempt"], int),
            session=_typed(header["session"], int),
            body=_typed(header["body"], bytes),
            heads=dict(zip(_texts(header["sites"]), _texts(header["heads"]), strict=True)),
            state=None if state is None else _array(state, np.float32),
        )
    except _UNREADABLE:
        raise ProtocolError("the request is malformed") from None


def reply_to_records(reply: Reply) -> RecordDict:
    """Reply -> RecordDict."""
    header: dict[str, ConfigRecordValues] = {
        "site": reply.site,
        "protocol": reply.protocol,
        "body": reply.body,
        "head": reply.head,
        "error": reply.error,
        "message": reply.message,
    }
    records = RecordDict({"header": ConfigRecord(header)})
    if reply.words is not None:
        records["words"] = ArrayRecord({"y": Array(reply.words)})
    return records


def reply_from_records(records: RecordDict) -> Reply:
    """RecordDict -> Reply.

    Raises:
        ProtocolError: a field is missing or of another type.
    """
    try:
        header = records.config_records["header"]
        words = records.array_records["words"]["y"].numpy() if "words" in records.array_records else None
        return Reply(
            site=_typed(header["site"], str),
            protocol=_typed(header["protocol"], int),
            words=None if words is None else _words(words),
            body=_typed(header["body"], bytes),
            head=_typed(header["head"], str),
            error=_typed(header["error"], str),
            message=_typed(header["message"], str),
        )
    except _UNREADABLE:
        raise ProtocolError("the reply is malformed") from None


def _typed(value: object, wanted: type[_T]) -> _T:
    if type(value) is not wanted:
        raise TypeError(wanted.__name__)
    return value


def _texts(value: object) -> list[str]:
    return [_typed(text, str) for text in _typed(value, list)]


def _words(value: NDArray[Any]) -> Words:
    return _array(value, np.uint8) if value.dtype == np.uint8 else _array(value, np.uint32)


def _array(value: NDArray[Any], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    if value.dtype != dtype or value.ndim != 1:
        raise TypeError(dtype.__name__)
    return value
