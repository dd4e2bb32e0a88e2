"""Requests and replies come out of Flower's records and wire format as they went in, and nothing else comes out."""

import io
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from undertone import PROTOCOL, errors
from undertone.core.text import REASON, is_shown, shown
from undertone.errors import ProtocolError
from undertone.wire.flower import (
    MESSAGE_TYPES,
    reply_from_records,
    reply_to_records,
    request_from_records,
    request_to_records,
)
from undertone.wire.messages import LARGEST_BODY, LARGEST_PLAN, MOST_SITES, REFUSALS, UNKNOWN, Due, Reply, Request
from undertone.wire.vectors import Packed, read_vector

LEDGER_HEAD, SIGNATURE = "0f" * 32, "ab" * 64
kinds = st.sampled_from(sorted(MESSAGE_TYPES))
numbers = st.integers(0, 2**31 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
names = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,62}\Z")
tokens = st.from_regex(r"\A[0-9a-f]{64}\Z")
bits = arrays(np.uint32, st.integers(0, 50))
requests = st.builds(
    Request,
    kind=kinds,
    protocol=st.just(PROTOCOL),
    plan=st.binary(max_size=200),
    signature=st.sampled_from(["", SIGNATURE]),
    round=numbers,
    attempt=numbers,
    session=numbers,
    body=st.binary(max_size=200),
    ledger_heads=st.dictionaries(names, tokens, max_size=3),
    state=st.none() | bits.map(lambda words: words.view(np.float32)),  # every bit pattern, NaN and -0.0 too
)
answers = st.builds(
    Reply,
    site=names,
    protocol=st.just(PROTOCOL),
    words=st.none() | bits | arrays(np.uint8, st.integers(0, 50)),
    body=st.binary(max_size=200),
    ledger_head=tokens,
)
refusals = st.builds(
    Reply, site=names, protocol=st.just(PROTOCOL), error=st.sampled_from(sorted(REFUSALS)), message=texts
)


def over_the_wire(records: RecordDict) -> RecordDict:
    proto = recorddict_to_proto(records)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


def due(reply: Reply) -> Due:
    words = None if reply.words is None else (reply.words.dtype == np.uint8, reply.words.size)
    return Due(body=200, words=words, ledger_head=True)


def same(one: Any, other: Any) -> bool:
    """Equal in every field and every bit of the arrays."""
    fields, others = dict(vars(one)), dict(vars(other))
    for name in ("state", "words"):
        array, back = others.pop(name, None), fields.pop(name, None)
        if (array is None) != (back is None):
            return False
        if isinstance(back, Packed):
            back = back.read(np.float32, array.size)
        if array is not None and (array.dtype, array.tobytes()) != (back.dtype, back.tobytes()):
            return False
    return fields == others


@settings(max_examples=100, deadline=None)
@given(requests)
def test_a_request_survives_the_wire(request: Request) -> None:
    assert same(request_from_records(request.kind, over_the_wire(request_to_records(request))), request)


@settings(max_examples=100, deadline=None)
@given(answers)
def test_an_answer_survives_the_wire(reply: Reply) -> None:
    assert same(reply_from_records(over_the_wire(reply_to_records(reply)), due(reply)), reply)


@settings(max_examples=100, deadline=None)
@given(refusals)
def test_a_refusal_survives_the_wire_as_one_printable_line(reply: Reply) -> None:
    back = reply_from_records(over_the_wire(reply_to_records(reply)), Due())
    assert (back.site, back.error, back.message) == (reply.site, reply.error, shown(reply.message, REASON))
    assert is_shown(back.message, REASON)


def test_long_vectors_survive_the_wire() -> None:
    words = np.arange(3_000_000, dtype=np.uint32)
    reply = Reply("north", PROTOCOL, words=words, ledger_head=LEDGER_HEAD)
    assert same(reply_from_records(over_the_wire(reply_to_records(reply)), due(reply)), reply)


# --- fields ---------------------------------------------------------------------------------------

REQUEST = {
    "protocol": PROTOCOL,
    "plan": b"{}",
    "signature": SIGNATURE,
    "round": 1,
    "attempt": 1,
    "session": 1,
    "body": b"",
    "sites": ["north"],
    "ledger_heads": [LEDGER_HEAD],
}
REPLY = {
    "site": "north",
    "protocol": PROTOCOL,
    "body": b"",
    "ledger_head": LEDGER_HEAD,
    "error": "",
    "message": "",
    "blamed": "",
}
REFUSAL = REPLY | {"ledger_head": "", "error": "NotApproved", "message": "no"}
DUE = Due(body=196, words=(False, 4), ledger_head=True)


def read(which: dict[str, Any], records: RecordDict) -> Any:
    return request_from_records("prepare", records) if which is REQUEST else reply_from_records(records, DUE)


def refused(which: dict[str, Any], header: dict[str, Any], **records: Any) -> str:
    with pytest.raises(ProtocolError) as caught:
        read(which, RecordDict({"header": ConfigRecord(header), **records}))
    assert is_shown(str(caught.value), REASON)
    return str(caught.value)


@pytest.mark.parametrize("which", [REQUEST, REPLY, REFUSAL], ids=["request", "reply", "refusal"])
def test_a_missing_or_mistyped_field_is_malformed(which: dict[str, Any]) -> None:
    read(which, RecordDict({"header": ConfigRecord(which)}))
    for name, value in which.items():
        for wrong in (None, 1.5, True, [1], "7" if isinstance(value, int) else 7):
            header = {key: item for key, item in which.items() if key != name}
            if wrong is not None:
                header[name] = wrong
            assert "malformed" in refused(which, header)


@pytest.mark.parametrize("which", [REQUEST, REPLY, REFUSAL], ids=["request", "reply", "refusal"])
def test_what_is_not_known_or_not_due_is_malformed(which: dict[str, Any]) -> None:
    assert "not known" in refused(which, which | {"\x1b[2J": 1})
    assert "not known" in refused(which, which, extra=ConfigRecord({"a": 1}))
    assert "not known" in refused(which, which, extra=MetricRecord({"a": 1}))
    assert "not known" in refused(which, which, extra=ArrayRecord())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("plan", bytes(LARGEST_PLAN + 1)),
        ("signature", "AB" * 64),
        ("signature", "ab" * 63),
        ("signature", "é" * 128),
        ("round", -1),
        ("attempt", 2**31),
        ("session", 2**63 - 1),
        ("body", bytes(LARGEST_BODY + 1)),
        ("sites", ["North"]),
        ("sites", ["../x"]),
        ("sites", ["north", "north"]),
        ("sites", []),
        ("ledger_heads", [""]),
        ("ledger_heads", ["0F" * 32]),
        ("ledger_heads", [LEDGER_HEAD, LEDGER_HEAD]),
    ],
)
def test_a_request_out_of_bounds_is_malformed(name: str, wrong: Any) -> None:
    assert "malformed" in refused(REQUEST, REQUEST | {name: wrong})


def test_a_request_names_a_thousand_sites_at_the_most() -> None:
    def heads(sites: int) -> dict[str, Any]:
        return {"sites": [f"site-{number}" for number in range(sites)], "ledger_heads": [LEDGER_HEAD] * sites}

    read(REQUEST, RecordDict({"header": ConfigRecord(REQUEST)}))
    assert len(request_from_records("prepare", header_of(REQUEST | heads(MOST_SITES))).ledger_heads) == MOST_SITES
    assert "ledger_heads" in refused(REQUEST, REQUEST | heads(MOST_SITES + 1))


def header_of(header: dict[str, Any]) -> RecordDict:
    return RecordDict({"header": ConfigRecord(header)})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("site", ""),
        ("site", "North"),
        ("site", "a" * 64),
        ("site", "north\n"),
        ("site", "../north"),
        ("body", bytes(197)),
        ("ledger_head", ""),
        ("ledger_head", "é"),
        ("ledger_head", "0F" * 32),
        ("ledger_head", "0f" * 31),
        ("ledger_head", "0f" * 500_000),
        ("ledger_head", "../../../x"),
        ("message", "an answer with a message"),
        ("blamed", "east"),
    ],
)
def test_a_reply_out_of_bounds_is_malformed(name: str, wrong: Any) -> None:
    assert "malformed" in refused(REPLY, REPLY | {name: wrong})


def test_a_refusal_carries_nothing_else() -> None:
    assert reply_from_records(header_of(REFUSAL | {"site": ""}), DUE).site == ""
    assert reply_from_records(header_of(REFUSAL | {"blamed": "east"}), DUE).blamed == "east"
    for name, wrong in (
        ("body", b"x"),
        ("ledger_head", LEDGER_HEAD),
        ("site", "North"),
        ("blamed", "East"),
        ("blamed", "\x1b"),
    ):
        assert "malformed" in refused(REFUSAL, REFUSAL | {name: wrong})
    vector = ArrayRecord({"y": Array(np.zeros(4, dtype=np.uint32))})
    assert "malformed" in refused(REFUSAL, REFUSAL, words=vector)


@pytest.mark.parametrize("error", ["x" * 5_000_000, "\x1b[1;31mOK", "[bold]Refused", "UndertoneError", "Exception"])
def test_a_word_that_is_no_error_of_ours_becomes_a_fixed_one(error: str) -> None:
    assert reply_from_records(header_of(REFUSAL | {"error": error}), DUE).error == UNKNOWN


def test_every_refusal_of_ours_is_a_known_word() -> None:
    ours = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and kind.__name__ in REFUSALS}
    assert {"NotApproved", "LedgerRestored", "UnfaithfulCoordinator", "TooFewSites"} < ours
    assert REFUSALS - ours == {"SiteFault"}


@pytest.mark.parametrize(
    "message",
    [
        "\x1b]0;owned\x07\x1b[2J",
        "a\r\nround 2: all present",
        "\u202eevil",
        "\u2028",
        "\x00",
        "\x9b31m",
        "A" * 5_000_000,
    ],
)
def test_a_message_is_one_bounded_printable_line(message: str) -> None:
    back = reply_from_records(over_the_wire(header_of(REFUSAL | {"message": message})), DUE).message
    assert back.isprintable()
    assert len(back) <= REASON + 3


def test_what_a_hostile_text_costs_is_bounded_too() -> None:
    text = "\x1b" * 20_000_000
    tracemalloc.start()
    shown(text, REASON)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_another_protocol_is_said_before_anything_else_is_read() -> None:
    assert f"protocol 7, this coordinator protocol {PROTOCOL}" in refused(REPLY, {"protocol": 7, "new": 1})
    request = request_from_records("prepare", header_of({"protocol": 7, "plan": b"{}", "new": 1}))
    assert (request.protocol, request.plan) == (7, b"")  # the node says both numbers


@pytest.mark.parametrize("which", [REQUEST, REPLY], ids=["request", "reply"])
def test_records_of_another_kind_are_malformed(which: dict[str, Any]) -> None:
    for records in (RecordDict(), RecordDict({"header": MetricRecord({"protocol": 1})})):
        with pytest.raises(ProtocolError):
            read(which, records)


# --- vectors --------------------------------------------------------------------------------------


def words_read(array: Array, bits: int = 32, length: int = 4, key: str = "y", **more: Array) -> Any:
    records = RecordDict({"header": ConfigRecord(REPLY), "words": ArrayRecord({key: array, **more})})
    return reply_from_records(over_the_wire(records), Due(words=(bits == 24, length), ledger_head=True)).words


def state_read(array: Array) -> Any:
    records = RecordDict({"header": ConfigRecord(REQUEST), "state": ArrayRecord({"w": array})})
    state = request_from_records("prepare", over_the_wire(records)).state
    assert isinstance(state, Packed)
    return state.read(np.float32, 4)


READERS: list[tuple[Callable[..., Any], type]] = [(words_read, np.uint32), (state_read, np.float32)]
either = pytest.mark.parametrize(("reader", "dtype"), READERS, ids=["reply", "request"])


@either
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), dtype=np.float32),
        np.zeros(4, dtype=np.float64),
        np.zeros(4, dtype=np.int32),
        np.zeros(4, dtype=np.uint8),
        np.zeros(4, dtype=">u4"),
        np.zeros(4, dtype=">f4"),
        np.zeros((), dtype=np.float32),
        np.zeros((2, 2), dtype=np.uint32),
        np.zeros((4, 1), dtype=np.uint32, order="F"),
        np.zeros(5, dtype=np.float32),
        np.zeros(3, dtype=np.uint32),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_a_vector_of_another_shape_or_type_is_malformed(reader: Any, dtype: type, array: Any) -> None:
    with pytest.raises(ProtocolError):
        reader(Array(array))
    # Its own description lies: what counts are the bytes.
    spoiled = Array(dtype=np.dtype(dtype).name, shape=(4,), stype="numpy.ndarray", data=Array(array).data)
    with pytest.raises(ProtocolError):
        reader(spoiled)


def npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + header + body


def padded(text: str) -> bytes:
    return text.encode().ljust(117) + b"\n"


def zipped() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, y=np.zeros(1 << 20, dtype=np.uint32))
    return stream.getvalue()


SHAPES = ("(10000000000000,)", f"({10**30},)", "(-5,)", "(5,)", "(3,)", "(04,)", "(2, 2)", "()", "(4)", "(4L,)")


def wild(descr: str) -> dict[str, bytes]:
    """Bytes that are not [4] of this type."""
    good = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (4,), }}"
    shapes = {f"shape {shape}": npy(padded(good.replace("(4,)", shape)), bytes(16)) for shape in SHAPES}
    return shapes | {
        "empty": b"",
        "text": b"no array",
        "zip": b"PK\x03\x04",
        "empty zip": b"PK\x05\x06" + bytes(18),
        "compressed": zipped(),
        "pickle": pickle.dumps(np.zeros(4, dtype=np.uint32)),
        "object": npy(padded(good.replace(descr, "|O")), bytes(16)),
        "structured": npy(padded(good.replace(f"'{descr}'", "[('a', '<u4')]")), bytes(16)),
        "huge items": npy(padded(good.replace(descr, "<U999999999")), bytes(16)),
        "other order of bytes": npy(padded(good.replace("<", ">")), bytes(16)),
        "fortran order": npy(padded(good.replace("False", "True")), bytes(16)),
        "code in the header": npy(padded("__import__('os').abort()"), bytes(16)),
        "brackets": npy(padded("(" * 100), bytes(16)),
        "a long header": npy(good.encode().ljust(65_525) + b"\n", bytes(16)),
        "ten million bytes of header": npy(good.encode().ljust(10_000_000) + b"\n", bytes(16), b"\x02\x00"),
        "version 3": npy(padded(good), bytes(16), b"\x03\x00"),
        "one byte short": npy(padded(good), bytes(15)),
        "one byte more": npy(padded(good), bytes(17)),
        "no values": npy(padded(good)),
        "not aligned": npy(good.encode() + b"\n", bytes(16)),
        "a header of another length": b"\x93NUMPY\x01\x00\x75\x00" + padded(good) + bytes(16),
    }


@either
def test_the_header_that_is_varied_here_is_a_good_one(reader: Any, dtype: type) -> None:
    descr = np.dtype(dtype).str
    data = npy(padded(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (4,), }}"), bytes(16))
    np.testing.assert_array_equal(reader(described(dtype, data)), np.zeros(4))


def described(dtype: type, data: bytes) -> Array:
    return Array(dtype=np.dtype(dtype).name, shape=(4,), stype="numpy.ndarray", data=data)


@either
@pytest.mark.parametrize("case", wild("<u4"))
def test_a_vector_whose_bytes_are_no_such_array_is_malformed(reader: Any, dtype: type, case: str) -> None:
    array = described(dtype, wild(np.dtype(dtype).str)[case])
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        reader(array)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


@either
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("stype", "pickle"),
        ("stype", "torch"),
        ("dtype", "object"),
        ("shape", (2**31 - 1,)),
        ("shape", (2, 2)),
        ("shape", ()),
    ],
)
def test_a_vector_whose_description_is_another_is_malformed(reader: Any, dtype: type, name: str, wrong: Any) -> None:
    good = Array(np.zeros(4, dtype=dtype))
    values = {"dtype": good.dtype, "shape": good.shape, "stype": good.stype, "data": good.data}
    np.testing.assert_array_equal(reader(Array(**values)), np.zeros(4))
    with pytest.raises(ProtocolError):
        reader(Array(**(values | {name: wrong})))


def test_a_vector_under_another_name_or_beside_another_is_malformed() -> None:
    good = Array(np.zeros(4, dtype=np.uint32))
    with pytest.raises(ProtocolError, match="words"):
        words_read(good, key="z")
    with pytest.raises(ProtocolError, match="words"):
        words_read(good, z=good)
    with pytest.raises(ProtocolError, match="words"):
        reply_from_records(RecordDict({"header": ConfigRecord(REPLY), "words": ArrayRecord()}), DUE)
    with pytest.raises(ProtocolError, match="words"):
        reply_from_records(RecordDict({"header": ConfigRecord(REPLY), "words": ConfigRecord({"y": 1})}), DUE)


def test_a_vector_that_is_not_due_is_malformed() -> None:
    records = RecordDict({"header": ConfigRecord(REPLY), "words": ArrayRecord({"y": Array(np.zeros(4, np.uint32))})})
    reply_from_records(records, DUE)
    with pytest.raises(ProtocolError, match="not due"):
        reply_from_records(records, Due(body=196, ledger_head=True))


def test_the_wires_width_is_the_plans() -> None:
    narrow, wide = Array(np.zeros(12, dtype=np.uint8)), Array(np.zeros(4, dtype=np.uint32))
    assert words_read(narrow, bits=24, length=12).size == 12
    for array, bits, length in ((narrow, 32, 4), (narrow, 32, 12), (wide, 24, 12), (wide, 24, 4)):
        with pytest.raises(ProtocolError):
            words_read(array, bits, length)


@settings(max_examples=200, deadline=None)
@given(bits, st.data())
def test_what_is_read_is_what_numpy_reads(words: np.ndarray, data: st.DataObject) -> None:
    written = Array(words).data
    np.testing.assert_array_equal(read_vector(written, np.uint32, words.size), words)
    at = data.draw(st.integers(0, 127))
    changed = bytearray(written)
    changed[at] = data.draw(st.integers(0, 255))
    try:
        found = read_vector(bytes(changed), np.uint32, words.size)
    except ProtocolError:
        return
    np.testing.assert_array_equal(found, np.load(io.BytesIO(bytes(changed)), allow_pickle=False))
