"""Requests and replies come out of Flower's records and wire format as they went in."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from undertone.errors import ProtocolError
from undertone.messages import Reply, Request
from undertone.transport import (
    MESSAGE_TYPES,
    reply_from_records,
    reply_to_records,
    request_from_records,
    request_to_records,
)

kinds = st.sampled_from(sorted(MESSAGE_TYPES))
numbers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
bits = arrays(np.uint32, st.integers(0, 50))
requests = st.builds(
    Request,
    kind=kinds,
    protocol=numbers,
    plan=st.binary(max_size=200),
    signature=texts,
    round=numbers,
    attempt=numbers,
    session=numbers,
    body=st.binary(max_size=200),
    state=st.none() | bits.map(lambda words: words.view(np.float32)),  # every bit pattern, NaN and -0.0 too
)
replies = st.builds(
    Reply,
    site=texts,
    protocol=numbers,
    words=st.none() | bits | arrays(np.uint8, st.integers(0, 50)),
    body=st.binary(max_size=200),
    error=texts,
    message=texts,
)


def over_the_wire(records: RecordDict) -> RecordDict:
    proto = recorddict_to_proto(records)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


def same(one: Any, other: Any) -> bool:
    """Equal in every field and every bit of the arrays."""
    fields, others = dict(vars(one)), dict(vars(other))
    for name in ("state", "words"):
        array, back = fields.pop(name, None), others.pop(name, None)
        if (array is None) != (back is None):
            return False
        if array is not None and (array.dtype, array.tobytes()) != (back.dtype, back.tobytes()):
            return False
    return fields == others


@settings(max_examples=100, deadline=None)
@given(requests)
def test_a_request_survives_the_wire(request: Request) -> None:
    assert same(request_from_records(request.kind, over_the_wire(request_to_records(request))), request)


@settings(max_examples=100, deadline=None)
@given(replies)
def test_a_reply_survives_the_wire(reply: Reply) -> None:
    assert same(reply_from_records(over_the_wire(reply_to_records(reply))), reply)


def test_long_vectors_survive_the_wire() -> None:
    words = np.arange(3_000_000, dtype=np.uint32)
    reply = Reply("north", 1, words=words)
    assert same(reply_from_records(over_the_wire(reply_to_records(reply))), reply)


REQUEST = {
    "protocol": 1,
    "plan": b"{}",
    "signature": "ab",
    "round": 1,
    "attempt": 1,
    "session": 1,
    "body": b"",
    "sites": ["north"],
    "heads": ["0f"],
}
REPLY = {"site": "north", "protocol": 1, "body": b"", "head": "0f", "error": "", "message": ""}


def read(which: dict[str, Any], records: RecordDict) -> Any:
    return request_from_records("prepare", records) if which is REQUEST else reply_from_records(records)


@pytest.mark.parametrize("which", [REQUEST, REPLY], ids=["request", "reply"])
def test_a_missing_or_mistyped_field_is_malformed(which: dict[str, Any]) -> None:
    read(which, RecordDict({"header": ConfigRecord(which)}))
    for name, value in which.items():
        for wrong in (None, 1.5, True, [1], "7" if isinstance(value, int) else 7):
            header = {key: item for key, item in which.items() if key != name}
            if wrong is not None:
                header[name] = wrong
            with pytest.raises(ProtocolError, match="malformed"):
                read(which, RecordDict({"header": ConfigRecord(header)}))


@pytest.mark.parametrize("which", [REQUEST, REPLY], ids=["request", "reply"])
def test_records_of_another_kind_are_malformed(which: dict[str, Any]) -> None:
    for records in (RecordDict(), RecordDict({"header": MetricRecord({"protocol": 1})})):
        with pytest.raises(ProtocolError):
            read(which, records)


@pytest.mark.parametrize(("which", "record", "key"), [(REQUEST, "state", "w"), (REPLY, "words", "y")])
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), dtype=np.float32),
        np.zeros(4, dtype=np.float64),
        np.zeros(4, dtype=np.int32),
        np.zeros((), dtype=np.float32),
        np.zeros((2, 2), dtype=np.uint32),
    ],
)
def test_a_vector_of_another_shape_or_type_is_malformed(which: Any, record: str, key: str, array: Any) -> None:
    records = RecordDict({"header": ConfigRecord(which), record: ArrayRecord({key: Array(array)})})
    with pytest.raises(ProtocolError):
        read(which, over_the_wire(records))


@pytest.mark.parametrize(("which", "record", "key"), [(REQUEST, "state", "w"), (REPLY, "words", "y")])
def test_a_vector_whose_bytes_are_no_array_is_malformed(which: Any, record: str, key: str) -> None:
    good = Array(np.zeros(4, dtype=np.float32 if which is REQUEST else np.uint32))
    for data in (b"", b"no array", good.data[:-3], b"PK\x03\x04", b"PK\x05\x06" + bytes(18)):
        spoiled = Array(dtype=good.dtype, shape=good.shape, stype=good.stype, data=data)
        records = RecordDict({"header": ConfigRecord(which), record: ArrayRecord({key: spoiled})})
        with pytest.raises(ProtocolError):
            read(which, records)


def test_a_vector_under_another_name_is_malformed() -> None:
    array = ArrayRecord({"z": Array(np.zeros(4, dtype=np.uint32))})
    with pytest.raises(ProtocolError):
        reply_from_records(RecordDict({"header": ConfigRecord(REPLY), "words": array}))
