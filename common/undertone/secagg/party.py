"""Who a node is in a session, and what it insists on before it answers (docs/secure-aggregation.md, 6)."""

from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.errors import MechanismViolation, NotApproved, TooFewSites, UnfaithfulCoordinator, UnfaithfulSite
from undertone.secagg import sealing, shamir, stored_state
from undertone.secagg.messages import AdvertisedKeys, AdvertisedKeysList, Entries, Indices, ShareInbox, indices_of
from undertone.secagg.parameters import Parameters


@dataclass(frozen=True)
class Party:
    """Who this node is in a session."""

    params: Parameters
    index: int
    identity: Ed25519PrivateKey = field(repr=False)
    federation: Federation

    @classmethod
    def of(cls, params: Parameters, site: str, identity: Ed25519PrivateKey, federation: Federation) -> "Party":
        """Check that the parameters are sound and that this site is who it should be.

        Raises:
            MechanismViolation: unsound parameters.
            NotApproved: another federation, or a site or key that is not in it.
        """
        params.check()
        if federation.digest != params.federation:
            raise NotApproved("the session runs on another federation manifest than the one this site approved")
        strangers = sorted(set(params.roster) - set(federation.sites))
        if strangers:
            raise NotApproved(f"{strangers[0]} is on the roster and not in the federation; plan the study anew")
        if site not in params.roster or federation.sites[site] != public_hex(identity):
            raise NotApproved(f"{site} with this key is not on the roster; check the site's name and key file")
        return cls(params, params.roster.index(site), identity, federation)

    def sign(self, digest: bytes) -> bytes:
        """This site's signature over the digest of a statement."""
        return sealing.sign_statement(self.identity, digest)

    def name(self, index: int) -> str:
        """The site at `index`."""
        return self.params.roster[index]

    def check_threshold(self, sites: Indices, what: str) -> None:
        """The threshold check of every step: at least Q sites (`Parameters.quorum`).

        Raises:
            TooFewSites: fewer.
        """
        if len(sites) < self.params.quorum:
            raise TooFewSites(
                f"{len(sites)} sites {what}, {self.params.quorum} are needed; nothing was revealed. "
                "Start another session when more sites are there"
            )


def check_key_list(party: Party, own: AdvertisedKeys, key_list: AdvertisedKeysList) -> None:
    """U1 passes the threshold check, holds this node's own keys as it sent them, and all keys are their sites'."""
    context = party.params.context
    party.check_threshold(tuple(advertised.index for advertised in key_list.advertised), "sent keys")
    if own not in key_list.advertised:
        raise UnfaithfulCoordinator("the coordinator left out or changed this site's keys")
    for advertised in key_list.advertised:
        keys = (advertised.seal_key, advertised.mask_key, advertised.commitment)
        digest = sealing.advertised_keys_statement(context, advertised.index, *keys)
        if not party.federation.signed_by(party.name(advertised.index), digest, advertised.signature):
            raise UnfaithfulCoordinator(f"the keys shown for {party.name(advertised.index)} are not signed by it")
        sealing.check_publics(advertised.seal_key, advertised.mask_key, site=party.name(advertised.index))


def masked_by(party: Party, inbox: ShareInbox, key_list: AdvertisedKeysList) -> Indices:
    """U2: the senders and this node."""
    me, senders = party.index, set(indices_of(inbox.sealed))
    if inbox.index != me:
        raise UnfaithfulCoordinator(f"the coordinator sent {party.name(inbox.index)}'s inbox to this site")
    if me in senders or not senders <= {advertised.index for advertised in key_list.advertised}:
        raise UnfaithfulCoordinator("the inbox holds shares of a site that sent no keys, or of this site itself")
    masked_for = tuple(sorted({me, *senders}))
    party.check_threshold(masked_for, "dealt shares")
    return masked_for


def unseal(
    party: Party, content: stored_state.AfterShareKeys, sealed: Entries, r1: bytes
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Sender -> its share of b, and sender -> its share of cm."""
    self_shares, mask_shares = {}, {}
    for j, box in sealed:
        key = sealing.seal_key(content.agreed[j], r1, j, party.index)
        plaintext = sealing.unseal(key, box, r1, j, party.index)
        if plaintext is None:
            raise UnfaithfulCoordinator(
                f"the shares of {party.name(j)} were changed on their way, or it sealed wrongly", party.name(j)
            )
        self_shares[j], mask_shares[j] = plaintext[: shamir.SHARE_BYTES], plaintext[shamir.SHARE_BYTES :]
        if not (shamir.is_share(self_shares[j]) and shamir.is_share(mask_shares[j])):
            why = f"{party.name(j)} dealt a share that is no field element; leave it out"
            raise UnfaithfulSite(why, party.name(j))
    return self_shares, mask_shares


def check_words(words: NDArray[np.uint32], dimension: int) -> None:
    """Insist on d uint32 words that can be masked in place."""
    if not (
        isinstance(words, np.ndarray)
        and words.dtype == np.uint32
        and words.shape == (dimension,)
        and words.flags.c_contiguous
        and words.flags.writeable
    ):
        raise MechanismViolation(f"the vector to mask is not {dimension} uint32 words in one writable block")
