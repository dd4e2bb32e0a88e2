"""The relay between a SuperNode's genuine Runtime API and a node that is a function here."""

import io
import logging
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from tests.support.superlink import eventually
from tests.support.supernode import SECRET, SuperNode, supernode
from undertone import PROTOCOL
from undertone.errors import InputError, NotApproved
from undertone.wire.flower import MESSAGE_TYPES, reply_from_records, request_to_records
from undertone.wire.messages import Due, Kind, Reply, Request
from undertone_cli.processes import free_ports
from undertone_client.relay import answering
from undertone_client.relay.answering import DEADLINES, FAULT, Asks
from undertone_client.relay.relay import run_relay
from undertone_client.relay.runtime_api import RuntimeApi, SuperNodeAway
from undertone_client.service.client import NodeClient


class FakeNode:
    """Answers from a function, and keeps what it was asked."""

    def __init__(self, handle: Callable[[Request], Reply] | None = None) -> None:
        self.asked: list[tuple[Request, float]] = []
        self._handle = handle or (lambda request: Reply("north", PROTOCOL, body=request.body))

    def ask(self, request: Request, timeout: float) -> Reply:
        self.asked.append((request, timeout))
        return self._handle(request)


@contextmanager
def relaying(address: str, node: Asks, secret: bytes = SECRET) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=run_relay, args=(address, secret, node, stop), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def site() -> Iterator[SuperNode]:
    with supernode() as found:
        yield found


def header(**fields: object) -> RecordDict:
    records = request_to_records(Request("hello", PROTOCOL, body=b"x"))
    values = {**records["header"], **fields}
    return RecordDict({"header": ConfigRecord(values)})


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_each_kind_reaches_the_node_and_its_reply_goes_back(site: SuperNode, kind: Kind) -> None:
    node = FakeNode()
    state = np.arange(1000, dtype=np.float32)
    with relaying(site.address, node):
        asked = site.put(
            MESSAGE_TYPES[kind], request_to_records(Request(kind, PROTOCOL, round=3, state=state, body=b"q"))
        )
        reply = site.reply()
    assert reply.metadata.reply_to_message_id == asked
    assert reply_from_records(reply.content, Due(body=1)) == Reply("north", PROTOCOL, body=b"q")
    ((request, timeout),) = node.asked
    assert (request.kind, request.round, request.body) == (kind, 3, b"q")
    assert request.state is not None
    assert np.array_equal(request.state.read(np.float32, 1000), state)
    assert timeout == DEADLINES[kind]


def test_a_vector_goes_back_bit_for_bit(site: SuperNode) -> None:
    words = np.arange(1_500_000, dtype=np.uint32) * np.uint32(2863311530)  # 6 MB: two of Flower's chunks
    node = FakeNode(lambda _: Reply("north", PROTOCOL, words=words, ledger_head="ab" * 32))
    with relaying(site.address, node):
        site.put("train.masked_input", request_to_records(Request("masked_input", PROTOCOL)))
        reply = reply_from_records(site.reply().content, Due(words=(False, words.size), ledger_head=True))
    assert np.array_equal(reply.words, words)


def test_a_message_has_no_longer_than_its_sender_waits(site: SuperNode) -> None:
    node = FakeNode()
    with relaying(site.address, node):
        site.put("query.hello", request_to_records(Request("hello", PROTOCOL)), ttl=7.5)
        site.reply()
    assert node.asked[0][1] == 7.5


def test_a_node_that_does_not_answer_is_a_named_refusal(site: SuperNode, tmp_path: Path) -> None:
    with NodeClient(tmp_path / "node.sock") as nobody, relaying(site.address, nobody):
        site.put("train.prepare", request_to_records(Request("prepare", PROTOCOL)))
        reply = reply_from_records(site.reply().content, Due())
    told = "the site's node cannot be reached now (UNAVAILABLE)"
    assert reply == Reply("", PROTOCOL, error="NodeUnavailable", message=told)


def test_what_goes_wrong_here_is_a_refusal_that_says_nothing_of_this_machine(
    site: SuperNode, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_: Request) -> Reply:
        raise ConnectionRefusedError("/srv/secret/node.sock: patient 17")

    with relaying(site.address, FakeNode(away)), caplog.at_level(logging.INFO, "undertone.relay"):
        site.put("train.prepare", request_to_records(Request("prepare", PROTOCOL)))
        reply = reply_from_records(site.reply().content, Due())
    assert reply == Reply("", PROTOCOL, error="SiteFault", message=FAULT)
    assert "no answer to prepare: ConnectionRefusedError: /srv/secret/node.sock: patient 17" in caplog.text


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (header(round="1"), "the request is malformed: round"),
        (header(more=1), "the request is malformed: a field or record that is not known, or not due"),
        (RecordDict(), "the request is malformed: header"),
        (RecordDict({"state": ArrayRecord({"w": Array(np.zeros(3))})}), "the request is malformed: header"),
    ],
)
def test_a_malformed_message_is_refused_before_the_node_hears_of_it(
    site: SuperNode, records: RecordDict, told: str
) -> None:
    node = FakeNode()
    with relaying(site.address, node):
        site.put("train.prepare", records)
        reply = reply_from_records(site.reply().content, Due())
    assert (reply.error, reply.message) == ("ProtocolError", told)
    assert not node.asked


def test_bytes_that_flower_cannot_unpack_are_refused_and_the_next_message_is_answered(site: SuperNode) -> None:
    node = FakeNode()
    with relaying(site.address, node):
        site.put("query.hello", header(), spoil=True)
        reply = site.reply()
        assert (reply.error.code, reply.error.reason) == (2, "the message is malformed: Flower cannot unpack it")
        assert not node.asked
        site.put("query.hello", header())
        assert reply_from_records(site.reply().content, Due(body=1)).body == b"x"


def test_a_message_whose_run_has_ended_is_given_up_and_the_next_is_answered(
    site: SuperNode, caplog: pytest.LogCaptureFixture
) -> None:
    """Its parts never come; and no reply is left over, which Flower would send in the next one's place."""
    node, left = FakeNode(), site.unfinished()
    with relaying(site.address, node), caplog.at_level(logging.WARNING, "undertone.relay"):
        site.put("train.prepare", request_to_records(Request("prepare", PROTOCOL, state=np.zeros(9))), absent=True)
        time.sleep(1.5)
        asked = site.put("query.hello", header())
        reply = site.reply()
        assert reply.metadata.reply_to_message_id == asked
    assert "a message is lost: ObjectPullError" in caplog.text
    assert [request.kind for request, _ in node.asked] == ["hello"]
    assert site.unfinished() == left


def test_a_message_whose_parts_are_long_on_their_way_is_answered(site: SuperNode) -> None:
    node = FakeNode()
    with relaying(site.address, node):
        site.put("query.hello", header(), absent=True)
        time.sleep(3.0)
        assert not node.asked
        site.bring()
        assert reply_from_records(site.reply().content, Due(body=1)).body == b"x"


def test_a_foreign_apps_message_is_refused_and_its_app_is_never_unpacked() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as fab:
        fab.writestr("foreign/client_app.py", "raise SystemExit('a foreign app runs')")
    node = FakeNode()
    with supernode(fab=packed.getvalue()) as site, relaying(site.address, node) as thread:
        for message_type in ("train", "query.steal_images", "evaluate"):
            site.put(message_type, RecordDict({"config": ConfigRecord({"x": 1})}))
            assert site.reply().error.reason == "this site answers Undertone alone"
        assert thread.is_alive()
    assert not node.asked


def test_without_the_secret_no_task_is_given(site: SuperNode) -> None:
    api = RuntimeApi(site.address, b"another secret")
    with pytest.raises(NotApproved, match="does not take this relay's secret: give both the same file"):
        api.check_secret()
    site.put("query.hello", header())
    with pytest.raises(SuperNodeAway, match="401"), api.task():
        pass
    with relaying(site.address, FakeNode()):
        site.reply()


def test_a_supernode_that_gives_tasks_to_anyone_is_refused() -> None:
    node = FakeNode()
    with supernode(secret=None) as open_:
        open_.put("query.hello", header())
        stop = threading.Event()
        threading.Timer(20, stop.set).start()
        with pytest.raises(NotApproved, match="gives tasks to whoever asks: start it with --isolation process"):
            run_relay(open_.address, SECRET, node, stop)
    assert not node.asked


@pytest.mark.parametrize("address", ["10.0.0.1:9094", "hospital.example:9094", "127.0.0.1", "127.0.0.1:", "0.0.0.0:1"])
def test_the_runtime_api_is_asked_on_this_machine_alone(address: str) -> None:
    with pytest.raises(InputError, match=r"is not 127\.0\.0\.1:PORT"):
        run_relay(address, SECRET, FakeNode(), threading.Event())


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    site: SuperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    monkeypatch.setenv("no_proxy", "intranet.example")
    with relaying(site.address, FakeNode()):
        site.put("query.hello", header())
        site.reply()


def test_a_supernode_that_comes_late_or_again_is_found(caplog: pytest.LogCaptureFixture) -> None:
    with supernode() as first:
        address = first.address
    node = FakeNode()
    with caplog.at_level(logging.INFO, "undertone.relay"), relaying(address, node):
        time.sleep(1.2)
        again = SuperNode()
        again.server.config.port = int(address.rpartition(":")[2])
        thread = threading.Thread(target=again.server.run, daemon=True)
        thread.start()
        try:
            again.put("query.hello", header())
            again.reply(30)
        finally:
            again.server.should_exit = True
            thread.join(timeout=10)
    assert caplog.text.count("no SuperNode yet") <= 2  # not a line for each try


def test_a_long_answer_is_kept_alive(site: SuperNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are sent while the node thinks, and none once the answer is there."""
    beats: list[float] = []
    monkeypatch.setattr(
        "undertone_client.relay.runtime_api.RuntimeHttpClient.SendTaskHeartbeat",
        lambda *_: beats.append(time.monotonic()),
    )
    monkeypatch.setattr("flwr.supercore.heartbeat.HEARTBEAT_DEFAULT_INTERVAL", 5.2)

    def slow(request: Request) -> Reply:
        time.sleep(1.0)
        return Reply("north", PROTOCOL, body=request.body)

    with relaying(site.address, FakeNode(slow)):
        site.put("query.hello", header())
        site.reply()
        count = len(beats)
        time.sleep(0.6)
    assert count >= 3
    assert len(beats) == count


def test_each_kind_has_a_deadline() -> None:
    assert set(DEADLINES) == set(MESSAGE_TYPES)
    assert set(answering._KINDS.values()) == set(MESSAGE_TYPES)


def test_it_says_whether_a_supernode_takes_it(site: SuperNode) -> None:
    (nobody,) = free_ports(1)
    for address, first in ((f"127.0.0.1:{nobody}", False), (site.address, True)):
        said: list[bool] = []
        stop = threading.Event()
        arguments = (address, SECRET, FakeNode(), stop, said.append)
        thread = threading.Thread(target=run_relay, args=arguments, daemon=True)
        thread.start()
        try:
            assert eventually(lambda said=said: bool(said), 20)
            assert said[0] is first
        finally:
            stop.set()
            thread.join(timeout=30)
        assert not thread.is_alive()
