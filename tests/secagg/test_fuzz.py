"""Changed messages against both state machines: only named errors, and no changed message is accepted.

A coordinator may show a site another true statement (fewer keys, a smaller list). A node cannot know better at
once; then the next honest message must end in a refusal, before anything is revealed.
"""

import copy
import itertools
import random
from collections import Counter

import numpy as np
import pytest

from tests.support.secagg import KeptLists, Run, World, identity, session, vector, world
from undertone import errors
from undertone.core.federation import read_federation, sign_federation
from undertone.errors import LedgerCorrupt, NotApproved, NotVerified, ProtocolError, TooFewSites, UnfaithfulCoordinator
from undertone.secagg.node import ConsistencyChecked, InputMasked, KeysAdvertised, KeysShared, restore
from undertone.secagg.parameters import Parameters, agree
from undertone.secagg.server import ServerSession
from undertone.secagg.transcript import check_transcript

NODE, SITES = "site-000", 4
NAMED = tuple(
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.Refused) and kind is not errors.Refused
)


class Recording:
    """One honest session of four sites (t = 3): what NODE receives and sends at each step, and both parties before."""

    def __init__(self) -> None:
        self.scene: World = world(SITES, 5)
        run, server = Run(self.scene), ServerSession(self.scene.params, self.scene.federation)
        self.servers: dict[str, ServerSession] = {"advertise_keys": snapshot(server)}
        self.stored: dict[str, bytes] = {}
        self.messages: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}

        def keep(step: str, message: bytes) -> None:
            self.stored[step] = run.states[NODE].to_bytes()
            self.messages[step] = message

        advertised = run.advertise_keys()
        self.sent["advertise_keys"] = advertised[NODE]
        keep("share_keys", server.advertise_keys(advertised))
        self.servers["share_keys"] = snapshot(server)
        sealed = run.share_keys(self.messages["share_keys"], self.scene.roster)
        self.sent["share_keys"] = sealed[NODE]
        inboxes = server.share_keys(sealed)
        keep("masked_input", inboxes[NODE])
        self.servers["masked_input"] = snapshot(server)
        for site in self.scene.roster:
            self.masked = run.masked_input(site, inboxes[site])
            assert server.add_masked_input(site, *self.masked)
            if site == NODE:
                self.words, self.sent["masked_input"] = self.masked
        keep("consistency_check", server.end_masked_input())
        self.servers["consistency_check"] = snapshot(server)
        signed = run.consistency_check(self.messages["consistency_check"], self.scene.roster)
        self.sent["consistency_check"] = signed[NODE]
        # Exactly t signatures: one fewer is refused, so none can be left out unseen.
        keep("unmasking", server.consistency_check({site: signed[site] for site in self.scene.roster[:3]}))
        self.servers["unmasking"] = snapshot(server)
        self.sent["unmasking"] = run.unmasking(self.messages["unmasking"], self.scene.roster[:3])[NODE]


def snapshot(server: ServerSession) -> ServerSession:
    """A server to try one message on: its own dictionaries, shared messages."""
    other = copy.copy(server)
    for name, value in vars(server).items():
        if isinstance(value, dict | list):
            setattr(other, name, value.copy())
    return other


STEPS = {
    "share_keys": KeysAdvertised,
    "masked_input": KeysShared,
    "consistency_check": InputMasked,
    "unmasking": ConsistencyChecked,
}
AFTER = {"share_keys": "masked_input", "masked_input": "consistency_check", "consistency_check": "unmasking"}
ANSWERED = ("advertise_keys", "share_keys", "consistency_check", "unmasking")  # a message alone, without a vector


class Fuzzer:
    """Feeds changed messages and counts how they ended."""

    def __init__(self, recording: Recording, seed: int) -> None:
        self.recording = recording
        self.random = random.Random(seed)
        self.ends: Counter[str] = Counter()
        self.words = vector(recording.scene, NODE)
        federation = recording.scene.federation
        self.federation = federation.to_bytes(), sign_federation(federation, identity("coordinator"))
        self.transcript = session(recording.scene).opened.transcript
        self.targets = {
            **{f"node {step}": (lambda m, step=step: self.node(step, m), recording.messages[step]) for step in STEPS},
            **{
                f"server {step}": (lambda m, step=step: self.server(step, m), recording.sent[step]) for step in ANSWERED
            },
            "server masked_input": (self.masked_input, recording.sent["masked_input"]),
            "parameters": (self.parameters, recording.scene.params.to_bytes()),
            "federation": (self.manifest, self.federation[0]),
            "transcript": (self.log, self.transcript),
            **{f"state {step}": (lambda m, step=step: self.state(step, m), recording.stored[step]) for step in STEPS},
        }
        self.corpus = [original for _, original in self.targets.values()]

    def run(self, count: int) -> Counter[str]:
        """Feed `count` messages, each of them truly changed, to all targets in turn."""
        names, fed = itertools.cycle(sorted(self.targets)), 0
        while fed < count:
            name = next(names)
            feed, original = self.targets[name]
            message = self.mutate(original)
            if message != original:
                self.ends[f"{name}: {feed(message)}"] += 1
                fed += 1
        return self.ends

    def node(self, step: str, message: bytes) -> str:
        try:
            state = self.step(step, self.stored(step, self.recording.stored[step]), message)
        except NAMED as refusal:
            return type(refusal).__name__
        # Another true statement. The next honest message must show it.
        assert step in AFTER, f"a changed message was accepted at {step}"
        with pytest.raises(UnfaithfulCoordinator):
            self.step(AFTER[step], state, self.recording.messages[AFTER[step]])
        return "shown by the next message"

    def stored(self, step: str, data: bytes) -> object:
        scene = self.recording.scene
        return STEPS[step].from_bytes(data, scene.params, NODE, scene.identities[NODE], scene.federation)

    def step(self, step: str, state: object, message: bytes) -> object:
        more = {"masked_input": (self.words.copy(),), "consistency_check": (KeptLists(),)}
        arguments = (message, *more.get(step, ()))
        return getattr(state, step)(*arguments)[0]

    def server(self, step: str, message: bytes) -> str:
        server = snapshot(self.recording.servers[step])
        with pytest.raises(TooFewSites):
            getattr(server, step)({NODE: message})
        assert not server.dropped[NODE].startswith("no "), server.dropped
        return "dropped"

    def masked_input(self, message: bytes) -> str:
        server = snapshot(self.recording.servers["masked_input"])
        assert not server.add_masked_input(NODE, self.recording.words, message)
        assert server.dropped[NODE]
        return "dropped"

    def parameters(self, message: bytes) -> str:
        own = self.recording.scene.params
        with pytest.raises((ProtocolError, UnfaithfulCoordinator)) as refusal:
            agree(message, own)
        return refusal.type.__name__

    def manifest(self, message: bytes) -> str:
        digest = self.recording.scene.federation.digest
        with pytest.raises(NotApproved):
            read_federation(message, self.federation[1], digest)
        return "NotApproved"

    def log(self, message: bytes) -> str:
        # A consistency signature or a revealing site more is another true statement: none is missing that counts.
        try:
            checked = check_transcript(message, self.recording.scene.federation)
        except NotVerified:
            return "NotVerified"
        assert checked == check_transcript(self.transcript, self.recording.scene.federation)
        return "the same session"

    def state(self, step: str, data: bytes) -> str:
        scene = self.recording.scene
        number = STEPS[step].STEP
        with pytest.raises((LedgerCorrupt, errors.ReplayedAttempt)) as refusal:
            restore(data, number, scene.params, NODE, scene.identities[NODE], scene.federation)
        return refusal.type.__name__

    def mutate(self, original: bytes) -> bytes:
        message = original
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            message = self.random.choice(MUTATIONS)(self, message)
        return message


def flip(f: Fuzzer, m: bytes) -> bytes:
    return put(m, f.random.randrange(len(m) or 1), lambda b: b ^ (1 << f.random.randrange(8)))


def byte(f: Fuzzer, m: bytes) -> bytes:
    return put(m, f.random.randrange(len(m) or 1), lambda b: f.random.choice((0, 1, 127, 128, 255, b + 1 & 255)))


def put(m: bytes, at: int, change) -> bytes:
    return m[:at] + bytes((change(m[at]),)) + m[at + 1 :] if m else m


def count(f: Fuzzer, m: bytes) -> bytes:
    at = f.random.choice((34, 36, 68, f.random.randrange(len(m) + 1)))
    return m[:at] + f.random.choice((0, 1, 2, 3, 4, 5, 255, 65535)).to_bytes(2, "big") + m[at + 2 :]


def cut(f: Fuzzer, m: bytes) -> bytes:
    start, end = sorted(f.random.choices(range(len(m) + 1), k=2))
    return m[:start] + m[end:]


def grow(f: Fuzzer, m: bytes) -> bytes:
    at = f.random.randrange(len(m) + 1)
    return m[:at] + f.random.randbytes(f.random.choice((1, 2, 33, 64))) + m[at:]


def repeat(f: Fuzzer, m: bytes) -> bytes:
    start, end = sorted(f.random.choices(range(len(m) + 1), k=2))
    return m[:end] + m[start:end] + m[end:]


def splice(f: Fuzzer, m: bytes) -> bytes:
    other = f.random.choice(f.corpus)
    at = f.random.randrange(min(len(m), len(other)) + 1)
    return m[:at] + other[at:]


def overwrite(f: Fuzzer, m: bytes) -> bytes:
    size = f.random.choice((2, 32, 33, 64))
    at = f.random.randrange(len(m) + 1)
    return m[:at] + f.random.randbytes(min(size, len(m) - at)) + m[at + size :]


def record(f: Fuzzer, m: bytes) -> bytes:
    """Leave out, repeat or swap whole entries and set the count right: what a clever liar would do."""
    start, size = f.random.choice(((34, 162), (36, 84), (68, 84), (34, 2), (34, 66), (36, 35)))
    number = int.from_bytes(m[start : start + 2], "big")
    end = start + 2 + number * size
    if not 1 <= number <= SITES or end > len(m):
        return m
    entries = [m[at : at + size] for at in range(start + 2, end, size)]
    a, b = f.random.randrange(number), f.random.randrange(number)
    changed = f.random.choice(
        (entries[:a] + entries[a + 1 :], [*entries[:a], entries[b], *entries[a:]], swapped(entries, a, b))
    )
    return m[:start] + len(changed).to_bytes(2, "big") + b"".join(changed) + m[end:]


def swapped(entries: list[bytes], a: int, b: int) -> list[bytes]:
    """Entries a and b change places, their indices stay."""
    changed = list(entries)
    changed[a], changed[b] = entries[a][:2] + entries[b][2:], entries[b][:2] + entries[a][2:]
    return changed


MUTATIONS = (flip, byte, count, cut, grow, repeat, splice, overwrite, record)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording()


def test_the_recording_itself_is_accepted(recording):
    # Else the fuzzer would refuse everything for the wrong reason.
    fuzzer = Fuzzer(recording, 0)
    for step in STEPS:
        fuzzer.step(step, fuzzer.stored(step, recording.stored[step]), recording.messages[step])
        assert isinstance(fuzzer.stored(step, recording.stored[step]), STEPS[step])
    for step in ANSWERED:
        server = snapshot(recording.servers[step])
        with pytest.raises(TooFewSites):
            getattr(server, step)({NODE: recording.sent[step]})
        assert NODE not in server.dropped
    assert snapshot(recording.servers["masked_input"]).add_masked_input(
        NODE, recording.words, recording.sent["masked_input"]
    )
    agree(recording.scene.params.to_bytes(), recording.scene.params)
    assert Parameters.from_bytes(recording.scene.params.to_bytes()) == recording.scene.params


def check(ends: Counter[str], at_least: int) -> None:
    assert sum(ends.values()) >= at_least
    for target in (
        *(f"node {step}" for step in STEPS),
        *(f"server {step}" for step in ANSWERED),
        "server masked_input",
    ):
        assert sum(number for end, number in ends.items() if end.startswith(target)) > at_least / 40
    for end in (
        "share_keys: UnfaithfulCoordinator",
        "masked_input: shown by the next message",
        "unmasking: TooFewSites",
    ):
        assert ends[f"node {end}"], ends


def test_ten_thousand_changed_messages(recording):
    check(Fuzzer(recording, 5).run(10_000), 10_000)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_million_changed_messages(recording):
    check(Fuzzer(recording, 2).run(1_000_000), 1_000_000)


def test_random_bytes(recording):
    fuzzer = Fuzzer(recording, 3)
    for feed, original in fuzzer.targets.values():
        for size in (0, 1, 2, 33, 34, 36, 68, 100, 1000):
            for head in (b"", original[:34], original[:36]):
                feed(head + fuzzer.random.randbytes(size))


def test_a_vector_that_is_changed_on_its_way(recording):
    for word in range(5):
        for bit in range(32):
            server = snapshot(recording.servers["masked_input"])
            changed = recording.words.copy()
            changed[word] ^= np.uint32(1 << bit)
            assert not server.add_masked_input(NODE, changed, recording.sent["masked_input"])
            assert "not the one" in server.dropped[NODE]
