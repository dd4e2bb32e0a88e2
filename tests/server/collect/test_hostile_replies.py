"""One of five sites answers whatever it likes: no reply ends a round, changes a sum, or reaches a person as it is.

Seeded: each failure can be made again by its number.
"""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from tests.support.entropy import InsecureTestEntropy
from tests.support.hostile import FIRST, HostileGrid, Hostility, MemorySite
from tests.support.lines import Lines
from tests.support.world import START, World, identify, secure
from undertone.core.progress import reporting
from undertone.core.text import REASON, is_shown
from undertone.errors import TooFewSites
from undertone.models.layout import state_sha256
from undertone.privacy.ledger import Ledger
from undertone.secagg.server import ServerSession
from undertone.secagg.transcript import check_transcript
from undertone.study.session_parameters import session_parameters
from undertone.wire.flower import MESSAGE_TYPES, reply_to_records
from undertone.wire.messages import Kind, Request, is_ledger_head
from undertone_client.site.folder import SiteDir
from undertone_server.collect.attempt import Attempt
from undertone_server.collect.deadlines import Deadlines
from undertone_server.collect.due import reply_due
from undertone_server.collect.gathering import BRIEF
from undertone_server.collect.secure_round import _words, collect
from undertone_server.collect.sites import Sites
from undertone_server.collect.waiting import Waiting

Make = Callable[..., World]
NAMES, HOSTILE = tuple("abcde"), "e"
BULK = [10_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(7200)])]
IMPATIENT = Waiting(seconds=0.0)  # who says "not ready" may say so for a day
ROUNDS = [250, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(7200)])]
STEPS: dict[Kind, str] = {"prepare": "advertise_keys"}  # elsewhere the server's step is called as the kind is


@pytest.fixture(params=[32, 24])
def world(make_world: Make, request: Any) -> World:
    identify()
    return make_world(
        dict.fromkeys(NAMES, 4),
        aggregation=secure(5, rosters="free"),
        sampling_rate=0.9,
        max_attempts=10_000,
        sigma=1 << 17,
        wire_bits=request.param,
    )


def memory_sites(world: World) -> dict[int, MemorySite]:
    clamp, federation = world.plan.grid.site_clamp, world.run.federation()
    return {
        FIRST + number: MemorySite(
            name,
            SiteDir(world.sites[name]).identity(),
            federation,
            np.random.default_rng(number).integers(-clamp, clamp + 1, START.size),
            number,
        )
        for number, name in enumerate(NAMES)
    }


# --- one reply at a time --------------------------------------------------------------------------


class Recording:
    """An honest session: the hostile site's own reply to each kind, and the coordinator before it came."""

    def __init__(self, world: World) -> None:
        self.sites = memory_sites(world)
        federation = world.run.federation()
        params = session_parameters(world.plan, federation.digest, 1, 1, 1, state_sha256(START))
        self.server = ServerSession(params, federation)
        self.before: dict[Kind, ServerSession] = {}
        self.replies: dict[Kind, RecordDict] = {}
        self.others: list[RecordDict] = []
        shown = self.server.advertise_keys(self.asked("prepare", params.to_bytes()))
        inboxes = self.server.share_keys(self.asked("share_keys", shown))
        self.before["masked_input"] = snapshot(self.server)
        for site in self.sites.values():
            reply = site.answer(Request("masked_input", 1, body=inboxes[site.name]))
            self.keep("masked_input", site, reply)
            assert self.server.add_masked_input(site.name, _words(reply.words).copy(), reply.body)
        signed = self.server.consistency_check(self.asked("consistency_check", self.server.end_masked_input()))
        self.server.unmasking(self.asked("unmasking", signed))

    def asked(self, kind: Kind, body: bytes) -> dict[str, bytes]:
        self.before[kind] = snapshot(self.server)
        replies = {site.name: site.answer(Request(kind, 1, body=body)) for site in self.sites.values()}
        for site in self.sites.values():
            self.keep(kind, site, replies[site.name])
        return {name: reply.body for name, reply in replies.items()}

    def keep(self, kind: Kind, site: MemorySite, reply: Any) -> None:
        if site.name == HOSTILE:
            self.replies[kind] = reply_to_records(reply)
        else:
            self.others.append(reply_to_records(reply))


def snapshot(server: ServerSession) -> ServerSession:
    other = copy.copy(server)
    for name, value in vars(server).items():
        if isinstance(value, dict | list | np.ndarray):
            setattr(other, name, value.copy())
    return other


@pytest.mark.parametrize("amount", BULK)
def test_no_reply_raises_or_is_taken_for_another(world: World, amount: int) -> None:
    """What is not bit-identical to the honest reply drops the site, with a reason that may be printed."""
    recording, ends = Recording(world), Counter[str]()
    hostility = Hostility(world.plan.grid.modulus_bits)
    hostility.names = [*NAMES]
    node = FIRST + NAMES.index(HOSTILE)
    grid: Any = HostileGrid({node: recording.sites[node]})
    heads: dict[str, str] = {}
    sites = Sites(grid, NAMES, world.run.federation(), Deadlines.equal(0.0), heads)
    kinds = sorted(recording.replies)
    grid.sites[node].answer = lambda request: honest[0]  # type: ignore[method-assign]
    honest: list[Any] = [None]
    for number in range(amount // 2):  # twice: two widths of the wire
        kind = kinds[number % len(kinds)]
        hostility.earlier = [recording.replies[kind], *recording.replies.values(), *recording.others]
        records = recording.replies[kind]
        grid.changes[node] = lambda message, _, records=records: hostility.change(message, records)
        sites._nodes[HOSTILE] = node
        sites.missing.pop(HOSTILE, None)
        answered = dict(sites.ask({HOSTILE: Request(kind, 1)}, reply_due(world.plan, kind, 1)))
        for site, reply in answered.items():
            assert site == HOSTILE
            _take(recording, kind, reply, sites)
        if HOSTILE in sites.present:
            ends[f"{kind}: as it was"] += 1
        else:
            ends[f"{kind}: dropped"] += 1
            assert is_shown(sites.missing[HOSTILE], REASON), (number, sites.missing[HOSTILE])
        assert all(is_ledger_head(head) for head in heads.values())
        assert heads.keys() <= {HOSTILE}
    for kind in kinds:
        assert ends[f"{kind}: dropped"] > 0.6 * amount / 2 / len(kinds), ends


def _take(recording: Recording, kind: Kind, reply: Any, sites: Sites) -> None:
    """The coordinator's step with this one reply: nothing but the honest content is accepted."""
    server = snapshot(recording.before[kind])
    original: Any = recording.replies[kind]
    if kind == "masked_input":
        taken = server.add_masked_input(HOSTILE, _words(reply.words), reply.body)
        same = reply.body == original["header"]["body"] and reply.words is not None
        same = same and reply.words.tobytes() == original["words"]["y"].numpy().tobytes()
    else:
        with pytest.raises(TooFewSites):  # the others' messages are not shown
            getattr(server, STEPS.get(kind, kind))({HOSTILE: reply.body})
        taken, same = HOSTILE not in server.dropped, reply.body == original["header"]["body"]
    assert taken == same, (kind, server.dropped)
    if not taken:
        sites.drop(HOSTILE, server.dropped[HOSTILE])


# --- whole rounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", ROUNDS)
def test_the_other_sites_finish_every_round(world: World, amount: int) -> None:
    hostility, grid = Hostility(7), HostileGrid(memory_sites(world))
    hostility.names = [*NAMES]
    node, federation = FIRST + NAMES.index(HOSTILE), world.run.federation()
    values = {site.name: site.values for site in grid.sites.values()}
    said, lists, engine = Lines(), Counter[tuple[str, ...]](), InsecureTestEntropy(1)
    with Ledger.open(world.run.ledger) as ledger, reporting(said):
        for attempt in range(1, amount // 2 + 1):
            moment = engine.bits(8) % 9  # at this question alone, or at all of them
            for site in grid.sites.values():
                site.state = None
            asked = {kind: number for number, kind in enumerate(MESSAGE_TYPES.values())}

            def change(message: Any, records: RecordDict, moment: int = moment, asked: Any = asked) -> Any:
                if moment in (8, asked[message.metadata.message_type]):
                    return hostility.change(message, records)
                hostility.earlier = [*hostility.earlier[-40:], records]
                return records

            grid.changes = {node: change}
            sites = Sites(grid, NAMES, federation, Deadlines.equal(0.0))  # type: ignore[arg-type]
            sites.find()
            opened = collect(
                Attempt(world.plan, ledger, world.run, 1, attempt, sites, START, IMPATIENT), federation, BRIEF
            )
            assert set(opened.sites) >= set(NAMES) - {HOSTILE}
            np.testing.assert_array_equal(opened.values, sum(values[site] for site in opened.sites))
            lists[opened.sites] += 1
            assert all(is_shown(reason, REASON) for reason in sites.missing.values())
            assert set(sites.missing) <= {HOSTILE}
            transcript = (world.round_folder() / f"transcript-{attempt:03d}.json").read_bytes()
            assert check_transcript(transcript, federation).sites == opened.sites
    assert min(lists.values()) > amount / 2 / 10, lists
    assert len(lists) == 2


# --- whole runs, and going on -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_run_goes_on_whatever_was_sent(make_world: Make, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Real nodes, real folders: three rounds with the hostile site, then every later process without and with it."""
    import undertone_client.app as relay

    free = secure(5, rosters="free")  # in a chain a site that was on a list ends the study by its silence alone
    world = make_world(dict.fromkeys(NAMES, 4), aggregation=free, rounds=3, max_attempts=4, sampling_rate=0.9)
    hostility, write = Hostility(seed), relay.reply_to_records
    hostility.names = [*NAMES]
    with monkeypatch.context() as patch:
        patch.setattr(relay, "reply_to_records", lambda reply: spoiled(hostility, write, reply))
        final = world.run_rounds()
    monkeypatch.setattr(relay, "reply_to_records", write)
    for absent in ([HOSTILE], []):
        np.testing.assert_array_equal(world.run_rounds(absent=absent), final)
    folder: Path = world.run.checkpoints
    for path in (folder / "ledger-heads").iterdir():
        assert is_ledger_head(path.read_text(encoding="ascii"))
    assert not (folder / "left-out").exists()


def spoiled(hostility: Hostility, write: Any, reply: Any) -> RecordDict:
    records = write(reply)
    if reply.site != HOSTILE or hostility.random.random() < 0.5:
        return records
    for _ in range(100):
        changed = hostility.change(None, records) if hostility.random.random() < 0.9 else hostility.bits(None, records)
        if isinstance(changed, RecordDict):
            return changed
    return records
