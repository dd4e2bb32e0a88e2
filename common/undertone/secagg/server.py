"""The coordinator's half of a session, in the rounds of Bonawitz et al. 2017 (docs/secure-aggregation.md, 6).

    advertise_keys -> share_keys -> add_masked_input, ... -> end_masked_input -> consistency_check -> unmasking

No I/O and no clock: the caller decides when a step is over and passes on what arrived. A site whose message is
missing or wrong is dropped with a reason, and the session goes on while the quorum remains.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.federation import Federation
from undertone.errors import NotApproved, ProtocolError, TooFewSites, UndertoneError, UnfaithfulSite
from undertone.secagg import sealing
from undertone.secagg.encoding import entry_list
from undertone.secagg.messages import (
    AdvertisedKeys,
    AdvertisedKeysList,
    ConsistencyLists,
    ConsistencySignature,
    ConsistencySignatures,
    Indices,
    MaskedInputProof,
    SealedShares,
    ShareInbox,
    UnmaskingShares,
    indices_of,
)
from undertone.secagg.parameters import Parameters
from undertone.secagg.prg import add_masks
from undertone.secagg.reconstruction import Reconstructor
from undertone.secagg.shamir import is_share
from undertone.secagg.transcript import write_transcript

M = TypeVar("M")


class _Fault(Exception):
    """Why one site is dropped; never leaves this module."""


@dataclass(frozen=True)
class OpenedSum:
    """What a session opens.

    Attributes:
        words: [d] uint32, the sum of the sites' vectors; as two's complement (int32) it is exact.
        sites: U3, whose vectors are in it, sorted.
        transcript: canonical JSON for the audit log; it holds no share, no sum and no hash of a sum.
    """

    words: NDArray[np.uint32] = field(repr=False)
    sites: tuple[str, ...]
    transcript: bytes = field(repr=False)


class ServerSession:
    """One session; each step once and in order.

    Attributes:
        dropped: site -> why it is no longer needed or heard.
        ignored: (site, why) of a second or late vector, which changed nothing.
    """

    def __init__(self, params: Parameters, federation: Federation) -> None:
        """Begin.

        Raises:
            MechanismViolation: unsound parameters.
            NotApproved: another federation, or a roster with a site that is not in it.
        """
        params.check()
        if federation.digest != params.federation or not set(params.roster) <= set(federation.sites):
            raise NotApproved("the parameters name another federation, or a site that is not in it; plan anew")
        self.params = params
        self.federation = federation
        self.dropped: dict[str, str] = {}
        self.ignored: list[tuple[str, str]] = []
        self._step = "advertise_keys"
        self._advertised: dict[int, AdvertisedKeys] = {}
        self._r1 = b""
        self._u2: Indices = ()
        self._proofs: dict[int, MaskedInputProof] = {}
        self._sum = np.zeros(0, dtype=np.uint32)
        self._signatures: dict[int, bytes] = {}

    @property
    def survivors(self) -> tuple[str, ...]:
        """The sites whose vector has come so far."""
        return tuple(self.params.roster[i] for i in sorted(self._proofs))

    def advertise_keys(self, messages: Mapping[str, bytes]) -> bytes:
        """Round 0, AdvertiseKeys. Messages 1 of all sites -> message 2, for every site of U1.

        Raises:
            TooFewSites: fewer than the quorum remain.
            ProtocolError: out of order.
        """
        self._enter("advertise_keys")
        self._advertised = self._gather(messages, tuple(range(len(self.params.roster))), self._advertised_keys, "keys")
        self._check_threshold(tuple(self._advertised), self.params.quorum, "sent keys")
        key_list = AdvertisedKeysList(tuple(self._advertised[i] for i in sorted(self._advertised)))
        self._r1 = sealing.round_digest(self.params.context, key_list)
        self._step = "share_keys"
        return key_list.to_bytes(self.params.context)

    def share_keys(self, messages: Mapping[str, bytes]) -> dict[str, bytes]:
        """Round 1, ShareKeys. Messages 3 of U1 -> message 4 for each site of U2.

        Raises:
            TooFewSites: fewer than the quorum remain.
            ProtocolError: out of order.
        """
        self._enter("share_keys")
        found = self._gather(messages, tuple(sorted(self._advertised)), self._sealed_shares, "sealed shares")
        self._u2 = tuple(sorted(found))
        self._check_threshold(self._u2, self.params.quorum, "dealt shares")
        boxes = {sender: dict(sealed.sealed) for sender, sealed in found.items()}
        self._sum = np.zeros(self.params.dimension, dtype=np.uint32)
        self._step = "masked_input"
        inboxes = {i: ShareInbox(i, tuple((j, boxes[j][i]) for j in self._u2 if j != i)) for i in self._u2}
        return {self.params.roster[i]: inbox.to_bytes(self.params.context) for i, inbox in inboxes.items()}

    def add_masked_input(self, site: str, words: NDArray[np.uint32], proof: bytes) -> bool:
        """Round 2, MaskedInput. Add one vector to the accumulator; the caller may free it afterwards.

        Args:
            site: who sent it.
            words: [d] uint32, each below 2^wire_bits.
            proof: message 5.

        Returns:
            Whether it is in the sum: False where the site is dropped (`dropped`) or the vector comes late, a
            second time or from nowhere (`ignored`).

        Raises:
            ProtocolError: before vectors are due.
        """
        if self._step in ("advertise_keys", "share_keys"):
            raise self._order("masked_input")
        index = self._index(site)
        if self._step != "masked_input" or index not in self._u2 or index in self._proofs or site in self.dropped:
            self.ignored.append((site, "a vector that is late, comes twice, or from a site that is not in the session"))
            return False
        try:
            self._proofs[index] = self._proof(index, words, proof)
        except (_Fault, ProtocolError) as fault:
            self.dropped[site] = str(fault)
            return False
        np.add(self._sum, words, out=self._sum)
        return True

    def end_masked_input(self) -> bytes:
        """No more vectors: message 6, for every site of U3.

        Raises:
            TooFewSites: fewer than the quorum sent a vector; nothing can be opened.
            ProtocolError: out of order.
        """
        self._enter("masked_input")
        survivors = tuple(sorted(self._proofs))
        for i in self._u2:
            if i not in self._proofs:
                self.dropped.setdefault(self.params.roster[i], "it sent no vector")
        self._check_threshold(survivors, self.params.quorum, "sent a vector")
        self._step = "consistency_check"
        return ConsistencyLists(self._u2, survivors).to_bytes(self.params.context)

    def consistency_check(self, messages: Mapping[str, bytes]) -> bytes:
        """Round 3, ConsistencyCheck. Messages 7 of U3 -> message 8, for every site of U4.

        Raises:
            TooFewSites: fewer than t signed.
            ProtocolError: out of order.
        """
        self._enter("consistency_check")
        survivors = tuple(sorted(self._proofs))
        found = self._gather(messages, survivors, self._consistency_signature, "consistency signature")
        self._signatures = {i: found[i].signature for i in sorted(found)}
        self._check_threshold(tuple(found), self.params.threshold, "signed the lists")
        self._step = "unmasking"
        return ConsistencySignatures(tuple(self._signatures.items())).to_bytes(self.params.context)

    def unmasking(self, messages: Mapping[str, bytes]) -> OpenedSum:
        """Round 4, Unmasking. Messages 9 of U4 -> the sum over U3.

        A site in `dropped` from here on is in the sum all the same; only its shares were not used.

        Raises:
            TooFewSites: fewer than t sent shares.
            UnfaithfulSite: a secret cannot be reconstructed; names its owner.
            ProtocolError: out of order.
        """
        self._enter("unmasking")
        found = self._gather(messages, tuple(self._signatures), self._unmasking_shares, "unmasking shares")
        self._check_threshold(tuple(found), self.params.threshold, "revealed shares")
        shares = {i: dict(message.shares) for i, message in found.items()}
        plus, minus = self._mask_keys(shares)
        add_masks(self._sum, minus, plus)
        words, self._sum = _signed(self._sum, self.params.wire_bits), np.zeros(0, dtype=np.uint32)
        self._step = "over"
        transcript = write_transcript(
            self.params, self._advertised, self._u2, self._proofs, self._signatures, tuple(sorted(found))
        )
        return OpenedSum(words, tuple(self.params.roster[i] for i in sorted(self._proofs)), transcript)

    def _mask_keys(self, shares: Mapping[int, Mapping[int, bytes]]) -> tuple[list[bytes], list[bytes]]:
        """PRG keys that are in the accumulator with a plus, and with a minus."""
        reconstructor = Reconstructor(self.params.threshold, self.params.colluders)
        plus: list[bytes] = []
        minus: list[bytes] = []
        for owner in self._u2:
            revealed = {i + 1: held[owner] for i, held in shares.items()}
            if owner in self._proofs:
                secret = reconstructor.secret(owner, revealed, self._is_self_secret(owner), self.params.roster[owner])
                plus.append(sealing.self_mask_key(secret, self._r1, owner))
                continue
            secret = reconstructor.secret(owner, revealed, self._is_mask_private(owner), self.params.roster[owner])
            reconstructed = sealing.private_key(secret)
            for i in self._proofs:
                agreed = sealing.exchange(reconstructed, self._advertised[i].mask_key, self.params.roster[i])
                # Site i added the mask of a peer above it and took off that of a peer below it.
                (plus if owner > i else minus).append(sealing.pair_mask_key(agreed, self._r1, i, owner))
        for liar, owner in reconstructor.wrong:
            self.dropped[self.params.roster[liar]] = (
                f"its share of {self.params.roster[owner]}'s secret is wrong: it changed it, "
                f"or {self.params.roster[owner]} dealt it a wrong one"
            )
        return plus, minus

    def _is_self_secret(self, owner: int) -> Callable[[bytes], bool]:
        expected = self._advertised[owner].commitment
        return lambda secret: sealing.commitment(self.params.context, owner, secret) == expected

    def _is_mask_private(self, owner: int) -> Callable[[bytes], bool]:
        expected = self._advertised[owner].mask_key
        return lambda secret: sealing.public_of(secret) == expected

    def _advertised_keys(self, index: int, message: bytes) -> AdvertisedKeys:
        advertised = AdvertisedKeys.from_bytes(message, self.params.context, len(self.params.roster))
        digest = sealing.advertised_keys_statement(
            self.params.context, advertised.index, advertised.seal_key, advertised.mask_key, advertised.commitment
        )
        self._signed(index, advertised.index, digest, advertised.signature)
        sealing.check_publics(advertised.seal_key, advertised.mask_key, site=self.params.roster[index])
        return advertised

    def _sealed_shares(self, index: int, message: bytes) -> SealedShares:
        sealed = SealedShares.from_bytes(message, self.params.context, len(self.params.roster))
        others = tuple(sorted(set(self._advertised) - {index}))
        if sealed.round_digest != self._r1 or indices_of(sealed.sealed) != others:
            raise _Fault("it sealed shares for other sites than those that sent keys")
        entries = entry_list(sealed.sealed)
        digest = sealing.sealed_shares_statement(self.params.context, self._r1, sealed.index, entries)
        self._signed(index, sealed.index, digest, sealed.signature)
        return sealed

    def _proof(self, index: int, words: NDArray[np.uint32], message: bytes) -> MaskedInputProof:
        proof = MaskedInputProof.from_bytes(message, self.params.context, len(self.params.roster))
        shape = (self.params.dimension,)
        if not (isinstance(words, np.ndarray) and words.dtype == np.uint32 and words.shape == shape):
            raise _Fault(f"its vector is not {self.params.dimension} uint32 words")
        if self.params.wire_bits < 32 and int(words.max()) >> self.params.wire_bits:
            raise _Fault(f"its vector holds a word above {self.params.wire_bits} bits")
        digest = sealing.words_digest(words)
        if digest != proof.digest:
            raise _Fault("its vector is not the one that its proof is about")
        statement = sealing.masked_input_statement(self.params.context, self._r1, proof.index, self._u2, digest)
        self._signed(index, proof.index, statement, proof.signature)
        return proof

    def _consistency_signature(self, index: int, message: bytes) -> ConsistencySignature:
        sent = ConsistencySignature.from_bytes(message, self.params.context, len(self.params.roster))
        survivors = tuple(sorted(self._proofs))
        digest = sealing.consistency_statement(self.params.context, self._r1, self._u2, survivors)
        self._signed(index, sent.index, digest, sent.signature)
        return sent

    def _unmasking_shares(self, index: int, message: bytes) -> UnmaskingShares:
        shares = UnmaskingShares.from_bytes(message, self.params.context, len(self.params.roster))
        if indices_of(shares.shares) != self._u2 or not all(is_share(share) for _, share in shares.shares):
            raise _Fault("it revealed other shares than one for each site that dealt some")
        survivors, entries = tuple(sorted(self._proofs)), entry_list(shares.shares)
        digest = sealing.unmasking_statement(self.params.context, self._r1, shares.index, self._u2, survivors, entries)
        self._signed(index, shares.index, digest, shares.signature)
        return shares

    def _gather(
        self, messages: Mapping[str, bytes], expected: Indices, read: Callable[[int, bytes], M], what: str
    ) -> dict[int, M]:
        """Read one message per expected site; drop a site whose message is missing or wrong."""
        found: dict[int, M] = {}
        for index in expected:
            site = self.params.roster[index]
            if site not in messages:
                self.dropped[site] = f"no {what} came from it"
                continue
            try:
                found[index] = read(index, messages[site])
            except (_Fault, ProtocolError, UnfaithfulSite) as fault:
                self.dropped[site] = str(fault)
        known = {self.params.roster[index] for index in expected}
        self.ignored += [(site, f"{what} of a site that is not expected") for site in messages if site not in known]
        return found

    def _signed(self, expected: int, claimed: int, digest: bytes, signature: bytes) -> None:
        """The message speaks for the site that it came from, and that site signed it."""
        if claimed != expected:
            raise _Fault("it sent a message in another site's name")
        if not self.federation.signed_by(self.params.roster[expected], digest, signature):
            raise _Fault("its signature does not hold on what the coordinator knows")

    def _check_threshold(self, sites: Indices, needed: int, what: str) -> None:
        if len(sites) < needed:
            self._step = "over"
            raise TooFewSites(
                f"{len(sites)} sites {what}, {needed} are needed; nothing can be opened. Missing: "
                + ", ".join(f"{site} ({why})" for site, why in sorted(self.dropped.items()))
            )

    def _index(self, site: str) -> int:
        return self.params.roster.index(site) if site in self.params.roster else -1

    def _enter(self, step: str) -> None:
        if self._step != step:
            raise self._order(step)
        # Whatever ends this step early ends the session; success names the next step.
        self._step = "over"

    def _order(self, step: str) -> UndertoneError:
        return ProtocolError(f"the session is at step {self._step!r}, not {step!r}; start another session")


def _signed(words: NDArray[np.uint32], wire_bits: int) -> NDArray[np.uint32]:
    """Words modulo 2^wire_bits -> the same numbers as two's complement in 32 bits, in place."""
    spare = 32 - wire_bits
    if spare:
        words <<= np.uint32(spare)
        signed = words.view(np.int32)
        signed >>= spare
    return words
