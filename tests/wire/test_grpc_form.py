"""Requests and replies survive the frames between relay and node; what is malformed, too long or not due is refused."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.wire.test_flower import LEDGER_HEAD, SIGNATURE, answers, refusals, requests, same
from undertone import PROTOCOL
from undertone.core.text import REASON, is_shown, shown
from undertone.errors import ProtocolError
from undertone.wire import grpc_form
from undertone.wire.grpc_form import (
    CHUNK_BYTES,
    LARGEST_FRAME,
    LARGEST_VECTOR,
    reply_from_frames,
    reply_to_frames,
    request_from_frames,
    request_to_frames,
)
from undertone.wire.messages import LARGEST_BODY, LARGEST_PLAN, MOST_SITES, UNKNOWN, Reply, Request
from undertone.wire.node_pb2 import LedgerHead, ReplyFrame, RequestFrame, RequestHeader, Vector

STATE = np.arange(700_000, dtype=np.float32)  # 2.8 MB: three chunks
REQUEST = Request("prepare", PROTOCOL, b"{}", SIGNATURE, 1, 1, 1, STATE, b"body", {"north": LEDGER_HEAD})
REPLY = Reply("north", PROTOCOL, np.arange(700_000, dtype=np.uint32), b"body", LEDGER_HEAD)


def any_length(_request: Request) -> int:
    return LARGEST_VECTOR


def over_the_wire(frames: Iterator[Any]) -> list[Any]:
    return [type(frame).FromString(frame.SerializeToString()) for frame in frames]


@settings(max_examples=100, deadline=None)
@given(requests)
def test_a_request_survives(request: Request) -> None:
    assert same(request_from_frames(over_the_wire(request_to_frames(request)), any_length), request)


@settings(max_examples=100, deadline=None)
@given(answers)
def test_an_answer_survives(reply: Reply) -> None:
    assert same(reply_from_frames(over_the_wire(reply_to_frames(reply)), LARGEST_VECTOR), reply)


@settings(max_examples=100, deadline=None)
@given(refusals)
def test_a_refusal_survives_as_one_printable_line(reply: Reply) -> None:
    back = reply_from_frames(over_the_wire(reply_to_frames(reply)), 0)
    assert (back.site, back.error, back.message) == (reply.site, reply.error, shown(reply.message, REASON))
    assert is_shown(back.message, REASON)


def test_vectors_travel_in_chunks() -> None:
    frames = over_the_wire(request_to_frames(REQUEST))
    assert [len(frame.chunk) for frame in frames] == [0, CHUNK_BYTES, CHUNK_BYTES, 128 + STATE.nbytes - 2 * CHUNK_BYTES]
    assert same(request_from_frames(frames, any_length), REQUEST)
    assert same(reply_from_frames(over_the_wire(reply_to_frames(REPLY)), LARGEST_VECTOR), REPLY)


def test_the_longest_header_fits_a_frame() -> None:
    heads = {f"{number:064d}": LEDGER_HEAD for number in range(MOST_SITES)}
    longest = Request(
        "consistency_check",
        PROTOCOL,
        bytes(LARGEST_PLAN),
        SIGNATURE,
        2**31 - 1,
        2**31 - 1,
        2**31 - 1,
        body=bytes(LARGEST_BODY),
        ledger_heads=heads,
    )
    (frame,) = request_to_frames(longest)
    assert frame.ByteSize() < LARGEST_FRAME
    assert CHUNK_BYTES + 16 < LARGEST_FRAME


# --- what is refused ------------------------------------------------------------------------------

HEADER = RequestHeader(protocol=PROTOCOL, kind="prepare", plan=b"{}", signature=SIGNATURE, round=1, attempt=1)


def changed(**fields: Any) -> RequestHeader:
    header = RequestHeader()
    header.CopyFrom(HEADER)
    header.MergeFrom(RequestHeader(**fields))
    return header


def described(size: int, **fields: Any) -> Vector:
    return Vector(**({"dtype": "float32", "shape": [2], "stype": "numpy.ndarray", "size": size} | fields))


def with_unknown(message: Any) -> Any:
    """The same message with a field 99 that nobody knows."""
    return type(message).FromString(message.SerializeToString() + b"\x98\x06\x01")


BAD_REQUESTS: dict[str, tuple[list[RequestFrame], str]] = {
    "nothing": ([], "header"),
    "an empty frame": ([RequestFrame()], "header"),
    "a chunk first": ([RequestFrame(chunk=b"x")], "header"),
    "a kind that is none": ([RequestFrame(header=changed(kind="Prepare"))], "kind"),
    "a plan that is too long": ([RequestFrame(header=changed(plan=bytes(LARGEST_PLAN + 1)))], "plan"),
    "a signature in capitals": ([RequestFrame(header=changed(signature="AB" * 64))], "signature"),
    "a round beyond 2^31": ([RequestFrame(header=changed(round=2**31))], "round"),
    "an attempt beyond 2^31": ([RequestFrame(header=changed(attempt=2**31))], "attempt"),
    "a session beyond 2^31": ([RequestFrame(header=changed(session=2**31))], "session"),
    "a body that is too long": ([RequestFrame(header=changed(body=bytes(LARGEST_BODY + 1)))], "body"),
    "a site that is no name": (
        [RequestFrame(header=changed(ledger_heads=[LedgerHead(site="../x", head=LEDGER_HEAD)]))],
        "ledger_heads",
    ),
    "a head that is none": (
        [RequestFrame(header=changed(ledger_heads=[LedgerHead(site="north", head="0F" * 32)]))],
        "ledger_heads",
    ),
    "a site twice": (
        [RequestFrame(header=changed(ledger_heads=[LedgerHead(site="north", head=LEDGER_HEAD)] * 2))],
        "ledger_heads",
    ),
    "more sites than any": (
        [
            RequestFrame(
                header=changed(
                    ledger_heads=[LedgerHead(site=f"s{number}", head=LEDGER_HEAD) for number in range(MOST_SITES + 1)]
                )
            )
        ],
        "ledger_heads",
    ),
    "a field in the frame": ([with_unknown(RequestFrame(header=HEADER))], "not known"),
    "a field in the header": ([RequestFrame(header=with_unknown(HEADER))], "not known"),
    "a field in a ledger head": (
        [RequestFrame(header=changed(ledger_heads=[with_unknown(LedgerHead(site="north", head=LEDGER_HEAD))]))],
        "not known",
    ),
    "a field in the state": ([RequestFrame(header=changed(state=with_unknown(described(8))))], "not known"),
    "two headers": ([RequestFrame(header=HEADER), RequestFrame(header=HEADER)], "too many"),
    "chunks of no vector": ([RequestFrame(header=HEADER), RequestFrame(chunk=b"x")], "too many"),
    "a vector too long": ([RequestFrame(header=changed(state=described(1001)))], "longer than what is due"),
    "a vector of 2^64 bytes": ([RequestFrame(header=changed(state=described(2**64 - 1)))], "longer than what is due"),
    "a long type": ([RequestFrame(header=changed(state=described(8, dtype="f" * 65)))], "type"),
    "many dimensions": ([RequestFrame(header=changed(state=described(8, shape=[1] * 5)))], "shape"),
    "chunks too few": ([RequestFrame(header=changed(state=described(8))), RequestFrame(chunk=b"1234567")], "fewer"),
    "no chunks": ([RequestFrame(header=changed(state=described(8)))], "fewer"),
    "chunks too many": ([RequestFrame(header=changed(state=described(8))), RequestFrame(chunk=b"123456789")], "more"),
    "an empty chunk": ([RequestFrame(header=changed(state=described(8))), RequestFrame(chunk=b"")], "no chunk"),
    "a header for a chunk": (
        [RequestFrame(header=changed(state=described(8))), RequestFrame(header=HEADER)],
        "no chunk",
    ),
    "a field in a chunk": (
        [RequestFrame(header=changed(state=described(8))), with_unknown(RequestFrame(chunk=b"12345678"))],
        "no chunk",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_malformed_request_is_refused_and_says_in_our_words_what_is_wrong(name: str) -> None:
    frames, words = BAD_REQUESTS[name]
    with pytest.raises(ProtocolError, match=f"the request is malformed: .*{words}"):
        request_from_frames(over_the_wire(iter(frames)), lambda _request: 1000)


def test_a_chunk_beyond_1_mib_is_refused() -> None:
    size = CHUNK_BYTES + 1
    frames = [RequestFrame(header=changed(state=described(size))), RequestFrame(chunk=bytes(size))]
    with pytest.raises(ProtocolError, match="no chunk"):
        request_from_frames(frames, any_length)


def test_another_protocol_is_read_no_further() -> None:
    header = RequestHeader(protocol=7, kind="prepare", plan=b"x", round=2**31, state=described(2**64 - 1))
    frames = [RequestFrame(header=header), RequestFrame(chunk=b"x")]
    assert request_from_frames(frames, any_length) == Request("prepare", 7)
    assert request_from_frames([RequestFrame(header=RequestHeader(protocol=7, kind="new"))], any_length).protocol == 7


def test_who_may_bring_no_state_is_read_no_further() -> None:
    stream = iter(over_the_wire(request_to_frames(REQUEST)))
    asked: list[Request] = []

    def nothing(request: Request) -> int:
        asked.append(request)
        return 0

    assert request_from_frames(stream, nothing).state is None
    assert len(list(stream)) == 3
    assert (asked[0].plan, asked[0].signature, asked[0].state) == (b"{}", SIGNATURE, None)


def test_nothing_is_allocated_for_what_is_claimed() -> None:
    frames = [RequestFrame(header=changed(state=described(LARGEST_VECTOR))), RequestFrame(chunk=b"x" * 100)]
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="fewer"):
        request_from_frames(frames, any_length)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


Change = Callable[[Any], None]


def reply_frames(change: Change, reply: Reply = REPLY) -> list[ReplyFrame]:
    frames = over_the_wire(reply_to_frames(reply))
    change(frames[0].header)
    return frames


REFUSAL = Reply("north", PROTOCOL, error="NotApproved", message="no")
BAD_REPLIES: dict[str, tuple[list[ReplyFrame], str]] = {
    "another protocol": (reply_frames(lambda header: setattr(header, "protocol", 7)), "protocol 7"),
    "a site that is no name": (reply_frames(lambda header: setattr(header, "site", "../x")), "site"),
    "an answer of nobody": (reply_frames(lambda header: setattr(header, "site", "")), "site"),
    "a body that is too long": (
        reply_frames(lambda header: setattr(header, "body", bytes(LARGEST_BODY + 1))),
        "body",
    ),
    "a head that is none": (reply_frames(lambda header: setattr(header, "ledger_head", "x")), "ledger_head"),
    "a message without an error": (reply_frames(lambda header: setattr(header, "message", "x")), "message"),
    "an answer that blames": (reply_frames(lambda header: setattr(header, "blamed", "east")), "blamed"),
    "words of another type": (reply_frames(lambda header: setattr(header.words, "dtype", "float32")), "uint32"),
    "words of another length": (reply_frames(lambda header: header.words.shape.append(2)), "shape"),
    "words that are no vector": (reply_frames(lambda header: setattr(header.words, "stype", "pickle")), "uint32"),
    "a field that is not known": ([with_unknown(frame) for frame in reply_frames(lambda _: None)], "not known"),
    "a refusal with a body": (reply_frames(lambda header: setattr(header, "body", b"x"), REFUSAL), "nothing else"),
    "a refusal with words": (
        reply_frames(lambda header: header.words.CopyFrom(described(0)), REFUSAL),
        "nothing else",
    ),
    "a refusal and more": ([*reply_frames(lambda _: None, REFUSAL), ReplyFrame(chunk=b"x")], "nothing else"),
    "a chunk of no vector": (
        [*reply_frames(lambda _: None, Reply("north", PROTOCOL, body=b"x")), ReplyFrame(chunk=b"x")],
        "too many",
    ),
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_malformed_reply_is_refused(name: str) -> None:
    frames, words = BAD_REPLIES[name]
    with pytest.raises(ProtocolError, match=words):
        reply_from_frames(frames, LARGEST_VECTOR)


def test_words_that_are_not_due_are_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than what is due"):
        reply_from_frames(reply_to_frames(REPLY), 0)


def test_an_error_of_unknown_name_is_one_word() -> None:
    (frame,) = reply_to_frames(Reply("", PROTOCOL, error="\x1b[2Jgone", message="a\nb"))
    back = reply_from_frames([frame], 0)
    assert (back.site, back.error, back.message) == ("", UNKNOWN, "a\\nb")


def test_the_generated_code_is_what_the_proto_file_says(tmp_path: Path) -> None:
    from grpc_tools import protoc

    folder = Path(grpc_form.__file__).parent
    root = folder.parents[1]
    arguments = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{root}", *arguments, "undertone/wire/node.proto"]) == 0
    made = sorted((tmp_path / "undertone" / "wire").iterdir())
    assert [path.name for path in made] == ["node_pb2.py", "node_pb2.pyi", "node_pb2_grpc.py"]
    for path in made:
        assert path.read_bytes() == (folder / path.name).read_bytes(), f"{path.name} is old: make proto"
