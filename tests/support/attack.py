"""A coordinator that lies, for the tests: an honest session up to a stage, then one message of its own making."""

from tests.support.secagg import Run, vector, world
from undertone.secagg import sealing
from undertone.secagg.messages import (
    AdvertisedKeys,
    AdvertisedKeysList,
    ConsistencyLists,
    ConsistencySignatures,
    SealedShares,
    ShareInbox,
)
from undertone.secagg.node import restore
from undertone.secagg.server import ServerSession


class Attack:
    """An honest run up to a stage; `lie` below changes one message."""

    def __init__(self, sites=5, dimension=7, **changes):
        self.scene = world(sites, dimension, **changes)
        self.run = Run(self.scene)
        self.server = ServerSession(self.scene.params, self.scene.federation)
        self.context, self.n = self.scene.params.context, sites
        self.victim = self.scene.roster[0]

    def advertise_keys(self):
        self.broadcast = self.server.advertise_keys(self.run.advertise_keys())
        return AdvertisedKeysList.from_bytes(self.broadcast, self.context, self.n)

    def inboxes(self):
        self.advertise_keys()
        self.boxes = self.server.share_keys(self.run.share_keys(self.broadcast, self.scene.roster))
        return {site: ShareInbox.from_bytes(box, self.context, self.n) for site, box in self.boxes.items()}

    def lists(self, without=()):
        """U2 is everybody; the sites in `without` never send their vector."""
        self.inboxes()
        self.survivors = [site for site in self.scene.roster if site not in without]
        for site in self.survivors:
            assert self.server.add_masked_input(site, *self.run.masked_input(site, self.boxes[site]))
        self.listed = self.server.end_masked_input()
        return ConsistencyLists.from_bytes(self.listed, self.context, self.n)

    def consistency_check(self, without=()):
        self.lists(without)
        self.signature_list = self.server.consistency_check(self.run.consistency_check(self.listed, self.survivors))
        return ConsistencySignatures.from_bytes(self.signature_list, self.context, self.n)

    def send(self, step, message, *arguments, site=None):
        """One message to one node, straight."""
        state = self.run.states[site or self.victim]
        if step == "consistency_check":
            arguments = (self.run.signed[site or self.victim],)
        return getattr(state, step)(message.to_bytes(self.context), *arguments)

    def words(self, site=None):
        return vector(self.scene, site or self.victim)

    def swap(self, key_list, index, advertised):
        return AdvertisedKeysList(tuple(advertised if a.index == index else a for a in key_list.advertised))


def signed_keys(scene, index, key, seal_private=b"\1" * 32, mask_public=None):
    """Advertised keys of the attacker's own making, signed with `key`."""
    publics = sealing.public_of(seal_private), mask_public or sealing.public_of(b"\2" * 32)
    commit = sealing.commitment(scene.params.context, index, b"\3" * 32)
    digest = sealing.advertised_keys_statement(scene.params.context, index, *publics, commit)
    return AdvertisedKeys(index, *publics, commit, sealing.sign_statement(key, digest))


def colluders_inbox(attack, key_list, dealt):
    """The victim's inbox, with site 1's shares sealed by the attacker (who has its private keys)."""
    r1 = sealing.round_digest(attack.context, key_list)
    shared = sealing.exchange(b"\1" * 32, key_list.advertised[0].seal_key, "victim")
    boxes = {1: sealing.seal(sealing.seal_key(shared, r1, 1, 0), bytes(66), r1, 1, 0)}
    for site, (_, message) in dealt.items():
        sealed = SealedShares.from_bytes(message, attack.context, attack.n)
        boxes |= {sealed.index: dict(sealed.sealed)[0]} if site != attack.victim else {}
    return ShareInbox(0, tuple(sorted(boxes.items()))).to_bytes(attack.context)


def key_list_of(attack, messages, context):
    key_list = [AdvertisedKeys.from_bytes(m, m[2:34], attack.n) for _, m in sorted(messages.items())]
    return AdvertisedKeysList(tuple(key_list)).to_bytes(context)


def collect(attack, receiver, messages):
    me = attack.scene.roster.index(receiver)
    boxes = [SealedShares.from_bytes(message, attack.context, attack.n) for message in messages.values()]
    return ShareInbox(me, tuple(sorted((s.index, dict(s.sealed)[me]) for s in boxes if s.index != me)))


def restore_at(attack, site, data, step):
    scene = attack.scene
    return restore(data, step, scene.params, site, scene.identities[site], scene.federation)


def gathered(attack, messages):
    """Consistency signatures as they are, valid or not."""
    return ConsistencySignatures(
        tuple((attack.scene.roster.index(site), m[-64:]) for site, m in sorted(messages.items()))
    )
