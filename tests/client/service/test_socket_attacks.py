"""Whoever may open a node's socket may send anything: each of it is one refusal, and the next request is answered."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.served import SECONDS, served, until_ready
from tests.support.world import START, World
from undertone import PROTOCOL
from undertone.core.keys import PLAN_DOMAIN, sign
from undertone.errors import NodeUnavailable, NotApproved, ProtocolError
from undertone.study.plan import Plan
from undertone.wire.grpc_form import CHUNK_BYTES, LARGEST_FRAME, reply_from_frames, request_to_frames
from undertone.wire.hello import CHALLENGE_BYTES
from undertone.wire.messages import YES, Reply, Request
from undertone.wire.node_pb2 import ReplyFrame, RequestFrame, RequestHeader, Vector
from undertone.wire.vectors import packed
from undertone_client.service.client import NodeClient
from undertone_client.service.place import socket_of
from undertone_client.service.server import NodeService, serving

Make = Callable[..., World]
ASK = "/undertone.node.Node/Ask"


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(max_attempts=3)


@pytest.fixture
def client(world: World) -> Iterator[NodeClient]:
    with served(world.sites["north"]) as client:
        yield client
        assert client.ask(hello(), SECONDS).site == "north"  # whatever was sent before


@pytest.fixture
def channel(world: World, client: NodeClient) -> Iterator[grpc.Channel]:
    assert client.serves(SECONDS)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"unix:{socket_of(world.sites['north'])}", options=options) as channel:
        yield channel


def hello() -> Request:
    return Request("hello", PROTOCOL, body=bytes(CHALLENGE_BYTES))


def sent(channel: grpc.Channel, *frames: bytes) -> Reply:
    """The reply to raw frames."""
    call = channel.stream_stream(ASK)
    return reply_from_frames(map(ReplyFrame.FromString, call(iter(frames), timeout=SECONDS)), 0)


def status_of(channel: grpc.Channel, *frames: bytes) -> grpc.StatusCode:
    """The status of gRPC's own that raw frames are answered with."""
    with pytest.raises(grpc.RpcError) as found:
        list(channel.stream_stream(ASK)(iter(frames), timeout=SECONDS))
    code: grpc.StatusCode = found.value.code()  # type: ignore[attr-defined]
    return code


def answer(channel: grpc.Channel, frames: list[bytes]) -> Any:
    """The name of the refusal, or gRPC's status."""
    try:
        return sent(channel, *frames).error
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]


def raw(request: Request) -> list[bytes]:
    return [frame.SerializeToString() for frame in request_to_frames(request)]


def test_bytes_that_are_no_message(channel: grpc.Channel) -> None:
    for data in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", os.urandom(50) + b"\xff" * 20, b"\x0a\x05hello"):
        assert status_of(channel, data) in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def test_a_frame_beyond_the_limit(channel: grpc.Channel) -> None:
    frame = RequestFrame(chunk=bytes(LARGEST_FRAME)).SerializeToString()
    assert status_of(channel, frame) == grpc.StatusCode.RESOURCE_EXHAUSTED
    header = RequestFrame(header=RequestHeader(protocol=PROTOCOL, kind="hello", body=bytes(3 << 20)))
    assert status_of(channel, header.SerializeToString()) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_malformed_requests_are_refused_in_words(channel: grpc.Channel) -> None:
    for frames in (
        [],
        [b""],
        [RequestFrame(chunk=b"x").SerializeToString()],
        [RequestFrame(header=RequestHeader(protocol=PROTOCOL, kind="forget")).SerializeToString()],
        [*raw(hello()), *raw(hello())],
        [raw(hello())[0] + b"\x98\x06\x01"],
    ):
        reply = sent(channel, *frames)
        assert (reply.error, reply.site) == (ProtocolError.__name__, "")
        assert "malformed" in reply.message


def test_another_protocol_is_refused_with_both_numbers(channel: grpc.Channel) -> None:
    reply = sent(channel, RequestFrame(header=RequestHeader(protocol=7, kind="new")).SerializeToString())
    assert (reply.site, reply.error) == ("north", ProtocolError.__name__)
    assert "protocol 7" in reply.message
    assert f"protocol {PROTOCOL}" in reply.message


def test_a_stranger_cannot_make_the_node_hold_a_vector(world: World, channel: grpc.Channel) -> None:
    """Without a signature that holds, and an approval, no chunk is read however many are sent."""
    pulled: list[int] = []

    def endless(request: Request) -> Iterator[bytes]:
        yield raw(request)[0]
        for number in range(20_000):
            pulled.append(number)
            yield RequestFrame(chunk=bytes(CHUNK_BYTES)).SerializeToString()

    claimed = packed(np.zeros(10, dtype=np.float32))
    other = Plan.model_validate(world.plan.model_dump() | {"study": "not-approved"})
    signature = sign(world.run.key(), PLAN_DOMAIN, other.digest)
    strangers = (
        world.request("prepare", plan=other.as_bytes(), signature=signature, state=claimed),
        world.request("prepare", signature="0" * 128, state=claimed),
        world.request("prepare", plan=b"{}", state=claimed),
    )
    for request in strangers:
        call = channel.stream_stream(ASK)(endless(request), timeout=SECONDS)
        assert reply_from_frames(map(ReplyFrame.FromString, call), 0).error == NotApproved.__name__
    assert len(pulled) < 200  # what gRPC's own window takes before anybody reads


def test_a_state_longer_than_the_plan_says_is_refused(world: World, client: NodeClient) -> None:
    for state in (np.zeros(START.size + 200, dtype=np.float32), np.zeros(10_000_000, dtype=np.float32)):
        reply = client.ask(world.request("prepare", state=state), SECONDS)
        assert reply.error == ProtocolError.__name__
        assert "longer than what is due" in reply.message
    other = client.ask(world.request("prepare", state=START[:-1]), SECONDS)
    assert (other.error, other.site) == (ProtocolError.__name__, "north")


def test_a_vector_that_claims_more_than_it_sends(world: World, channel: grpc.Channel) -> None:
    (header, *_), data = request_to_frames(world.request("prepare")), packed(START).data
    header.header.state.CopyFrom(Vector(dtype="float32", shape=[START.size], stype="numpy.ndarray", size=len(data)))
    reply = sent(channel, header.SerializeToString(), RequestFrame(chunk=data[:-1]).SerializeToString())
    assert (reply.error, "fewer bytes" in reply.message) == (ProtocolError.__name__, True)


def test_who_sends_nothing_more_does_not_stop_the_others(
    world: World, channel: grpc.Channel, client: NodeClient
) -> None:
    let_go = threading.Event()

    def stalling() -> Iterator[bytes]:
        yield raw(world.request("prepare"))[0]
        let_go.wait(SECONDS)

    calls = [channel.stream_stream(ASK)(stalling(), timeout=SECONDS) for _ in range(4)]
    assert client.ask(hello(), SECONDS).site == "north"
    for call in calls:
        call.cancel()
    let_go.set()


def test_too_many_at_once_are_turned_away_and_the_node_answers_again(
    world: World, channel: grpc.Channel, client: NodeClient
) -> None:
    let_go = threading.Event()

    def stalling() -> Iterator[bytes]:
        yield raw(world.request("prepare"))[0]
        let_go.wait(SECONDS)

    calls = [channel.stream_stream(ASK)(stalling(), timeout=SECONDS) for _ in range(60)]
    for _ in range(100):
        if sum(call.done() for call in calls) >= 20:
            break
        time.sleep(0.05)
    assert {call.code() for call in calls if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    with pytest.raises(NodeUnavailable, match="RESOURCE_EXHAUSTED"):
        client.ask(hello(), 2.0)
    for call in calls:
        call.cancel()
    let_go.set()
    for _ in range(100):
        if client.serves(1.0):
            break
    assert client.ask(hello(), SECONDS).site == "north"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_sent_the_node_answers_the_next_request(
    world: World, channel: grpc.Channel, client: NodeClient, seed: int
) -> None:
    """Bits flipped, bytes cut out, frames repeated, swapped and lost."""
    moves, answers = random.Random(seed), set()
    good = [raw(hello()), raw(world.request("prepare")), raw(world.request("ready", state=None))]
    for _ in range(60):
        frames = list(moves.choice(good))
        at = moves.randrange(len(frames))
        match moves.randrange(4):
            case 0:
                data = bytearray(frames[at])
                data[moves.randrange(len(data))] ^= 1 << moves.randrange(8)
                frames[at] = bytes(data)
            case 1:
                frames[at] = frames[at][: moves.randrange(len(frames[at]) + 1)]
            case 2:
                frames.insert(at, moves.choice(moves.choice(good)))
            case _:
                frames.pop(at)
        answers.add(answer(channel, frames))
    known = {"", "ProtocolError", "NotApproved", "NotPrepared", "PlanChanged"}
    assert answers <= known | {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    assert client.ask(world.request("prepare", attempt=2), SECONDS).error == ""
    assert until_ready(client, world.request("ready", attempt=2, state=None)).body == YES


def test_a_reply_that_cannot_be_read_is_a_named_failure(world: World) -> None:
    """A node that answers anything: the relay's side reads it as strictly."""
    folder = world.sites["north"]
    replies: list[Any] = [
        Reply("north", PROTOCOL, words=np.zeros(5, dtype=np.uint32), ledger_head="0" * 64),
        Reply("../x", PROTOCOL),
        Reply("north", PROTOCOL, body=bytes(1 << 20)),
        Reply("north", 7),
    ]
    with (
        serving(NodeService(lambda _request: replies[0], lambda _request: 0), folder, socket_of(folder)),
        NodeClient(socket_of(folder)) as client,
    ):
        while replies:
            with pytest.raises(NodeUnavailable, match="gave no answer that can be read"):
                client.ask(hello(), SECONDS)
            replies.pop(0)


def test_a_node_that_is_silent_is_given_up_in_time(world: World) -> None:
    let_go = threading.Event()
    folder = world.sites["north"]

    def silent(_request: Request) -> Reply:
        let_go.wait(SECONDS)
        return Reply("north", PROTOCOL)

    with (
        serving(NodeService(silent, lambda _request: 0), folder, socket_of(folder)),
        NodeClient(socket_of(folder)) as client,
    ):
        with pytest.raises(NodeUnavailable, match="DEADLINE_EXCEEDED"):
            client.ask(hello(), 0.5)
        let_go.set()
