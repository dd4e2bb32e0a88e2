"""The node's half of a session: five states, each answers one message once (docs/secure-aggregation.md, 6).

    open_session -> Opened -share-> Shared -mask-> Masked -confirm-> Confirmed -unmask-> Done

No I/O and no clock. The caller stores the new state and the reply on disk before it sends the reply, and deletes
the old state. After Bonawitz et al. 2017, figure 4.
"""

from typing import ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from undertone.errors import ReplayedAttempt, TooFewSites, UnfaithfulCoordinator
from undertone.privacy.entropy import Entropy
from undertone.secagg import held, sealing, shamir
from undertone.secagg.encoding import entry_list
from undertone.secagg.federation import Federation
from undertone.secagg.messages import (
    Advert,
    Adverts,
    Confirmation,
    Confirmations,
    Inbox,
    Lists,
    Proof,
    Sealed,
    Shares,
    indices_of,
)
from undertone.secagg.parameters import Parameters
from undertone.secagg.party import Party, check_adverts, check_words, masked_by, unseal
from undertone.secagg.prg import WordsDigest, add_masks
from undertone.secagg.survivors import SignedLists, check_follows

_B, _CM = 1, 2  # which secret a sharing polynomial is of
_Held = TypeVar("_Held", bound=held.Held)


class State(Generic[_Held]):
    """One step of a session. It answers one message, accepted or refused; then it is spent."""

    STEP: ClassVar[int]
    HELD: ClassVar[type[held.Held]]

    def __init__(self, party: Party, content: _Held) -> None:
        self._party = party
        self._content: _Held | None = content

    def __repr__(self) -> str:
        """The step alone: what a state holds is never printed."""
        return f"<{type(self).__name__}, step {self.STEP}>"

    def _look(self) -> _Held:
        """The content, if it was not spent."""
        if self._content is None:
            raise ReplayedAttempt(f"step {self.STEP} of this session was answered before; start another session")
        return self._content

    def _spend(self) -> _Held:
        """The content, once."""
        content, self._content = self._look(), None
        return content

    def to_bytes(self) -> bytes:
        """The state as it is stored: secrets in clear, for the site's own disk, 0600."""
        party = self._party
        return held.pack(self.STEP, party.params.context, party.index, self._look())

    @classmethod
    def from_bytes(
        cls, data: bytes, params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation
    ) -> Self:
        """Read what `to_bytes` wrote. `restore` also checks that it is the newest step.

        Raises:
            LedgerCorrupt: damaged, or of another session, site or step.
            MechanismViolation, NotApproved: as `open_session`.
        """
        party = Party.of(params, site, identity, federation)
        content = held.unpack(cls.HELD, cls.STEP, data, params.context, party.index, len(params.roster))
        return cls(party, cast(_Held, content))


class Done(State[held.Nothing]):
    """Nothing is left to do, and nothing is held."""

    STEP = 5
    HELD = held.Nothing


class Confirmed(State[held.Signed]):
    """The survivor list is signed; of each peer the one share is held that it allows."""

    STEP = 4
    HELD = held.Signed

    def unmask(self, message: bytes) -> tuple[Done, bytes]:
        """Reveal shares, once t sites have signed this node's own lists.

        Args:
            message: confirmations (8).

        Returns:
            The next state, and the shares (9).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        params, context = party.params, party.params.context
        signatures = Confirmations.from_bytes(message, context, len(params.roster)).signatures
        if len(signatures) < params.threshold:
            raise TooFewSites(f"{len(signatures)} sites confirmed, {params.threshold} must; nothing was revealed")
        if not set(indices_of(signatures)) <= set(content.survivors):
            raise UnfaithfulCoordinator("a site confirmed that is not among the survivors; nothing was revealed")
        lists = (content.round_digest, content.masked_for, content.survivors)
        statement = sealing.survivors_statement(context, *lists)
        for index, signature in signatures:
            if not party.federation.signed_by(party.name(index), statement, signature):
                raise UnfaithfulCoordinator(
                    f"{party.name(index)} did not sign the lists that this site was shown; nothing was revealed"
                )
        entries = entry_list(content.shares)
        digest = sealing.shares_statement(context, content.round_digest, party.index, *lists[1:], entries)
        reply = Shares(party.index, content.shares, party.sign(digest)).to_bytes(context)
        return Done(party, held.Nothing()), reply


class Masked(State[held.Bound]):
    """The vector is masked for U2; private keys and b are gone."""

    STEP = 3
    HELD = held.Bound

    def confirm(self, message: bytes, signed_lists: SignedLists) -> tuple[Confirmed, bytes]:
        """Sign the one survivor list, and drop every share that it does not allow to reveal.

        Args:
            message: lists (6).
            signed_lists: the lists that this site has signed in this study. With rosters "chain" the list is
                appended to them, durably, before it is signed; with "free" they are not looked at.

        Returns:
            The next state, and the confirmation (7).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, SurvivorsChanged, ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        context = party.params.context
        lists = Lists.from_bytes(message, context, len(party.params.roster))
        if lists.masked_for != content.masked_for:
            raise UnfaithfulCoordinator("the coordinator's U2 differs from the one this site masked for")
        if party.index not in lists.survivors:
            raise UnfaithfulCoordinator("the coordinator asks this site to confirm a sum without it")
        if not set(lists.survivors) <= set(lists.masked_for):
            raise UnfaithfulCoordinator("the survivors hold a site that no vector was masked for")
        party.enough(lists.survivors, "sent a vector")
        if party.params.rosters == "chain":
            colluders = party.params.colluders
            signed_lists.append(lists.survivors, lambda last: check_follows(last, lists.survivors, colluders))
        shares = tuple(
            (j, content.self_shares[j] if j in lists.survivors else content.mask_shares[j]) for j in lists.masked_for
        )
        signed = held.Signed(content.round_digest, lists.masked_for, lists.survivors, shares)
        statement = sealing.survivors_statement(context, signed.round_digest, signed.masked_for, signed.survivors)
        reply = Confirmation(party.index, party.sign(statement)).to_bytes(context)
        return Confirmed(party, signed), reply


class Shared(State[held.Dealt]):
    """The shares of b and cm are dealt; the vector is not masked yet."""

    STEP = 2
    HELD = held.Dealt

    def check(self, message: bytes) -> None:
        """Raise what `mask` would raise of this inbox, and spend nothing: a site is charged for a vector that can go.

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite: section 6.
        """
        content, party = self._look(), self._party
        inbox = Inbox.from_bytes(message, party.params.context, len(party.params.roster))
        masked_by(party, inbox, content.adverts)
        unseal(party, content, inbox.sealed, sealing.round_digest(party.params.context, content.adverts))

    def mask(self, message: bytes, words: NDArray[np.uint32]) -> tuple[Masked, NDArray[np.uint32], bytes]:
        """Open the peers' shares, mask the vector in place, let go of the keys.

        Args:
            message: this site's inbox (4).
            words: [d] uint32, the site's vector in the ring. It is masked in place, so that no copy of
                it stays behind; where an error is raised it is as it was.

        Returns:
            The next state, the same array, now masked (below 2^wire_bits), and the proof (5).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite, MechanismViolation,
            ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        params, context, me = party.params, party.params.context, party.index
        inbox = Inbox.from_bytes(message, context, len(params.roster))
        check_words(words, params.dimension)
        r1 = sealing.round_digest(context, content.adverts)
        masked_for = masked_by(party, inbox, content.adverts)
        self_shares, mask_shares = unseal(party, content, inbox.sealed, r1)
        self_shares[me] = content.own_share
        keys = {advert.index: advert.mask_key for advert in content.adverts.adverts}
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
        signature = party.sign(sealing.masked_statement(context, r1, me, masked_for, digest))
        bound = held.Bound(r1, {j: self_shares[j] for j in masked_for}, mask_shares)
        return Masked(party, bound), words, Proof(me, digest, signature).to_bytes(context)


def _masked(words: NDArray[np.uint32], wire_bits: int, plus: list[bytes], minus: list[bytes]) -> bytes:
    """Mask in place, cut to the wire's bits; the digest of the result."""
    hashed, low = WordsDigest(words.size), np.uint32((1 << wire_bits) - 1)

    def finished(piece: NDArray[np.uint32]) -> None:
        if wire_bits < 32:
            np.bitwise_and(piece, low, out=piece)
        hashed.update(piece)

    add_masks(words, plus, minus, finished=finished)
    return hashed.digest()


class Opened(State[held.Fresh]):
    """Keys are made and advertised."""

    STEP = 1
    HELD = held.Fresh

    def share(self, message: bytes) -> tuple[Shared, bytes]:
        """Deal shares of b and cm to every site that advertised keys. Draws nothing: section 4.

        Args:
            message: adverts (2).

        Returns:
            The next state, and the sealed shares (3).

        Raises:
            ProtocolError, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite, ReplayedAttempt: section 6.
        """
        content, party = self._spend(), self._party
        params, context, me = party.params, party.params.context, party.index
        adverts = Adverts.from_bytes(message, context, len(params.roster))
        check_adverts(party, content.advert, adverts)
        r1 = sealing.round_digest(context, adverts)
        points = [advert.index + 1 for advert in adverts.adverts]
        dealt = [
            shamir.deal(secret, sealing.coefficients(content.seed, context, which, params.threshold), points)
            for which, secret in ((_B, content.self_secret), (_CM, content.mask_private))
        ]
        sealed, own_share, exchanged = [], b"", {}
        mine = sealing.private_key(content.seal_private)
        for advert, self_share, mask_share in zip(adverts.adverts, *dealt, strict=True):
            if advert.index == me:
                own_share = self_share
                continue
            exchanged[advert.index] = sealing.exchange(mine, advert.seal_key, party.name(advert.index))
            key = sealing.seal_key(exchanged[advert.index], r1, me, advert.index)
            sealed.append((advert.index, sealing.seal(key, self_share + mask_share, r1, me, advert.index)))
        signature = party.sign(sealing.sealed_statement(context, r1, me, entry_list(sealed)))
        reply = Sealed(me, r1, tuple(sealed), signature).to_bytes(context)
        kept = held.Dealt(content.self_secret, content.mask_private, own_share, exchanged, adverts)
        return Shared(party, kept), reply


def open_session(
    params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation, entropy: Entropy
) -> tuple[Opened, bytes]:
    """Make this session's secrets: the only step that draws randomness.

    Args:
        params: this node's own, from its approved plan (`parameters.agree` compares the coordinator's).
        site: this site.
        identity: its key in the federation.
        federation: the manifest that this site approved.
        entropy: the operating system's.

    Returns:
        The first state, and the advert (1).

    Raises:
        MechanismViolation, NotApproved: section 6.
    """
    party = Party.of(params, site, identity, federation)
    self_secret, seal_private, mask_private, seed = (entropy.bytes(32) for _ in range(4))
    publics = sealing.public_of(seal_private), sealing.public_of(mask_private)
    commit = sealing.commitment(params.context, party.index, self_secret)
    signature = party.sign(sealing.advert_statement(params.context, party.index, *publics, commit))
    advert = Advert(party.index, *publics, commit, signature)
    fresh = held.Fresh(self_secret, seal_private, mask_private, seed, advert)
    return Opened(party, fresh), advert.to_bytes(params.context)


AnyState = Opened | Shared | Masked | Confirmed | Done
_STATES: tuple[type[AnyState], ...] = (Opened, Shared, Masked, Confirmed, Done)


def restore(
    data: bytes, step: int, params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation
) -> AnyState:
    """Read a stored state of any step.

    Args:
        data: what `to_bytes` wrote.
        step: the newest step that the site's ledger knows for this session, 1 to 5. A state of another step
            was put back from an older copy.
        params: the session's, as at `open_session`.
        site: this site.
        identity: its key.
        federation: the manifest.

    Raises:
        LedgerCorrupt: damaged, or of another session or site.
        ReplayedAttempt: an older step than the ledger knows, or one that it does not know.
    """
    stored = held.step_of(data)
    if stored != step:
        raise ReplayedAttempt(
            f"the stored state is at step {stored} and the ledger at step {step}; it was put back from an older "
            "copy. Give the session up: answering a step twice could reveal this site's vector"
        )
    return _STATES[step - 1].from_bytes(data, params, site, identity, federation)
