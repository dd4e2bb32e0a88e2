"""A site's part in one session of secure aggregation, from disk to disk (docs/secure-aggregation.md, 6).

The steps themselves are pure (`undertone.secagg.node`). Here each is taken once: it is entered in the site's
ledger before its message is looked at, the new stored state takes the old one's place on disk, and only then does the
reply leave. So a step answers one message, accepted or refused, whatever dies in between, and a stored state that is
put back from an older copy is found out by the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from undertone.core.canonical import Json
from undertone.core.durable import write_durable
from undertone.core.failpoints import reached
from undertone.core.federation import Federation
from undertone.errors import ProtocolError, ReplayedAttempt
from undertone.privacy.chain import Entry
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.quantise import to_ring
from undertone.privacy.stages import ClippedSum, ClippedSumWithNoiseShare, MaskedVector
from undertone.secagg.node import (
    AnySessionState,
    ConsistencyChecked,
    InputMasked,
    KeysAdvertised,
    KeysShared,
    advertise_keys,
    restore,
)
from undertone.secagg.parameters import Parameters, agree
from undertone.study.plan import Plan
from undertone.study.session_parameters import NAME, session_parameters
from undertone.wire.messages import Request
from undertone_client.round.signed_lists import LedgerLists
from undertone_client.site.folder import SiteDir

_ENTRY = "secagg"
# The steps as the ledger numbers them: step k is round k - 1 of Bonawitz et al. 2017.
_ADVERTISE_KEYS, _SHARE_KEYS, _MASKED_INPUT, _CONSISTENCY_CHECK, _UNMASKING = 1, 2, 3, 4, 5
_HASH_BYTES = 32
_StateT = TypeVar("_StateT", bound=AnySessionState)


@dataclass(frozen=True)
class SiteSession:
    """Session `request.session` of an attempt at one site."""

    site: SiteDir
    plan: Plan
    request: Request
    ledger: Ledger

    def advertise_keys(self, state_sha256: str, entropy: Entropy) -> bytes:
        """Step 1, AdvertiseKeys: fresh keys, once for each session number; numbers only rise within an attempt.

        Raises:
            ReplayedAttempt: this session, or a later one of this attempt, was begun before.
            UnfaithfulCoordinator: the coordinator's parameters are not those of the approved plan.
        """
        params = self._parameters(state_sha256)
        agree(self.request.body, params)
        self._enter_step(_ADVERTISE_KEYS)
        self._forget_others()
        identity = self.site.identity()
        begun, keys = advertise_keys(params, self.site.config.site, identity, self._federation, entropy)
        self._store_state(state_sha256, begun)
        return keys

    def share_keys(self) -> bytes:
        """Step 2, ShareKeys: shares of this session's secrets, sealed for each other site."""
        state_sha256, begun = self._stored_state(_SHARE_KEYS, KeysAdvertised)
        keys_shared, sealed = begun.share_keys(self.request.body)
        self._store_state(state_sha256, keys_shared)
        return sealed

    def begin_masked_input(self) -> tuple[str, KeysShared]:
        """Step 3, MaskedInput, taken: before the vector is charged and before any noise is drawn for it.

        What other sites sealed is looked at first: one of them that sealed wrongly costs this site no charge.
        """
        state_sha256, keys_shared = self._stored_state(_MASKED_INPUT, KeysShared)
        keys_shared.check(self.request.body)
        return state_sha256, keys_shared

    def masked_input(
        self, state_sha256: str, keys_shared: KeysShared, contribution: ClippedSum | ClippedSumWithNoiseShare
    ) -> tuple[MaskedVector, bytes]:
        """Step 3, MaskedInput, done: the site's vector, masked, and the proof."""
        masked, words, proof = keys_shared.masked_input(self.request.body, to_ring(contribution.values))
        self._store_state(state_sha256, masked)
        return MaskedVector(words, NAME, self.plan.aggregation.wire_bits), proof

    def consistency_check(self) -> bytes:
        """Step 4, ConsistencyCheck: sign the one list of survivors; one of a chain stands in the ledger before that."""
        state_sha256, masked = self._stored_state(_CONSISTENCY_CHECK, InputMasked)
        lists = LedgerLists(self.ledger, self.plan, self.request)
        checked, signature = masked.consistency_check(self.request.body, lists)
        self._store_state(state_sha256, checked)
        return signature

    def unmasking(self) -> bytes:
        """Step 5, Unmasking: reveal the shares that open the survivors' sum; nothing is kept."""
        _, checked = self._stored_state(_UNMASKING, ConsistencyChecked)
        _, shares = checked.unmasking(self.request.body)
        self._path.unlink(missing_ok=True)
        return shares

    def _stored_state(self, step: int, kind: type[_StateT]) -> tuple[str, _StateT]:
        """The stored state of the step before, once: from here on this step is spent."""
        self._enter_step(step)
        try:
            data = self._path.read_bytes()
        except OSError:
            raise ProtocolError("this site holds no session of this attempt; start another session") from None
        state_sha256 = data[:_HASH_BYTES].hex()
        params, identity = self._parameters(state_sha256), self.site.identity()
        state = restore(data[_HASH_BYTES:], step - 1, params, self.site.config.site, identity, self._federation)
        if not isinstance(state, kind):
            raise ProtocolError(f"the stored session cannot take step {step}; start another session")
        return state_sha256, state

    def _store_state(self, state_sha256: str, state: AnySessionState) -> None:
        """Put the new stored state in the old one's place. SITE_DIR is readable by its owner alone."""
        self._path.parent.mkdir(exist_ok=True, mode=0o700)
        write_durable(self._path, bytes.fromhex(state_sha256) + state.to_bytes())
        reached("session/stored state durable")

    def _enter_step(self, step: int) -> None:
        """Spend a step, if it follows the last one in the ledger; of two processes at one step, one succeeds."""
        number = self.request.session

        def follows(entries: Sequence[Entry]) -> None:
            session, done = self._newest(entries)
            if step == _ADVERTISE_KEYS and number <= session:
                raise ReplayedAttempt(f"session {number} of this attempt is over; {session} was begun")
            if step != _ADVERTISE_KEYS and (session, done) != (number, step - 1):
                raise ReplayedAttempt(
                    f"step {step} of session {number} does not follow step {done} of session {session}"
                )

        self.ledger.append(_ENTRY, self._key | {"session": number, "step": step}, follows)
        reached("session/step durable")

    def _forget_others(self) -> None:
        """Remove the secrets of this plan's earlier sessions: one that was broken off would keep them for ever."""
        for path in self.site.sessions.glob(f"{self.plan.digest[:16]}-*"):
            path.unlink(missing_ok=True)

    def _newest(self, entries: Sequence[Entry]) -> tuple[int, int]:
        """(session, step) that the ledger holds last for this attempt; (0, 0) if none."""
        key = self._key.items()
        for entry in reversed(entries):
            if entry.kind == _ENTRY and all(entry.body.get(name) == value for name, value in key):
                session, step = entry.body.get("session"), entry.body.get("step")
                if isinstance(session, int) and isinstance(step, int):
                    return session, step
        return 0, 0

    @property
    def _key(self) -> dict[str, Json]:
        return {"digest": self.plan.digest, "round": self.request.round, "attempt": self.request.attempt}

    @property
    def _path(self) -> Path:
        name = f"{self.plan.digest[:16]}-{self.request.round:06d}-{self.request.attempt:03d}"
        return self.site.sessions / name

    def _parameters(self, state_sha256: str) -> Parameters:
        request, federation = self.request, self._federation.digest
        return session_parameters(self.plan, federation, request.round, request.attempt, request.session, state_sha256)

    @cached_property
    def _federation(self) -> Federation:
        """The manifest of the coordinator that asks, read and checked once for a request."""
        coordinator = self.site.policy.coordinator_of(self.plan.digest, self.request.signature)
        return self.site.federation(coordinator)
