"""What reaches a node before the coordinator's signature is known to hold: bounded, not parsed, logged apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from tests.support.dummy import DIMENSION
from tests.support.world import START, World, identify
from undertone import PROTOCOL
from undertone.core.keys import PLAN_DOMAIN, create_key, sign
from undertone.study.plan import Plan
from undertone.wire.flower import reply_from_records
from undertone.wire.messages import LARGEST_PLAN, Due
from undertone.wire.vectors import Packed
from undertone_cli.engines.inprocess import InProcessGrid
from undertone_client.app import app as client_app
from undertone_client.site import folder as site_module
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]
BOMBS = {
    "deep": b"[" * (LARGEST_PLAN - 1),
    "digits": b'{"protocol": ' + b"9" * (LARGEST_PLAN - 20) + b"}",
    "keys": b'{"a":' * (LARGEST_PLAN // 5),
    "no text": b"\xff" * 1000,
}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each plan that was parsed."""
    seen: list[int] = []
    original = Plan.from_bytes

    def watched(data: bytes) -> Plan:
        seen.append(len(data))
        return original(data)

    monkeypatch.setattr(Plan, "from_bytes", watched)
    return seen


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_plan_that_nobody_signed_is_not_parsed(make_world: Make, parsed: list[int], bomb: str) -> None:
    world = make_world()
    parsed.clear()
    assert world.ask("prepare", plan=BOMBS[bomb]).error == "NotApproved"
    other = create_key(world.folder / "other.key")
    signature = sign(other, PLAN_DOMAIN, world.plan.digest)
    assert world.ask("prepare", signature=signature).error == "NotApproved"
    assert parsed == []


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_signed_plan_that_the_site_has_not_approved_is_not_parsed_either(
    make_world: Make, parsed: list[int], bomb: str
) -> None:
    from undertone.core.canonical import sha256_hex

    world = make_world()
    parsed.clear()
    signature = sign(world.run.key(), PLAN_DOMAIN, sha256_hex(BOMBS[bomb]))
    assert world.ask("prepare", plan=BOMBS[bomb], signature=signature).error == "NotApproved"
    assert parsed == []
    assert world.ask("prepare").error == ""
    assert len(parsed) == 1


def test_a_plan_beyond_all_bounds_is_not_even_hashed(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setattr("undertone_client.node.sha256_hex", lambda _: pytest.fail("hashed"))
    reply = world.ask("prepare", plan=bytes(LARGEST_PLAN + 1))
    assert (reply.error, "not read" in reply.message) == ("ProtocolError", True)


def test_the_state_is_read_once_the_signature_holds(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    good = Array(START)
    packed = Packed(good.dtype, tuple(good.shape), good.stype, good.data)
    with monkeypatch.context() as patch:
        patch.setattr(Packed, "read", lambda *_: pytest.fail("read"))
        assert world.ask("prepare", state=packed, signature="ab" * 64).error == "NotApproved"
    assert world.ask("prepare", state=packed).error == ""
    assert world.ask("plain_input", state=packed).error == ""


@pytest.mark.parametrize("length", [0, DIMENSION - 1, DIMENSION + 1, 1_000_000])
def test_a_packed_state_of_another_length_is_refused(make_world: Make, length: int) -> None:
    array = Array(np.zeros(length, dtype=np.float32))
    reply = make_world().ask("prepare", state=Packed(array.dtype, tuple(array.shape), array.stype, array.data))
    assert (reply.error, str(DIMENSION) in reply.message) == ("ProtocolError", True)


# --- logs -----------------------------------------------------------------------------------------


def strangers(world: World, ending: str = "") -> str:
    path = world.sites["north"] / f"strangers.log{ending}"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_what_strangers_are_refused_stands_in_a_log_of_its_own(make_world: Make) -> None:
    world = make_world()
    before = world.log()
    world.ask("prepare", signature="ab" * 64)
    world.ask("hello", protocol=7)
    assert world.log() == before
    first, second = strangers(world).splitlines()
    assert "NotApproved" in first
    assert "protocol 7" in second
    world.ask("prepare", round=9)  # signed: the site's own business
    assert "PlanChanged" in world.log()
    assert len(strangers(world).splitlines()) == 2


def test_a_flood_of_strangers_fills_no_disk_and_pushes_nothing_out(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    monkeypatch.setattr(site_module, "_LARGEST_STRANGERS_LOG", 5000)
    world.node().site.log("zero row: patient-0")
    kept = world.log()
    node = world.node()
    for number in range(300):
        node.handle(world.request(signature="ab" * 64, round=number))
    logs = sorted(path.name for path in world.sites["north"].glob("*.log*"))
    assert logs == ["node.log", "strangers.log", "strangers.log.1"]
    assert len(strangers(world)) + len(strangers(world, ".1")) < 2 * 5000 + 2 * 2100
    assert world.log() == kept


def test_node_log_is_bounded_and_its_newest_lines_stay(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = SiteDir(make_world().sites["north"])
    monkeypatch.setattr(site_module, "_LARGEST_LOG", 5000)
    for number in range(300):
        site.log(f"zero row: patient-{number} " + "x" * 10_000)
    newest = (site.folder / "node.log").read_text(encoding="utf-8")
    assert "patient-299" in newest
    older = (site.folder / "node.log.1").read_text(encoding="utf-8")
    assert len(newest) + len(older) < 2 * 5000 + 2 * 2100
    assert max(map(len, [*newest.splitlines(), *older.splitlines()])) < 2050


def test_what_the_relay_cannot_read_is_logged_in_a_bounded_line(
    make_world: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()

    def crash(*_: Any) -> None:
        raise RuntimeError("\x1b[2J" * 100_000)

    identify()
    grid = InProcessGrid(client_app, {SUPERLINK_NODE_ID + 1: world.sites["north"]})
    for patched in (False, True):
        if patched:
            monkeypatch.setattr("undertone_client.app.Node", crash)
        content = RecordDict({"header": ConfigRecord({"protocol": PROTOCOL, "\x1b[2J" * 1000: 1})})
        message = Message(content, dst_node_id=SUPERLINK_NODE_ID + 1, message_type="train.prepare")
        (reply,) = grid.send_and_receive([message])
        assert reply_from_records(reply.content, Due()).error == "SiteFault"
    lines = [record.getMessage() for record in caplog.records if record.name == "undertone.node"]
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 600 for line in lines)
