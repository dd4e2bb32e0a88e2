"""One attempt under secure aggregation: five questions to each site, one opened sum (docs/secure-aggregation.md).

The session lives in this process alone. Where the process dies before the first vector was asked for, another
session of the same attempt takes its place at no cost; after that the attempt is void. Where the survivor lists of
the study form a chain (PRIVACY 12), `gathering` decides whom to ask, and a list is durable before it is signed.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import sha256_hex
from undertone.core.failpoints import reached
from undertone.core.federation import Federation
from undertone.errors import AttemptVoid, SurvivorsChanged, TooFewSites, UnfaithfulSite
from undertone.models.layout import state_sha256
from undertone.privacy.quantise import from_ring
from undertone.privacy.stages import Sum, SumWithNoiseShares
from undertone.secagg.prg import unpack24
from undertone.secagg.server import OpenedSum, ServerSession
from undertone.study.session_parameters import session_parameters
from undertone.wire.messages import Kind, Words
from undertone_server.collect.attempt import Attempt
from undertone_server.collect.gathering import Gathering, Patience, enter_list
from undertone_server.collect.readiness import TRIES, unprepared, wait_until_ready

_T = TypeVar("_T")
KeysShared = tuple["CoordinatorSession", dict[str, bytes]]
"""A session after ShareKeys, and the share inbox of each site that takes part; no vector has left."""


def collect(attempt: Attempt, federation: Federation, patience: Patience) -> Sum:
    """With central noise: the survivors' sum, still private.

    Args:
        attempt: which.
        federation: the manifest.
        patience: how long to wait for a site of the study's list of survivors, where the lists form a chain.

    Raises:
        TooFewSites: fewer than the quorum at some step; who is missing, and why. Nothing was revealed.
        AttemptVoid: of these, where the lists form a chain and another attempt may do.
        UnfaithfulSite: shares do not fit what their owner committed to.
        MechanismViolation: a site did not clamp.
    """
    if attempt.plan.aggregation.rosters == "chain":
        gathering = Gathering(attempt, patience)
        opened = _open_sum(attempt, lambda: _keys_of_all(attempt, federation, gathering), lambda _signatures: None)
    else:
        opened = _open_sum(attempt, lambda: _keys_of_present(attempt, federation), lambda _signatures: None)
    values = from_ring(opened.words, len(opened.sites), attempt.stage.grid.site_clamp)
    return Sum(values, attempt.stage.sensitivity, opened.sites)


def collect_with_noise_shares(
    attempt: Attempt, federation: Federation, before_unmasking: Callable[[str], object]
) -> SumWithNoiseShares:
    """With distributed noise: the survivors' sum with their noise shares in it.

    Args:
        attempt: which.
        federation: the manifest.
        before_unmasking: called with the digest of the consistency signatures before the shares that open the
            sum are asked for: whoever charges there charges before anything is known.

    Raises:
        TooFewSites, UnfaithfulSite: as `collect`.
    """
    opened = _open_sum(attempt, lambda: _keys_of_present(attempt, federation), before_unmasking)
    values = opened.words.view(np.int32).astype(np.int64)
    return SumWithNoiseShares(values, attempt.stage.sigma_local, opened.sites)


def _keys_of_present(attempt: Attempt, federation: Federation) -> KeysShared:
    """A session of whoever is there, at least the quorum."""
    for tries in count(1):
        session = CoordinatorSession.of(attempt, federation)
        advertised = session.prepare(attempt.sites.present)
        if tries == TRIES or not unprepared(attempt):
            break
        attempt.sites.find()  # coins and rows are durable: a node that was restarted goes on where it was
    if len(advertised) < session.server.params.quorum and unprepared(attempt):
        attempt.begin()  # a node whose public time is over refuses this attempt for ever: it counts, and others follow
    return session, session.share_keys(advertised)


def _keys_of_all(attempt: Attempt, federation: Federation, gathering: Gathering) -> KeysShared:
    """A session in which all sites of the study's list have shared their keys, after as many tries as that takes."""
    while True:
        wanted, session = gathering.wanted(), CoordinatorSession.of(attempt, federation)
        try:
            inboxes = session.share_keys(session.prepare(session.still(wanted)))
        except TooFewSites:
            if gathering.complete(wanted):
                raise
        else:
            if gathering.complete(wanted):
                return session, inboxes


def _open_sum(
    attempt: Attempt, share_keys: Callable[[], KeysShared], before_unmasking: Callable[[str], object]
) -> OpenedSum:
    """The attempt's sum, without the sites that are proven to have dealt what keeps it from being opened.

    A site can sign shares that are garbage. Only those that they are sealed for find out, and refuse; each says whose
    they were. If more than c say so, one of them is honest. Where no other site's vector has left, another session of
    the same attempt then takes the place of the broken one. Else the attempt is lost, and the next one goes on without
    them.
    """
    while True:
        session, inboxes = share_keys()
        try:
            return session.open_sum(inboxes, before_unmasking)
        except TooFewSites as error:
            guilty = attempt.sites.accused(more_than=attempt.plan.aggregation.colluders)
            for site in guilty:
                attempt.sites.leave_out(site, "what it sealed for the other sites cannot be opened")
            if not guilty or not guilty.issuperset(session.server.survivors):
                raise _lost(attempt, error, guilty) from None
        except UnfaithfulSite as error:
            if error.blamed:
                attempt.sites.leave_out(error.blamed, "it dealt shares that give no secret that it committed to")
            raise
        attempt.sites.find()


def _lost(attempt: Attempt, error: TooFewSites, guilty: Collection[str]) -> TooFewSites:
    """What is wrong once vectors have left: where the lists form a chain, another attempt follows by itself."""
    left_out = f"; left out from here on: {', '.join(sorted(guilty))}" if guilty else ""
    if attempt.plan.aggregation.rosters != "chain":
        return TooFewSites(f"{error}{left_out}; resume") if guilty else error
    # Sites that have signed another list would refuse the next attempt, too.
    if any(reason.startswith(SurvivorsChanged.__name__) for reason in attempt.sites.missing.values()):
        return error
    return AttemptVoid(f"{error}{left_out}")


@dataclass(frozen=True)
class CoordinatorSession:
    """The coordinator's half of one session, over Flower's messages."""

    attempt: Attempt
    number: int
    server: ServerSession

    @classmethod
    def of(cls, attempt: Attempt, federation: Federation) -> "CoordinatorSession":
        """A new session of an attempt, its number durable before anyone hears of it."""
        number = attempt.run.next_session(attempt.round, attempt.number)
        state = state_sha256(attempt.state)
        params = session_parameters(attempt.plan, federation.digest, attempt.round, attempt.number, number, state)
        return cls(attempt, number, ServerSession(params, federation))

    def prepare(self, sites: Iterable[str]) -> dict[str, bytes]:
        """AdvertiseKeys, once the rows are there: site -> its keys, for each that is ready."""
        params = self.server.params
        advertised = self._ask("prepare", sites, params.to_bytes(), params.quorum)
        return {site: advertised[site] for site in wait_until_ready(self.attempt, advertised, self.number)}

    def share_keys(self, advertised: dict[str, bytes]) -> dict[str, bytes]:
        """ShareKeys: site -> its share inbox, for each that takes part. No vector has left yet."""
        server, quorum = self.server, self.server.params.quorum
        self.attempt.check_threshold(advertised, quorum)
        key_list = self._step(lambda: server.advertise_keys(advertised))
        sealed = self._ask("share_keys", self.still(advertised), key_list, quorum)
        return self._step(lambda: server.share_keys(sealed))

    def open_sum(self, inboxes: dict[str, bytes], before_unmasking: Callable[[str], object]) -> OpenedSum:
        """MaskedInput, ConsistencyCheck, Unmasking. Each vector is added as it arrives, and then freed."""
        attempt, server = self.attempt, self.server
        threshold = server.params.threshold
        attempt.begin()
        survivors = self._step(lambda: self._add_masked_inputs(inboxes))
        lists = self._step(server.end_masked_input)
        if server.params.rosters == "chain":
            enter_list(attempt, inboxes, survivors)
        signed = self._ask("consistency_check", self.still(inboxes), lists, threshold)
        signatures = self._step(lambda: server.consistency_check(signed))
        reached("secure/consistency checked")
        before_unmasking(sha256_hex(signatures))
        shares = self._ask("unmasking", self.still(signed), signatures, threshold)
        opened = self._step(lambda: server.unmasking(shares))
        self._keep_transcript(opened)
        return opened

    def _ask(self, kind: Kind, sites: Iterable[str], body: bytes, needed: int) -> dict[str, bytes]:
        """One message for all of `sites`, and what they answer; the model state goes with `prepare` alone.

        Raises:
            TooFewSites: fewer than `needed` answered.
        """
        bodies, with_state = dict.fromkeys(sites, body), kind == "prepare"
        replies = self.attempt.ask(kind, bodies, session=self.number, with_state=with_state)
        answered = {site: reply.body for site, reply in replies}
        self.attempt.check_threshold(answered, needed)
        return answered

    def _add_masked_inputs(self, inboxes: dict[str, bytes]) -> list[str]:
        """Add each vector as it arrives; whose are in the sum."""
        answered, added = [], []
        for site, reply in self.attempt.ask("masked_input", inboxes, session=self.number):
            if self.server.add_masked_input(site, _words(reply.words), reply.body):
                added.append(site)
            answered.append(site)
        self.attempt.check_threshold(answered, self.server.params.quorum)
        return added

    def _step(self, work: Callable[[], _T]) -> _T:
        """Do one step of the session; a site that it drops is dropped here too, with its reason."""
        try:
            return work()
        finally:
            for site in self.still(self.server.dropped):
                self.attempt.sites.drop(site, self.server.dropped[site])

    def still(self, sites: Iterable[str]) -> list[str]:
        """Those of `sites` that have not dropped out."""
        return [site for site in sites if site in self.attempt.sites.present]

    def _keep_transcript(self, opened: OpenedSum) -> None:
        """The transcript: who was in the sum, with every signature; its digest in the ledger."""
        attempt = self.attempt
        attempt.run.keep_transcript(attempt.round, attempt.number, opened.transcript)
        attempt.ledger.append(
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
