"""A coordinator that lies, for the tests: an honest session up to a stage, then one message of its own making."""

from tests.support.secagg import Run, vector, world
from undertone.secagg import sealing
from undertone.secagg.messages import Advert, Adverts, Confirmations, Inbox, Lists, Sealed
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

    def adverts(self):
        self.broadcast = self.server.adverts(self.run.open())
        return Adverts.from_bytes(self.broadcast, self.context, self.n)

    def inboxes(self):
        self.adverts()
        self.boxes = self.server.sealed(self.run.share(self.broadcast, self.scene.roster))
        return {site: Inbox.from_bytes(box, self.context, self.n) for site, box in self.boxes.items()}

    def lists(self, without=()):
        """U2 is everybody; the sites in `without` never send their vector."""
        self.inboxes()
        self.survivors = [site for site in self.scene.roster if site not in without]
        for site in self.survivors:
            assert self.server.fold(site, *self.run.mask(site, self.boxes[site]))
        self.listed = self.server.close()
        return Lists.from_bytes(self.listed, self.context, self.n)

    def confirmations(self, without=()):
        self.lists(without)
        self.confirmed = self.server.confirmations(self.run.confirm(self.listed, self.survivors))
        return Confirmations.from_bytes(self.confirmed, self.context, self.n)

    def send(self, step, message, *arguments, site=None):
        """One message to one node, straight."""
        state = self.run.states[site or self.victim]
        if step == "confirm":
            arguments = (self.run.signed[site or self.victim],)
        return getattr(state, step)(message.to_bytes(self.context), *arguments)

    def words(self, site=None):
        return vector(self.scene, site or self.victim)

    def swap(self, adverts, index, advert):
        return Adverts(tuple(advert if a.index == index else a for a in adverts.adverts))


def signed_advert(scene, index, key, seal_private=b"\1" * 32, mask_public=None):
    """An advert of the attacker's own making, signed with `key`."""
    publics = sealing.public_of(seal_private), mask_public or sealing.public_of(b"\2" * 32)
    commit = sealing.commitment(scene.params.context, index, b"\3" * 32)
    digest = sealing.advert_statement(scene.params.context, index, *publics, commit)
    return Advert(index, *publics, commit, sealing.sign_statement(key, digest))


def colluders_inbox(attack, adverts, dealt):
    """The victim's inbox, with site 1's shares sealed by the attacker (who has its private keys)."""
    r1 = sealing.round_digest(attack.context, adverts)
    shared = sealing.exchange(b"\1" * 32, adverts.adverts[0].seal_key, "victim")
    boxes = {1: sealing.seal(sealing.seal_key(shared, r1, 1, 0), bytes(66), r1, 1, 0)}
    for site, (_, message) in dealt.items():
        sealed = Sealed.from_bytes(message, attack.context, attack.n)
        boxes |= {sealed.index: dict(sealed.sealed)[0]} if site != attack.victim else {}
    return Inbox(0, tuple(sorted(boxes.items()))).to_bytes(attack.context)


def advert_list(attack, messages, context):
    adverts = [Advert.from_bytes(m, m[2:34], attack.n) for _, m in sorted(messages.items())]
    return Adverts(tuple(adverts)).to_bytes(context)


def collect(attack, receiver, messages):
    me = attack.scene.roster.index(receiver)
    boxes = [Sealed.from_bytes(message, attack.context, attack.n) for message in messages.values()]
    return Inbox(me, tuple(sorted((s.index, dict(s.sealed)[me]) for s in boxes if s.index != me)))


def restore_at(attack, site, data, step):
    scene = attack.scene
    return restore(data, step, scene.params, site, scene.identities[site], scene.federation)


def gathered(attack, messages):
    """Confirmations as they are, valid or not."""
    return Confirmations(tuple((attack.scene.roster.index(site), m[-64:]) for site, m in sorted(messages.items())))
