"""RUN: a study's folder at the coordinator, and what is durable in it, in which order (PRIVACY 11).

plan.json, plan.sig     the plan and the coordinator's signature over its digest
coordinator.key         the key of that signature (0600), where run.json names no other place: the coordinator's own
federation.json, .sig   the sites' public keys, signed by the coordinator
run.json                facts that are not the plan's: engine, simulation or study
ledger.sqlite           charges
start/                  a copy of the release that the study starts from, where it does; the state that was trained on
                        it, before the first round, is in checkpoints/start
checkpoints/            per round: sessions, attempts asked for, Q until it is noised, V, transcript, public state w;
                        of a method of shards the query that sites are sent in place of w;
                        of all rounds: the sites' ledger heads, the list of survivors that the sums to come are over
events/                 TensorBoard
status.json             where it stands, for whoever asks (`status.py`)
result/                 what was learned, durable before samples and card are made; it becomes
release/                what leaves
unreleased/             in its place where the study moved nothing that can be seen; unsigned
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from undertone.core.canonical import Json, canonical_json, sha256_hex
from undertone.core.durable import (
    part_of,
    read_array,
    read_bytes,
    read_json,
    storage_errors,
    sync,
    write_array,
    write_durable,
)
from undertone.core.failpoints import reached
from undertone.core.federation import Federation, read_federation, sign_federation
from undertone.core.federation_files import federation_files, write_federation
from undertone.core.keys import PLAN_DOMAIN, check_signature, create_key, load_key, public_hex, sign
from undertone.errors import FolderError, NotApproved
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import Sensitivity, Sum, SumWithNoiseShares
from undertone.release.start import copy_start
from undertone.study.plan import Plan

_KEY = "coordinator.key"
_LOCK_TRIES, _LOCK_SECONDS = 5, 0.1
_NUMBERED = re.compile(r"\w+-(\d{3,})\.\w+")


class RunFolder:
    """An existing RUN."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.result = folder / "result"
        self.release = folder / "release"
        self.unreleased = folder / "unreleased"
        self.ledger = folder / "ledger.sqlite"
        self.start = folder / "start"

    @classmethod
    def create(
        cls,
        folder: Path,
        plan: Plan,
        facts: dict[str, Json],
        key_file: Path | None = None,
        start: Path | None = None,
    ) -> "RunFolder":
        """Start a RUN: signed plan, empty ledger, and a copy of the release that the plan starts from.

        Args:
            folder: that does not exist yet.
            plan: of the study.
            facts: run.json.
            key_file: the coordinator's one key; None: the RUN gets a key of its own.
            start: the folder of that release.

        Raises:
            FolderError: the folder exists or cannot be written.
            UnfitStart: the release is not the one that the plan pins, or none is named.
        """
        refuse_existing(folder)
        run = cls(folder)
        with storage_errors(folder):
            run.checkpoints.mkdir(parents=True)
        if plan.start is not None:
            copy_start(plan, start, run.start)
        if key_file is None:
            key = create_key(folder / _KEY)
        else:
            key, facts = load_key(key_file), {**facts, "key": os.path.relpath(key_file.resolve(), folder.resolve())}
        write_durable(folder / "plan.json", plan.as_bytes())
        write_durable(folder / "plan.sig", sign(key, PLAN_DOMAIN, plan.digest).encode())
        write_durable(folder / "run.json", canonical_json(facts))
        Ledger.create(run.ledger, {"role": "coordinator", "plan": plan.digest}).close()
        return run

    def plan(self) -> Plan:
        """The plan, checked against its signature.

        Raises:
            FolderError, PlanChanged, NotApproved: it is missing or was changed.
        """
        try:
            data = (self.folder / "plan.json").read_bytes()
        except OSError:
            raise FolderError(f"{self.folder} is not a RUN folder: it has no plan.json") from None
        plan = Plan.from_bytes(data)
        check_signature(public_hex(self.key()), PLAN_DOMAIN, plan.digest, self.signature())
        return plan

    def key(self) -> Ed25519PrivateKey:
        """The coordinator's signing key.

        Raises:
            FolderError: it is missing or damaged.
        """
        own = self.folder / _KEY
        return load_key(own if own.is_file() else self.folder / str(self.facts().get("key", _KEY)))

    def signature(self) -> str:
        """The signature over the plan's digest, hexadecimal."""
        try:
            return (self.folder / "plan.sig").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise FolderError(f"{self.folder / 'plan.sig'} cannot be read") from None

    def keep_federation(self, federation: Federation) -> str:
        """Sign and write the manifest of the sites' keys; returns the signature, hexadecimal."""
        signature = sign_federation(federation, self.key())
        write_federation(self.folder, federation, signature)
        return signature

    def federation(self) -> Federation:
        """The manifest of the sites' keys.

        Raises:
            FolderError: it is missing.
            NotApproved: it is not the one that this coordinator signed.
        """
        data, signature = federation_files(self.folder)
        federation = read_federation(data, signature, sha256_hex(data))
        if federation.coordinator != public_hex(self.key()):
            raise NotApproved(f"{self.folder / 'federation.json'} names another coordinator")
        return federation

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within, this process alone runs the study: two would noise one sum twice.

        Raises:
            FolderError: another process holds it.
        """
        with (self.folder / "lock").open("w") as lock:
            for attempt in range(_LOCK_TRIES):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if attempt + 1 < _LOCK_TRIES:  # whoever only looks has it for a moment
                        time.sleep(_LOCK_SECONDS)
            else:
                raise FolderError(f"another process runs the study in {self.folder}; wait for it, or stop it") from None
            yield

    def held(self) -> bool:
        """Whether a process runs the study at this moment."""
        try:
            with (self.folder / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def facts(self) -> dict[str, Json]:
        """run.json.

        Raises:
            FolderError: it is missing or damaged.
        """
        facts = read_json(self.folder / "run.json")
        if not isinstance(facts, dict) or not isinstance(facts.get("setting"), str):
            raise FolderError(f"{self.folder / 'run.json'} does not say in which setting the study runs; restore it")
        return facts

    # --- one round -------------------------------------------------------------------------------

    def attempts_asked(self, round_: int) -> list[int]:
        """The attempts of a round in which sites were asked for their vectors, in order."""
        return [attempt for attempt, _ in self._numbered(round_, "asked-*.mark")]

    def attempts_used(self) -> int:
        """Attempts of all rounds in which sites were asked for their vectors."""
        return sum(1 for _ in self.checkpoints.glob("round-*/asked-*.mark"))

    def rounds_done(self) -> int:
        """Rounds whose public state is there."""
        return sum(1 for _ in self.checkpoints.glob("round-*/state.npy"))

    def mark_asked(self, round_: int, attempt: int) -> None:
        """Durable before the first vector is asked for: from here on the attempt counts."""
        self._make_round(round_)
        write_durable(self._round(round_) / f"asked-{attempt:03d}.mark", b"")

    def next_session(self, round_: int, attempt: int) -> int:
        """A number for a session of secure aggregation, above all earlier ones of this attempt, durable first."""
        self._make_round(round_)
        path = self._round(round_) / f"session-{attempt:03d}"
        number = 1 + (read_number(path) if path.is_file() else 0)
        write_durable(path, str(number).encode())
        return number

    def keep_survivors(self, sites: tuple[str, ...]) -> None:
        """The study's list of survivors, durable before a site is asked to sign it; later lists are within it."""
        path = self._survivors
        if self.kept_survivors() != sites:
            write_durable(path, canonical_json(list(sites)))
        part_of(path).unlink(missing_ok=True)  # after a death while another list was written

    def kept_survivors(self) -> tuple[str, ...] | None:
        """The study's list of survivors, sorted; None before the first was signed.

        Raises:
            FolderError: it is damaged.
        """
        return read_sites(self._survivors) if self._survivors.is_file() else None

    @property
    def _survivors(self) -> Path:
        return self.checkpoints / "survivors.json"

    def keep_transcript(self, round_: int, attempt: int, transcript: bytes) -> None:
        """The audit log of a session that opened its sum."""
        write_durable(self._round(round_) / f"transcript-{attempt:03d}.json", transcript)

    def keep_with_noise_shares(self, round_: int, attempt: int, total: SumWithNoiseShares) -> None:
        """V of distributed noise, in which no noise of the coordinator is missing: durable before it is used."""
        self._keep_sites(round_, attempt, total.sites)
        self.keep_noised(round_, attempt, total.values)

    def keep_sum(self, round_: int, attempt: int, total: Sum, salt: bytes) -> None:
        """Q, un-noised and private, with the salt that hides it in the ledger."""
        folder = self._round(round_)
        write_durable(folder / f"salt-{attempt:03d}", salt)
        reached("run/salt durable")
        self._keep_sites(round_, attempt, total.sites)
        write_array(folder / f"sum-{attempt:03d}.npy", total.values)
        reached("run/Q durable")
        for path in folder.glob("s*"):
            path.chmod(0o600)

    def kept_sum(self, round_: int, attempt: int, sensitivity: Sensitivity) -> tuple[Sum, bytes] | None:
        """Q and its salt, or None where the attempt never got that far.

        Raises:
            FolderError: one of its files is damaged, or missing beside the others.
        """
        folder = self._round(round_)
        if not (folder / f"sum-{attempt:03d}.npy").is_file():
            return None
        try:
            values = read_array(folder / f"sum-{attempt:03d}.npy").astype(np.int64)
            return Sum(values, sensitivity, self._sites(round_, attempt)), read_bytes(folder / f"salt-{attempt:03d}")
        except FolderError as error:
            raise FolderError(
                f"{error}. If that cannot be done, remove sum-{attempt:03d}.npy: the attempt is then void and counts"
            ) from None

    def keep_noised(self, round_: int, attempt: int, values: NDArray[np.int64]) -> None:
        """V: durable before it is used; the un-noised sum goes."""
        write_array(self._round(round_) / f"noised-{attempt:03d}.npy", values)
        reached("run/V durable")
        self.drop_sum(round_)

    def drop_sum(self, round_: int) -> None:
        """Remove every Q of the round and its salt, those of void attempts and half-written files too.

        Nobody needs them once V is durable, and they are private.
        """
        for pattern in ("sum-*", "salt-*", "*.part"):
            for path in sorted(self._round(round_).glob(pattern)):
                path.unlink(missing_ok=True)
                reached("run/Q dropped")

    def kept_noised(self, round_: int) -> tuple[int, NDArray[np.int64], tuple[str, ...]] | None:
        """(attempt, V, sites) of a round that was noised, else None.

        Raises:
            FolderError: V is damaged, there are two, or it is gone and the state made from it is not.
        """
        kept = self._numbered(round_, "noised-*.npy")
        if len(kept) > 1 or (not kept and self._state(round_).is_file()):
            raise FolderError(
                f"{self._round(round_)} holds {len(kept)} noised sums and should hold one, which was used; restore it"
            )
        for attempt, path in kept:
            return attempt, read_array(path).astype(np.int64), self._sites(round_, attempt)
        return None

    def keep_query(self, round_: int, query: NDArray[np.float32]) -> None:
        """What sites are sent in place of w, in all attempts of a round: durable before the first of them."""
        self._make_round(round_)
        write_array(self._round(round_) / "query.npy", query)

    def kept_query(self, round_: int) -> NDArray[np.float32] | None:
        """The query of a round, or None before there is one."""
        path = self._round(round_) / "query.npy"
        return read_array(path).astype(np.float32) if path.is_file() else None

    def keep_state(self, round_: int, state: NDArray[np.float32]) -> None:
        """The public state after a round: w, and behind it what the method's step remembers."""
        write_array(self._state(round_), state)

    def kept_state(self, round_: int) -> NDArray[np.float32] | None:
        """The public state after a round, or None."""
        path = self._state(round_)
        return read_array(path).astype(np.float32) if path.is_file() else None

    def sites_opened(self, rounds: int) -> list[set[str]]:
        """The sites in each round's opened sum."""
        kept = [self.kept_noised(round_) for round_ in range(1, rounds + 1)]
        return [set(found[2]) for found in kept if found is not None]

    def _keep_sites(self, round_: int, attempt: int, sites: tuple[str, ...]) -> None:
        write_durable(self._round(round_) / f"sites-{attempt:03d}.json", canonical_json(list(sites)))
        reached("run/sites durable")

    def _make_round(self, round_: int) -> None:
        # 0700: the un-noised sum lies here for a moment, and its files are born readable by all.
        self._round(round_).mkdir(parents=True, exist_ok=True, mode=0o700)
        reached("run/round folder made")
        sync(self.checkpoints)

    def _sites(self, round_: int, attempt: int) -> tuple[str, ...]:
        return read_sites(self._round(round_) / f"sites-{attempt:03d}.json")

    def _numbered(self, round_: int, pattern: str) -> list[tuple[int, Path]]:
        """(attempt, file) in order; what carries no number is not ours."""
        found = [(_NUMBERED.fullmatch(path.name), path) for path in self._round(round_).glob(pattern)]
        return sorted((int(match.group(1)), path) for match, path in found if match)

    def _state(self, round_: int) -> Path:
        return self._round(round_) / "state.npy"

    def _round(self, round_: int) -> Path:
        return self.checkpoints / f"round-{round_:06d}"


def read_sites(path: Path) -> tuple[str, ...]:
    """A list of sites that `RunFolder` wrote.

    Raises:
        FolderError: it is none.
    """
    sites = read_json(path)
    if not isinstance(sites, list) or not sites or not all(isinstance(site, str) for site in sites):
        raise FolderError(f"{path} does not list the sites of a sum; restore it, then resume")
    return tuple(map(str, sites))


def read_number(path: Path) -> int:
    """A small integer that `RunFolder` wrote.

    Raises:
        FolderError: it is none.
    """
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise FolderError(f"{path} cannot be read; restore it, or start the study anew") from None


def refuse_existing(folder: Path, advice: str = "choose another --out") -> None:
    """Raise if something is at `folder` already.

    Raises:
        FolderError: it is.
    """
    if folder.exists():
        raise FolderError(f"{folder} exists already; {advice}")
