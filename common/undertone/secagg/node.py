"""The node's half of a session, in the five rounds of Bonawitz et al. 2017, figure 4 (docs/secure-aggregation.md, 6).

    step  round                 call                       state afterwards
    1     0  AdvertiseKeys      advertise_keys             KeysAdvertised
    2     1  ShareKeys          .share_keys                KeysShared
    3     2  MaskedInput        .masked_input              InputMasked
    4     3  ConsistencyCheck   .consistency_check         ConsistencyChecked
    5     4  Unmasking          .unmasking                 Unmasked

Each state answers one message once. No I/O and no clock: the caller stores the new state and the reply on disk before
it sends the reply, and deletes the old state.
"""

from typing import ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from undertone.core.federation import Federation
from undertone.errors import ReplayedAttempt, TooFewSites, UnfaithfulCoordinator
from undertone.privacy.entropy import Entropy
from undertone.secagg import sealing, shamir, stored_state
from undertone.secagg.encoding import entry_list
from undertone.secagg.messages import (
    AdvertisedKeys,
    AdvertisedKeysList,
    ConsistencyLists,
    ConsistencySignature,
    ConsistencySignatures,
    MaskedInputProof,
    SealedShares,
    ShareInbox,
    UnmaskingShares,
    indices_of,
)
from undertone.secagg.parameters import Parameters
from undertone.secagg.party import Party, check_key_list, check_words, masked_by, unseal
from undertone.secagg.prg import WordsDigest, add_masks
from undertone.secagg.survivors import SignedLists, check_follows

_B, _CM = 1, 2  # which secret a sharing polynomial is of
_Stored = TypeVar("_Stored", bound=stored_state.StoredState)


class SessionState(Generic[_Stored]):
    """A node's session after one step. It answers one message, accepted or refused; then it is spent."""

    STEP: ClassVar[int]
    STORED: ClassVar[type[stored_state.StoredState]]

    def __init__(self, party: Party, content: _Stored) -> None:
        self._party = party
        self._content: _Stored | None = content

    def __repr__(self) -> str:
        """The step alone: what a session state holds is never printed."""
        return f"<{type(self).__name__}, step {self.STEP}>"

    def _look(self) -> _Stored:
        """The content, if it was not spent."""
        if self._content is None:
            raise ReplayedAttempt(f"step {self.STEP} of this session was answered before; start another session")
        return self._content

    def _spend(self) -> _Stored:
        """The content, once."""
        content, self._content = self._look(), None
        return content

    def to_bytes(self) -> bytes:
        """The stored state: secrets in clear, for the site's own disk, 0600."""
        party = self._party
        return stored_state.pack(self.STEP, party.params.context, party.index, self._look())

    @classmethod
    def from_bytes(
        cls, data: bytes, params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation
    ) -> Self:
        """Read what `to_bytes` wrote. `restore` also checks that it is the newest step.

        Raises:
            LedgerCorrupt: damaged, or of another session, site or step.
            MechanismViolation, NotApproved: as `advertise_keys`.
        """
        party = Party.of(params, site, identity, federation)
        content = stored_state.unpack(cls.STORED, cls.STEP, data, params.context, party.index, len(params.roster))
        return cls(party, cast(_Stored, content))


class Unmasked(SessionState[stored_state.AfterUnmasking]):
    """After Unmasking: nothing is left to do, and nothing is held."""

    STEP = 5
    STORED = stored_state.AfterUnmasking


class ConsistencyChecked(SessionState[stored_state.AfterConsistencyCheck]):
    """After ConsistencyCheck: the survivor list is signed; of each peer the one share is held that it allows."""

    STEP = 4
    STORED = stored_state.AfterConsistencyCheck

    def unmasking(self, message: bytes) -> tuple[Unmasked, bytes]:
        """Reveal shares, once t sites have signed this node's own lists.

        Args:
            message: consistency signatures (8).

        Returns:
            The next state, and the unmasking shares (9).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        params, context = party.params, party.params.context
        signatures = ConsistencySignatures.from_bytes(message, context, len(params.roster)).signatures
        if len(signatures) < params.threshold:
            raise TooFewSites(
                f"{len(signatures)} sites signed the lists, {params.threshold} must; nothing was revealed"
            )
        if not set(indices_of(signatures)) <= set(content.survivors):
            raise UnfaithfulCoordinator("a site signed the lists that is not among the survivors; nothing was revealed")
        lists = (content.round_digest, content.masked_for, content.survivors)
        statement = sealing.consistency_statement(context, *lists)
        for index, signature in signatures:
            if not party.federation.signed_by(party.name(index), statement, signature):
                raise UnfaithfulCoordinator(
                    f"{party.name(index)} did not sign the lists that this site was shown; nothing was revealed"
                )
        entries = entry_list(content.shares)
        digest = sealing.unmasking_statement(context, content.round_digest, party.index, *lists[1:], entries)
        reply = UnmaskingShares(party.index, content.shares, party.sign(digest)).to_bytes(context)
        return Unmasked(party, stored_state.AfterUnmasking()), reply


class InputMasked(SessionState[stored_state.AfterMaskedInput]):
    """After MaskedInput: the vector is masked for U2; private keys and b are gone."""

    STEP = 3
    STORED = stored_state.AfterMaskedInput

    def consistency_check(self, message: bytes, signed_lists: SignedLists) -> tuple[ConsistencyChecked, bytes]:
        """Sign the one survivor list, and drop every share that it does not allow to reveal.

        Args:
            message: consistency lists (6).
            signed_lists: the lists that this site has signed in this study. With rosters "chain" the list is
                appended to them, durably, before it is signed; with "free" they are not looked at.

        Returns:
            The next state, and the consistency signature (7).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, SurvivorsChanged, ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        context = party.params.context
        lists = ConsistencyLists.from_bytes(message, context, len(party.params.roster))
        if lists.masked_for != content.masked_for:
            raise UnfaithfulCoordinator("the coordinator's U2 differs from the one this site masked for")
        if party.index not in lists.survivors:
            raise UnfaithfulCoordinator("the coordinator asks this site to sign a list without it")
        if not set(lists.survivors) <= set(lists.masked_for):
            raise UnfaithfulCoordinator("the survivors hold a site that no vector was masked for")
        party.check_threshold(lists.survivors, "sent a vector")
        if party.params.rosters == "chain":
            colluders = party.params.colluders
            signed_lists.append(lists.survivors, lambda last: check_follows(last, lists.survivors, colluders))
        shares = tuple(
            (j, content.self_shares[j] if j in lists.survivors else content.mask_shares[j]) for j in lists.masked_for
        )
        kept = stored_state.AfterConsistencyCheck(content.round_digest, lists.masked_for, lists.survivors, shares)
        statement = sealing.consistency_statement(context, kept.round_digest, kept.masked_for, kept.survivors)
        reply = ConsistencySignature(party.index, party.sign(statement)).to_bytes(context)
        return ConsistencyChecked(party, kept), reply


class KeysShared(SessionState[stored_state.AfterShareKeys]):
    """After ShareKeys: the shares of b and cm are dealt; the vector is not masked yet."""

    STEP = 2
    STORED = stored_state.AfterShareKeys

    def check(self, message: bytes) -> None:
        """Raise what `masked_input` would raise of this inbox; spend nothing. Called before the vector is charged.

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite: section 6.
        """
        content, party = self._look(), self._party
        inbox = ShareInbox.from_bytes(message, party.params.context, len(party.params.roster))
        masked_by(party, inbox, content.key_list)
        unseal(party, content, inbox.sealed, sealing.round_digest(party.params.context, content.key_list))

    def masked_input(self, message: bytes, words: NDArray[np.uint32]) -> tuple[InputMasked, NDArray[np.uint32], bytes]:
        """Unseal the peers' shares, mask the vector in place, let go of the keys.

        Args:
            message: this site's share inbox (4).
            words: [d] uint32, the site's vector in the ring. It is masked in place, so that no copy of
                it stays behind; where an error is raised it is as it was.

        Returns:
            The next state, the same array, now masked (below 2^wire_bits), and the masked input proof (5).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite, MechanismViolation,
            ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        params, context, me = party.params, party.params.context, party.index
        inbox = ShareInbox.from_bytes(message, context, len(params.roster))
        check_words(words, params.dimension)
        r1 = sealing.round_digest(context, content.key_list)
        masked_for = masked_by(party, inbox, content.key_list)
        self_shares, mask_shares = unseal(party, content, inbox.sealed, r1)
        self_shares[me] = content.own_share
        keys = {advertised.index: advertised.mask_key for advertised in content.key_list.advertised}
        mine = sealing.private_key(content.mask_private)
        pairs = {
            j: sealing.pair_mask_key(sealing.exchange(mine, keys[j], party.name(j)), r1, me, j)
            for j in masked_for
            if j != me
        }
        own = sealing.self_mask_key(content.self_secret, r1, me)
        digest = _masked(
            words, params.wire_bits, [own, *(pairs[j] for j in pairs if j > me)], [pairs[j] for j in pairs if j < me]
        )
        signature = party.sign(sealing.masked_input_statement(context, r1, me, masked_for, digest))
        kept = stored_state.AfterMaskedInput(r1, {j: self_shares[j] for j in masked_for}, mask_shares)
        return InputMasked(party, kept), words, MaskedInputProof(me, digest, signature).to_bytes(context)


def _masked(words: NDArray[np.uint32], wire_bits: int, plus: list[bytes], minus: list[bytes]) -> bytes:
    """Mask in place, cut to the wire's bits; the digest of the result."""
    hashed, low = WordsDigest(words.size), np.uint32((1 << wire_bits) - 1)

    def finished(piece: NDArray[np.uint32]) -> None:
        if wire_bits < 32:
            np.bitwise_and(piece, low, out=piece)
        hashed.update(piece)

    add_masks(words, plus, minus, finished=finished)
    return hashed.digest()


class KeysAdvertised(SessionState[stored_state.AfterAdvertiseKeys]):
    """After AdvertiseKeys: keys are made and advertised."""

    STEP = 1
    STORED = stored_state.AfterAdvertiseKeys

    def share_keys(self, message: bytes) -> tuple[KeysShared, bytes]:
        """Deal shares of b and cm to every site that advertised keys. Draws nothing: section 4.

        Args:
            message: list of advertised keys (2).

        Returns:
            The next state, and the sealed shares (3).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite, ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        params, context, me = party.params, party.params.context, party.index
        key_list = AdvertisedKeysList.from_bytes(message, context, len(params.roster))
        check_key_list(party, content.advertised, key_list)
        r1 = sealing.round_digest(context, key_list)
        points = [advertised.index + 1 for advertised in key_list.advertised]
        dealt = [
            shamir.deal(secret, sealing.coefficients(content.seed, context, which, params.threshold), points)
            for which, secret in ((_B, content.self_secret), (_CM, content.mask_private))
        ]
        sealed, own_share, agreed = [], b"", {}
        mine = sealing.private_key(content.seal_private)
        for advertised, self_share, mask_share in zip(key_list.advertised, *dealt, strict=True):
            if advertised.index == me:
                own_share = self_share
                continue
            agreed[advertised.index] = sealing.exchange(mine, advertised.seal_key, party.name(advertised.index))
            key = sealing.seal_key(agreed[advertised.index], r1, me, advertised.index)
            sealed.append((advertised.index, sealing.seal(key, self_share + mask_share, r1, me, advertised.index)))
        signature = party.sign(sealing.sealed_shares_statement(context, r1, me, entry_list(sealed)))
        reply = SealedShares(me, r1, tuple(sealed), signature).to_bytes(context)
        kept = stored_state.AfterShareKeys(content.self_secret, content.mask_private, own_share, agreed, key_list)
        return KeysShared(party, kept), reply


def advertise_keys(
    params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation, entropy: Entropy
) -> tuple[KeysAdvertised, bytes]:
    """Make this session's secrets and advertise the public keys: the only step that draws randomness.

    Args:
        params: this node's own, from its approved plan (`parameters.agree` compares the coordinator's).
        site: this site.
        identity: its key in the federation.
        federation: the manifest that this site approved.
        entropy: the operating system's.

    Returns:
        The first state, and the advertised keys (1).

    Raises:
        MechanismViolation, NotApproved: section 6.
    """
    party = Party.of(params, site, identity, federation)
    self_secret, seal_private, mask_private, seed = (entropy.bytes(32) for _ in range(4))
    publics = sealing.public_of(seal_private), sealing.public_of(mask_private)
    commit = sealing.commitment(params.context, party.index, self_secret)
    signature = party.sign(sealing.advertised_keys_statement(params.context, party.index, *publics, commit))
    advertised = AdvertisedKeys(party.index, *publics, commit, signature)
    kept = stored_state.AfterAdvertiseKeys(self_secret, seal_private, mask_private, seed, advertised)
    return KeysAdvertised(party, kept), advertised.to_bytes(params.context)


AnySessionState = KeysAdvertised | KeysShared | InputMasked | ConsistencyChecked | Unmasked
_STATES: tuple[type[AnySessionState], ...] = (KeysAdvertised, KeysShared, InputMasked, ConsistencyChecked, Unmasked)


def restore(
    data: bytes, step: int, params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation
) -> AnySessionState:
    """Read a stored state of any step.

    Args:
        data: what `to_bytes` wrote.
        step: the newest step that the site's ledger knows for this session, 1 to 5. A state of another step
            was put back from an older copy.
        params: the session's, as at `advertise_keys`.
        site: this site.
        identity: its key.
        federation: the manifest.

    Raises:
        LedgerCorrupt: damaged, or of another session or site.
        ReplayedAttempt: an older step than the ledger knows, or one that it does not know.
    """
    stored = stored_state.step_of(data)
    if stored != step:
        raise ReplayedAttempt(
            f"the stored state is at step {stored} and the ledger at step {step}; it was put back from an older "
            "copy. Give the session up: answering a step twice could reveal this site's vector"
        )
    return _STATES[step - 1].from_bytes(data, params, site, identity, federation)
