"""A site's answers within one attempt, under either aggregation (PRIVACY 4, 8, 12)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.core.failpoints import reached
from undertone.errors import NotPrepared, ProtocolError
from undertone.models.layout import state_sha256
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger, Receipt, commit_to_sum
from undertone.privacy.plain_sum import plain_input
from undertone.privacy.stages import MaskedVector
from undertone.study.plan import Plan
from undertone.wire.messages import NO, YES, Request
from undertone.wire.vectors import Packed
from undertone_client.compute.preparing import Preparation
from undertone_client.round.contribution import site_total
from undertone_client.round.noise_share import add_noise_share
from undertone_client.round.readiness import Preparations
from undertone_client.round.session import SiteSession
from undertone_client.site.attempt_store import AttemptKey, AttemptStore
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.budget import charge, check_draws_on
from undertone_client.site.folder import SiteDir


@dataclass(frozen=True)
class Answer:
    """What a node has to say: a vector, a message of secure aggregation, both or neither."""

    vector: MaskedVector | None = None
    body: bytes = b""


@dataclass(frozen=True)
class SiteAttempt:
    """One request within an attempt, with what the node needs to answer it."""

    site: SiteDir
    plan: Plan
    request: Request
    ledger: Ledger
    store: AttemptStore
    entropy: Entropy
    data_set: str
    preparations: Preparations
    check: Callable[[], object]
    """Whether plan and attempt may begin still; raises where they may not."""

    def plain(self) -> Answer:
        """Prepare, then plain_input: the coordinator sees this site's sum.

        Raises:
            ProtocolError: any other kind, or a wrong or missing model state.
        """
        if self.request.kind == "ready":
            return self._ready()
        state = self._state()
        if self.request.kind == "prepare":
            self._prepare(state)
            return Answer()
        if self.request.kind != "plain_input":
            raise ProtocolError(f"a plan with plain aggregation has no message {self.request.kind}")
        self._check_ready()
        vector = plain_input(site_total(self.plan, self._key, state_sha256(state), self.store))
        self._charge(vector.words.astype(np.int64))
        return self._leaving(Answer(vector))

    def secure(self) -> Answer:
        """The five rounds of docs/secure-aggregation.md: the coordinator sees the sum of all sites alone."""
        session = SiteSession(self.site, self.plan, self.request, self.ledger)
        match self.request.kind:
            case "prepare":
                state = self._state()
                self._prepare(state)
                return Answer(body=session.advertise_keys(state_sha256(state), self.entropy))
            case "ready":
                return self._ready()
            case "share_keys":
                return Answer(body=session.share_keys())
            case "masked_input":
                self._check_ready()
                return self._leaving(Answer(*self._masked_input(session)))
            case "consistency_check":
                return Answer(body=session.consistency_check())
            case "unmasking":
                return Answer(body=session.unmasking())
            case _:
                raise ProtocolError(f"a plan with secure aggregation has no message {self.request.kind}")

    def _masked_input(self, session: SiteSession) -> tuple[MaskedVector, bytes]:
        """Steps 2 to 4 of the mechanism; charge; with distributed noise add this site's noise share; mask."""
        prepared_for, keys_shared = session.begin_masked_input()
        clipped = site_total(self.plan, self._key, prepared_for, self.store)
        receipt = self._charge(clipped.values)
        if self.plan.privacy.noise == "central":
            return session.masked_input(prepared_for, keys_shared, clipped)
        noised = add_noise_share(clipped, receipt, self.plan, self.request.round, self.entropy)
        return session.masked_input(prepared_for, keys_shared, noised)

    def _state(self) -> NDArray[np.float32]:
        state = self.request.state
        if isinstance(state, Packed):  # only now: the signature holds, and the plan says how long it is
            state = state.read(np.float32, self.plan.state_size).copy()  # torch wants what may be written to
        if state is None or state.shape != (self.plan.state_size,):
            raise ProtocolError(f"the model state is not a vector of {self.plan.state_size} values")
        return state

    def _prepare(self, state: NDArray[np.float32]) -> None:
        """Step 1 of the mechanism: coins and rows, into the attempt store, now or behind this answer."""
        check_draws_on(self.ledger, self.plan, self.data_set)
        folder, plan, key, entropy, data_set = self.site.folder, self.plan, self._key, self.entropy, self.data_set

        def work() -> None:
            site = SiteDir(folder)
            with AttemptStore(site.attempt_store) as store:
                Preparation(site, plan, key, state, store, entropy, data_set).run()

        due = plan.ready_after(self.site.config.site)
        self.preparations.begin(key, state_sha256(state), due, work, self.check)

    def _ready(self) -> Answer:
        """Yes or no, and no more: how far it is would tell how many units the coins chose (PRIVACY 26)."""
        return Answer(body=YES if self.preparations.is_ready(self._key) else NO)

    def _check_ready(self) -> None:
        """Before anything is spent on an answer.

        Raises:
            NotPrepared: its time has not come, or has passed.
        """
        if not self.preparations.is_ready(self._key):
            raise NotPrepared(f"round {self.request.round}, attempt {self.request.attempt} is not ready yet")

    def _charge(self, values: NDArray[np.int64]) -> Receipt:
        """Charge the plan's reservation in the site's own ledger, durably, before anything leaves."""
        # The site's own secret is the salt: a plain hash of a sum could be tested by guessing one unit.
        commitment = commit_to_sum(values, self.site.secret())
        check_draws_on(self.ledger, self.plan, self.data_set)
        reached("node/before charge")
        receipt = charge(self.ledger, self.plan, self.request.round, self.request.attempt, commitment)
        reached("node/charge durable")
        AuditLog(self.site.folder).append(
            "attempt charged",
            digest=self.plan.digest,
            data_set=self.data_set,
            round=self.request.round,
            attempt=self.request.attempt,
        )
        return receipt

    def _leaving(self, answer: Answer) -> Answer:
        """Coins and rows have served."""
        if not self.site.config.keep_rows:
            self.store.forget(self._key)
        reached("node/before answer")
        return answer

    @property
    def _key(self) -> AttemptKey:
        return self.plan.digest, self.request.round, self.request.attempt
