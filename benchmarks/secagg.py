"""Secure aggregation against Flower's SecAgg+ on identical integers, both in one run.

    python benchmarks/secagg.py [--sites 5 10 20] [--dimensions 100000 1000000 10000000] [--repeat 3]

Ours are the state machines of `undertone.secagg`, the peer's are the functions that flwr's own workflow calls. Both
start from integers (the peer's quantiser is passed by), nobody drops, everything runs in one process. Times are the
fastest of some turns that alternate between the two, in processor seconds of the whole process (and wall seconds, which
suffer where the machine is shared). Peak memory is that of a child process that runs one session of one side alone.
"""

import argparse
import contextlib
import copy
import hashlib
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy.typing import NDArray
from report import Row, parser, publish

from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.privacy.entropy import OsEntropy
from undertone.secagg.messages import Indices
from undertone.secagg.node import advertise_keys
from undertone.secagg.parameters import Parameters
from undertone.secagg.prg import add_masks, pack24
from undertone.secagg.server import ServerSession
from undertone.secagg.thresholds import default_colluders, default_threshold

# Its package hides the module behind a function of the same name.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

MODULUS = 1 << 32
VALUES = 1 << 20  # a site's integers lie in [0, VALUES): every sum below fits both sides


@dataclass
class Best:
    """The fastest turn: wall and processor seconds, each by itself."""

    wall: float = float("inf")
    cpu: float = float("inf")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Time a block; keep it if it was the fastest."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall = min(self.wall, time.perf_counter() - wall)
        self.cpu = min(self.cpu, time.process_time() - cpu)


@dataclass
class Side:
    """One side's session, gone through once: its two heavy steps can be timed again and again, and are checked."""

    client: Callable[[Best], None]
    unmasking: Callable[..., None]
    sizes: dict[str, float]


def integers(d: int, site: int) -> NDArray[np.int64]:
    """A site's vector, the same on both sides: [d] int64 in [0, VALUES)."""
    return np.random.default_rng(site).integers(0, VALUES, d, dtype=np.int64)


def raw_rate() -> Best:
    """Seconds for 64 MiB of AES-256-CTR keystream and nothing else, at the kernel's chunk size: the upper bound."""
    chunk, best = 1 << 18, Best()
    zeros, buffer = bytes(chunk), bytearray(chunk + 15)
    for _ in range(5):
        stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
        with best.turn():
            for _ in range(256):
                stream.update_into(zeros, buffer)
    return best


# The mask kernel alone


def kernels(n: int, d: int, repeat: int) -> dict[str, float]:
    """Add n masks (one own, n - 1 of pairs) to integers: ours, Flower's, and the bare keystream.

    Where the vector is short a turn of ours does it several times: a clock that ticks in milliseconds must not decide.
    """
    seeds = [os.urandom(32) for _ in range(n)]
    ours, peer, raw = Best(), Best(), Best()
    often = max(1, 10_000_000 // (n * d))
    for _ in range(repeat):
        words = integers(d, 0).astype(np.uint32)
        with ours.turn():
            for _ in range(often):
                add_masks(words, seeds[: n // 2], seeds[n // 2 :])
        measured = raw_rate()
        raw = Best(min(raw.wall, measured.wall), min(raw.cpu, measured.cpu))
        vector = [integers(d, 0)]
        with peer.turn():
            for number, seed in enumerate(seeds):
                mask = pseudo_rand_gen(seed, MODULUS, [(d,)])
                combine = parameters_addition if number < n // 2 else parameters_subtraction
                vector = combine(vector, mask)
            vector = parameters_mod(vector, MODULUS)
    ideal = 4 * n * d / (256 << 18)
    return {
        "kernel": ours.cpu / often,
        "kernel_wall": ours.wall / often,
        "peer_kernel": peer.cpu,
        "peer_kernel_wall": peer.wall,
        "raw": raw.cpu * ideal,
        "raw_wall": raw.wall * ideal,
    }


# A whole session of ours


class FirstList:
    """The lists of a site that has signed none; what the ledger takes to keep one is not measured here."""

    def append(self, _survivors: Indices, allowed: Callable[[Indices | None], None]) -> None:
        """Ask, and keep nothing."""
        allowed(None)


def build(n: int, d: int) -> tuple[Parameters, Federation, dict[str, Ed25519PrivateKey]]:
    """Parameters with the default threshold, and keys."""
    names = tuple(f"site-{number:03d}" for number in range(n))
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    coordinator = Ed25519PrivateKey.generate()
    federation = Federation("bench", public_hex(coordinator), {name: public_hex(key) for name, key in keys.items()})
    digest = hashlib.sha256(b"").hexdigest()
    parameters = Parameters(
        study=digest, round=1, attempt=1, session=1, federation=federation.digest, roster=names,
        threshold=default_threshold(n), colluders=default_colluders(n, default_threshold(n)), min_sites=2,
        dimension=d, wire_bits=32,
        scale=1 << 14, site_clamp=VALUES, noise="central", rosters="chain", state_sha256=digest, method="bench",
    )  # fmt: skip
    return parameters, federation, keys


def session_of_ours(n: int, d: int) -> Side:
    """One session of ours."""
    parameters, federation, keys = build(n, d)
    server = ServerSession(parameters, federation)
    opened = {site: advertise_keys(parameters, site, key, federation, OsEntropy()) for site, key in keys.items()}
    key_list = server.advertise_keys({site: advertised for site, (_, advertised) in opened.items()})
    dealt = {site: state.share_keys(key_list) for site, (state, _) in opened.items()}
    inboxes = server.share_keys({site: message for site, (_, message) in dealt.items()})
    first = parameters.roster[0]
    fresh, masked, total = copy.copy(dealt[first][0]), {}, np.zeros(d, np.uint32)
    for number, (site, (state, _)) in enumerate(dealt.items()):
        words = integers(d, number).astype(np.uint32)
        total += words
        masked[site], words, proof = state.masked_input(inboxes[site], words)
        size = words.nbytes + len(proof)
        if not server.add_masked_input(site, words, proof):
            raise SystemExit(f"{site} was dropped: {server.dropped[site]}")
    lists = server.end_masked_input()
    checked = {site: state.consistency_check(lists, FirstList()) for site, state in masked.items()}
    signature_list = server.consistency_check({site: message for site, (_, message) in checked.items()})
    shares = {site: state.unmasking(signature_list)[1] for site, (state, _) in checked.items()}

    def client(best: Best) -> None:
        state, vector = copy.copy(fresh), integers(d, 0).astype(np.uint32)
        with best.turn():
            masked_vector = state.masked_input(inboxes[first], vector)[1]
            masked_vector.tobytes()

    def unmasking(best: Best, last: bool = False) -> None:
        # The server opens once: every turn but the last has a server of its own.
        closed = server if last else copy.deepcopy(server, {id(federation): federation})
        with best.turn():
            result = closed.unmasking(shares)
        if not np.array_equal(result.words, total):
            raise SystemExit("the opened sum is not the plain sum")

    return Side(client, unmasking, {"bytes": float(size), "bytes24": float(size - 4 * d + pack24(words).nbytes)})


# A whole session of Flower's SecAgg+


def session_of_peer(n: int, d: int) -> Side:
    """The same through flwr's `_setup`, `_share_keys`, `_collect_masked_vectors`, `_unmask` and its server's loops."""
    threshold = default_threshold(n)
    configs = {
        Key.SAMPLE_NUMBER: n, Key.SHARE_NUMBER: n, Key.THRESHOLD: threshold, Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 1 << 20, Key.MOD_RANGE: MODULUS, Key.MAX_WEIGHT: 1.0,
    }  # fmt: skip
    states = {nid: mod.SecAggPlusState(nid=nid) for nid in range(1, n + 1)}
    publics = {}
    for nid, state in states.items():
        reply = mod._setup(state, configs)
        publics[nid] = (reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2])
    sources: dict[int, list[int]] = {nid: [] for nid in states}
    boxes: dict[int, list[bytes]] = {nid: [] for nid in states}
    for nid, state in states.items():
        reply = mod._share_keys(state, {str(other): keys for other, keys in publics.items()})
        for to, box in zip(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True):
            sources[to].append(nid)
            boxes[to].append(box)
    inboxes = {nid: {Key.CIPHERTEXT_LIST: boxes[nid], Key.SOURCE_LIST: sources[nid]} for nid in states}
    total, summed = np.zeros(d, np.int64), [np.zeros(1, np.int64), np.zeros(d, np.int64)]
    for nid, state in states.items():
        vector = integers(d, nid - 1)
        total += vector
        with quantised(vector):
            sent = mod._collect_masked_vectors(state, inboxes[nid], 1, _EMPTY)[Key.MASKED_PARAMETERS]
        summed = parameters_addition(summed, [bytes_to_ndarray(part) for part in sent])
    summed = parameters_mod(summed, MODULUS)
    everyone = {Key.ACTIVE_NODE_ID_LIST: list(states), Key.DEAD_NODE_ID_LIST: []}
    collected: dict[int, list[bytes]] = {nid: [] for nid in states}
    for state in states.values():
        reply = mod._unmask(state, everyone)
        for nid, share in zip(reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST], strict=True):
            collected[nid].append(share)

    def client(best: Best) -> None:
        with quantised(integers(d, 0)), best.turn():
            mod._collect_masked_vectors(states[1], inboxes[1], 1, _EMPTY)

    def unmasking(best: Best, last: bool = False) -> None:
        del last
        vector = summed
        with best.turn():
            # secaggplus_workflow.py, unmask_stage: nobody is dead here.
            for shares in collected.values():
                mask = pseudo_rand_gen(combine_shares(shares), MODULUS, get_parameters_shape(vector))
                vector = parameters_subtraction(vector, mask)
            vector = parameters_mod(vector, MODULUS)
        if not np.array_equal(vector[1], total):
            raise SystemExit("Flower's sum is not the plain sum")

    return Side(client, unmasking, {"bytes": float(sum(map(len, sent)))})


_EMPTY = ndarrays_to_parameters([np.zeros(1)])


@contextlib.contextmanager
def quantised(vector: NDArray[np.int64]) -> Iterator[None]:
    """Flower's client step on integers: its quantiser, the slower part, answers at once."""
    original = mod.quantize
    mod.quantize = lambda *_: [vector]
    try:
        yield
    finally:
        mod.quantize = original


# Cases, each in a process of its own


def measure(side: str, n: int, d: int, repeat: int) -> dict[str, float]:
    """One case. `both` alternates and gives times; `ours` and `peer` run one session alone and give its peak memory."""
    sessions = {"ours": session_of_ours, "peer": session_of_peer}
    if side != "both":
        sessions[side](n, d).unmasking(Best(), last=True)
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    found = kernels(n, d, repeat)
    made = {name: session(n, d) for name, session in sessions.items()}
    best = {name: (Best(), Best()) for name in made}
    for _ in range(repeat):
        for name, one in made.items():
            one.client(best[name][0])
        for name, one in made.items():
            one.unmasking(best[name][1])
    for name, (client, unmask) in best.items():
        found |= {f"{name}_{key}": value for key, value in made[name].sizes.items()}
        found |= {f"{name}_client": client.cpu, f"{name}_client_wall": client.wall}
        found |= {f"{name}_unmask": unmask.cpu, f"{name}_unmask_wall": unmask.wall}
    return found


def in_a_child(side: str, n: int, d: int, repeat: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--case", side, str(n), str(d), str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def rows_of(n: int, d: int, repeat: int) -> list[Row]:
    """All rows of one case."""
    found = in_a_child("both", n, d, repeat)
    case, flower = f"n = {n}, d = {d:.0e}", "Flower SecAgg+"
    rows = [
        Row(case, "mask kernel, CPU s", found["kernel"], found["peer_kernel"], flower),
        Row(case, "mask kernel, wall s", found["kernel_wall"], found["peer_kernel_wall"], flower),
        Row(case, "kernel, CPU s", found["kernel"], found["raw"], "AES-CTR keystream alone"),
        Row(case, "client step, CPU s", found["ours_client"], found["peer_client"], flower),
        Row(case, "client step, wall s", found["ours_client_wall"], found["peer_client_wall"], flower),
        Row(case, "server unmask, CPU s", found["ours_unmask"], found["peer_unmask"], flower),
        Row(case, "server unmask, wall s", found["ours_unmask_wall"], found["peer_unmask_wall"], flower),
        Row(case, "vector bytes per element", found["ours_bytes"] / d, found["peer_bytes"] / d, flower),
        Row(case, "the same, 24-bit wire", found["ours_bytes24"] / d, found["peer_bytes"] / d, flower),
    ]
    peaks = [in_a_child(side, n, d, 1)["peak_mib"] for side in ("ours", "peer")]
    return [*rows, Row(case, "peak memory, MiB", *peaks, flower)]


def rows_of_many(n: int, d: int) -> list[Row]:
    """Ours alone, with the bare keystream of its masks as the only peer."""
    raw, best, made = raw_rate(), (Best(), Best()), session_of_ours(n, d)
    for _ in range(5):
        made.client(best[0])
        made.unmasking(best[1])
    ideal, case = raw.cpu * 4 * n * d / (256 << 18), f"n = {n}, d = {d:.0e}, ours alone"
    return [
        Row(case, "client step, CPU s", best[0].cpu, ideal, "AES-CTR keystream alone"),
        Row(case, "server unmask, CPU s", best[1].cpu, ideal, "AES-CTR keystream alone"),
        Row(case, "peak memory, MiB", in_a_child("ours", n, d, 1)["peak_mib"], 4 * d / 2**20, "one vector"),
    ]


def main() -> None:
    """Run each case, tabulate. Ratios below 1 are in our favour."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--sites", type=int, nargs="+", default=[5, 10, 20])
    arguments.add_argument("--dimensions", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    arguments.add_argument("--repeat", type=int, default=3, help="turns at the largest d; more at smaller ones")
    arguments.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.case:
        side, *numbers = chosen.case
        print(json.dumps(measure(side, *map(int, numbers))))
        return
    rows: list[Row] = []
    for d in chosen.dimensions:
        repeat = chosen.repeat * (3 if d <= 1_000_000 else 1)
        for n in chosen.sites:
            rows += rows_of(n, d, repeat)
            print(f"done: n = {n}, d = {d}", file=sys.stderr, flush=True)
    rows += rows_of_many(100, 100_000)
    load = os.getloadavg()[1]
    publish(f"secure aggregation against Flower's SecAgg+; load average {load:.1f}", rows, chosen.json)


if __name__ == "__main__":
    main()
