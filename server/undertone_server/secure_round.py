"""One attempt under secure aggregation: five questions to each site, one opened sum (docs/secure-aggregation.md).

The session lives in this process alone. Where the process dies before the first vector was asked for, another
session of the same attempt takes its place at no cost; after that the attempt is void.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import sha256_hex
from undertone.errors import TooFewSites, UnfaithfulSite
from undertone.failpoints import reached
from undertone.layout import state_sha256
from undertone.messages import Kind, Words
from undertone.privacy.quantise import from_ring
from undertone.secagg.agreed import parameters_of
from undertone.secagg.federation import Federation
from undertone.secagg.prg import unpack24
from undertone.secagg.server import OpenedSum, ServerSession
from undertone.stages import SharedSum, Sum
from undertone_server.attempt import Attempt

_T = TypeVar("_T")


def collect(attempt: Attempt, federation: Federation) -> Sum:
    """With central noise: the survivors' sum, still private.

    Raises:
        TooFewSites: fewer than the quorum at some step; who is missing, and why. Nothing was revealed.
        UnfaithfulSite: shares do not fit what their owner committed to.
        MechanismViolation: a site did not clamp.
    """
    opened = _opened(attempt, federation, lambda _confirmed: None)
    values = from_ring(opened.words, len(opened.sites), attempt.plan.grid.site_clamp)
    return Sum(values, attempt.plan.sensitivity, opened.sites)


def collect_shared(attempt: Attempt, federation: Federation, before_opening: Callable[[str], object]) -> SharedSum:
    """With distributed noise: the survivors' sum with their shares of noise in it.

    Args:
        attempt: which.
        federation: the manifest.
        before_opening: called with the digest of the signed survivor lists before the shares that open the
            sum are asked for: whoever charges there charges before anything is known.

    Raises:
        TooFewSites, UnfaithfulSite: as `collect`.
    """
    opened = _opened(attempt, federation, before_opening)
    values = opened.words.view(np.int32).astype(np.int64)
    return SharedSum(values, attempt.plan.privacy.sigma_local, opened.sites)


def _opened(attempt: Attempt, federation: Federation, before_opening: Callable[[str], object]) -> OpenedSum:
    """The attempt's sum, without the sites that are proven to have dealt what keeps it from being opened.

    A site can sign shares that are garbage. Only those that they are sealed for find out, and refuse; each says whose
    they were. If more than c say so, one of them is honest. Where no other site's vector has left, another session of
    the same attempt then takes the place of the broken one. Else the attempt is lost, and the next one goes on without
    them.
    """
    while True:
        session = Session.of(attempt, federation)
        try:
            return session.run(before_opening)
        except TooFewSites as error:
            guilty = attempt.sites.accused(more_than=attempt.plan.aggregation.colluders)
            for site in guilty:
                attempt.sites.leave_out(site, "what it sealed for the other sites cannot be opened")
            if not guilty:
                raise
            if not guilty.issuperset(session.server.survivors):
                raise TooFewSites(f"{error}; left out from here on: {', '.join(sorted(guilty))}; resume") from None
        except UnfaithfulSite as error:
            if error.blamed:
                attempt.sites.leave_out(error.blamed, "it dealt shares that give no secret that it committed to")
            raise
        attempt.sites.find()


@dataclass(frozen=True)
class Session:
    """The coordinator's side of one session over Flower's messages."""

    attempt: Attempt
    number: int
    server: ServerSession

    @classmethod
    def of(cls, attempt: Attempt, federation: Federation) -> "Session":
        """A new session of an attempt, its number durable before anyone hears of it."""
        number = attempt.run.next_session(attempt.round, attempt.number)
        state = state_sha256(attempt.state)
        params = parameters_of(attempt.plan, federation.digest, attempt.round, attempt.number, number, state)
        return cls(attempt, number, ServerSession(params, federation))

    def run(self, before_opening: Callable[[str], object]) -> OpenedSum:
        """The five messages. A vector is added as it arrives and freed before the next one is pulled."""
        attempt, server = self.attempt, self.server
        quorum, threshold = server.params.quorum, server.params.threshold
        adverts = self._ask("prepare", attempt.sites.present, server.params.to_bytes(), quorum)
        shown = self._step(lambda: server.adverts(adverts))
        sealed = self._ask("share", self._still(adverts), shown, quorum)
        inboxes = self._step(lambda: server.sealed(sealed))
        attempt.begin()
        self._step(lambda: self._fold_vectors(inboxes))
        lists = self._step(server.close)
        confirmed = self._ask("confirm", self._still(inboxes), lists, threshold)
        signatures = self._step(lambda: server.confirmations(confirmed))
        reached("secure/confirmed")
        before_opening(sha256_hex(signatures))
        shares = self._ask("unmask", self._still(confirmed), signatures, threshold)
        opened = self._step(lambda: server.open(shares))
        self._log(opened)
        return opened

    def _ask(self, kind: Kind, sites: Iterable[str], body: bytes, needed: int) -> dict[str, bytes]:
        """One message for all of `sites`, and what they answer; the model state goes with `prepare` alone.

        Raises:
            TooFewSites: fewer than `needed` answered.
        """
        bodies, with_state = dict.fromkeys(sites, body), kind == "prepare"
        replies = self.attempt.ask(kind, bodies, session=self.number, with_state=with_state)
        answered = {site: reply.body for site, reply in replies}
        self.attempt.enough(answered, needed)
        return answered

    def _fold_vectors(self, inboxes: dict[str, bytes]) -> None:
        """Add each vector as it arrives."""
        answered = []
        for site, reply in self.attempt.ask("contribute", inboxes, session=self.number):
            self.server.fold(site, _words(reply.words), reply.body)
            answered.append(site)
        self.attempt.enough(answered, self.server.params.quorum)

    def _step(self, work: Callable[[], _T]) -> _T:
        """Do one step of the session; a site that it drops is dropped here too, with its reason."""
        try:
            return work()
        finally:
            for site in self._still(self.server.dropped):
                self.attempt.sites.drop(site, self.server.dropped[site])

    def _still(self, sites: Iterable[str]) -> list[str]:
        return [site for site in sites if site in self.attempt.sites.present]

    def _log(self, opened: OpenedSum) -> None:
        """The audit log: who was in the sum, with every signature; its digest in the ledger."""
        attempt = self.attempt
        attempt.run.keep_transcript(attempt.round, attempt.number, opened.transcript)
        attempt.ledger.note(
            "opened",
            {
                "digest": attempt.plan.digest,
                "round": attempt.round,
                "attempt": attempt.number,
                "sites": list(opened.sites),
                "transcript_sha256": sha256_hex(opened.transcript),
            },
        )


def _words(words: Words | None) -> NDArray[np.uint32]:
    """A vector as it came over the wire, 4 or 3 bytes a word; none is empty, which the session refuses."""
    if words is None:
        return np.zeros(0, dtype=np.uint32)
    return unpack24(words.view(np.uint8)) if words.dtype == np.uint8 else words.view(np.uint32)
