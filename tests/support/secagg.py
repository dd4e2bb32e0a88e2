"""Secure aggregation in one process: a federation, its honest nodes, and sites that leave at a step."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from tests.support.entropy import InsecureTestEntropy
from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.secagg.messages import Indices
from undertone.secagg.node import (
    ConsistencyChecked,
    InputMasked,
    KeysAdvertised,
    KeysShared,
    Unmasked,
    advertise_keys,
    restore,
)
from undertone.secagg.parameters import Parameters
from undertone.secagg.server import OpenedSum, ServerSession
from undertone.secagg.thresholds import default_colluders, default_threshold

STEPS = ("advertise_keys", "share_keys", "masked_input", "consistency_check", "unmasking")
STATE = hashlib.sha256(b"the public model state").hexdigest()
AnySessionState = KeysAdvertised | KeysShared | InputMasked | ConsistencyChecked | Unmasked


def identity(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


@dataclass(frozen=True)
class World:
    """A federation and the parameters of one session."""

    params: Parameters
    federation: Federation
    identities: Mapping[str, Ed25519PrivateKey]

    @property
    def roster(self) -> tuple[str, ...]:
        return self.params.roster

    def but(self, **changes: object) -> "World":
        return replace(self, params=replace(self.params, **changes))  # type: ignore[arg-type]

    def restore(self, site: str, state: AnySessionState) -> AnySessionState:
        """Through the disk: what is stored is all that a node has."""
        return restore(state.to_bytes(), state.STEP, self.params, site, self.identities[site], self.federation)


def world(sites: int = 5, dimension: int = 7, **changes: object) -> World:
    names = [f"site-{number:03d}" for number in range(sites)]
    identities = {name: identity(name) for name in names}
    federation = Federation(
        "test", public_hex(identity("coordinator")), {name: public_hex(key) for name, key in identities.items()}
    )
    bits = changes.get("wire_bits", 32)
    assert isinstance(bits, int)
    params = Parameters(
        study=hashlib.sha256(b"plan").hexdigest(),
        round=2,
        attempt=1,
        session=1,
        federation=federation.digest,
        roster=tuple(names),
        threshold=default_threshold(sites),
        colluders=default_colluders(sites, default_threshold(sites)),
        min_sites=2,
        dimension=dimension,
        wire_bits=32,
        scale=1 << 14,
        site_clamp=((1 << (bits - 1)) - 1) // sites,
        noise="central",
        rosters="free" if changes.get("noise") == "distributed" else "chain",
        state_sha256=STATE,
        method="dpagg-ti",
    )
    return World(replace(params, **changes), federation, identities)  # type: ignore[arg-type]


@dataclass
class KeptLists:
    """One site's signed lists, in memory."""

    lists: list[Indices] = field(default_factory=list)

    def append(self, survivors: Indices, allowed: Callable[[Indices | None], None]) -> None:
        allowed(self.lists[-1] if self.lists else None)
        self.lists.append(survivors)


@dataclass
class Run:
    """Honest nodes of a world, one message at a time. `sent` keeps each site's last message."""

    world: World
    seed: int = 0
    states: dict[str, AnySessionState] = field(default_factory=dict)
    words: dict[str, NDArray[np.uint32]] = field(default_factory=dict)
    masked: dict[str, NDArray[np.uint32]] = field(default_factory=dict)
    signed: dict[str, KeptLists] = field(default_factory=lambda: defaultdict(KeptLists))

    def advertise_keys(self, absent: Collection[str] = ()) -> dict[str, bytes]:
        sent = {}
        for number, site in enumerate(self.world.roster):
            if site not in absent:
                entropy = InsecureTestEntropy(1000 * self.seed + number)
                self.states[site], sent[site] = advertise_keys(
                    self.world.params, site, self.world.identities[site], self.world.federation, entropy
                )
        return sent

    def share_keys(self, key_list: bytes, sites: Collection[str]) -> dict[str, bytes]:
        return {site: self._step(site, "share_keys", key_list)[-1] for site in sites}

    def masked_input(self, site: str, inbox: bytes) -> tuple[NDArray[np.uint32], bytes]:
        self.words.setdefault(site, vector(self.world, site, self.seed))
        words, proof = self._step(site, "masked_input", inbox, self.words[site].copy())
        self.masked[site] = words
        return words, proof

    def consistency_check(self, lists: bytes, sites: Collection[str]) -> dict[str, bytes]:
        return {site: self._step(site, "consistency_check", lists, self.signed[site])[-1] for site in sites}

    def unmasking(self, signatures: bytes, sites: Collection[str]) -> dict[str, bytes]:
        return {site: self._step(site, "unmasking", signatures)[-1] for site in sites}

    def _step(self, site: str, step: str, *arguments: object) -> tuple[object, ...]:
        state = self.world.restore(site, self.states[site])
        self.states[site], *reply = getattr(state, step)(*arguments)
        return tuple(reply)

    def plain_sum(self, sites: Collection[str]) -> NDArray[np.int64]:
        """The slow truth: the signed words of `sites`, added up as int64."""
        return sum(self.words[site].view(np.int32).astype(np.int64) for site in sites)  # type: ignore[return-value]


def vector(scene: World, site: str, seed: int = 0) -> NDArray[np.uint32]:
    """A site's clamped vector in the ring; both ends of the clamp occur."""
    number, params = scene.roster.index(site), scene.params
    values = np.random.default_rng([seed, number]).integers(-params.site_clamp, params.site_clamp + 1, params.dimension)
    if params.dimension > 2:
        values[:2] = params.site_clamp, -params.site_clamp
    return (values & 0xFFFFFFFF).astype(np.uint32)


@dataclass
class Outcome:
    server: ServerSession
    run: Run
    opened: OpenedSum


def session(scene: World, leave: Mapping[str, str] | None = None, seed: int = 0) -> Outcome:
    """A whole session; `leave` says at which step a site sends nothing any more."""
    gone = {step: set() for step in STEPS}
    for site, at in (leave or {}).items():
        for step in STEPS[STEPS.index(at) :]:
            gone[step].add(site)
    run, server = Run(scene, seed), ServerSession(scene.params, scene.federation)
    key_list = server.advertise_keys(run.advertise_keys(gone["advertise_keys"]))
    inboxes = server.share_keys(run.share_keys(key_list, set(run.states) - gone["share_keys"]))
    for site in sorted(inboxes.keys() - gone["masked_input"], reverse=True):
        assert server.add_masked_input(site, *run.masked_input(site, inboxes[site])), server.dropped
    survivors = set(run.masked)
    signatures = server.consistency_check(
        run.consistency_check(server.end_masked_input(), survivors - gone["consistency_check"])
    )
    opened = server.unmasking(run.unmasking(signatures, survivors - gone["unmasking"]))
    return Outcome(server, run, opened)
