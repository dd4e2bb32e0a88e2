"""A site's answers within one attempt, under either aggregation (PRIVACY 4, 8, 12)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.errors import ProtocolError
from undertone.failpoints import reached
from undertone.layout import state_sha256
from undertone.messages import Request
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger, Receipt, commit_to_sum
from undertone.secagg.plain import mask
from undertone.stages import MaskedVector
from undertone.vectors import Packed
from undertone_client.contribution import site_total
from undertone_client.gate import add_share
from undertone_client.preparing import Preparation
from undertone_client.session import SiteSession
from undertone_client.site import SiteDir
from undertone_client.state import Attempt, NodeState


@dataclass(frozen=True)
class Answer:
    """What a node has to say: a vector, a message of secure aggregation, both or neither."""

    vector: MaskedVector | None = None
    body: bytes = b""


@dataclass(frozen=True)
class OpenAttempt:
    """One request within an attempt, with what the node needs to answer it."""

    site: SiteDir
    plan: Plan
    request: Request
    ledger: Ledger
    memory: NodeState
    entropy: Entropy

    def plain(self) -> Answer:
        """Prepare, then contribute: the coordinator sees this site's sum.

        Raises:
            ProtocolError: any other kind, or a wrong or missing model state.
        """
        state = self._state()
        if self.request.kind == "prepare":
            self._prepare(state)
            return Answer()
        if self.request.kind != "contribute":
            raise ProtocolError(f"a plan with plain aggregation has no message {self.request.kind}")
        masked = mask(site_total(self.plan, self._key, state_sha256(state), self.memory))
        self._charge(masked.words.astype(np.int64))
        return self._leaving(Answer(masked))

    def secure(self) -> Answer:
        """The five messages of docs/secure-aggregation.md: the coordinator sees the sum of all sites alone."""
        session = SiteSession(self.site, self.plan, self.request, self.ledger)
        match self.request.kind:
            case "prepare":
                state = self._state()
                self._prepare(state)
                return Answer(body=session.open(state_sha256(state), self.entropy))
            case "share":
                return Answer(body=session.share())
            case "contribute":
                return self._leaving(Answer(*self._masked(session)))
            case "confirm":
                return Answer(body=session.confirm())
            case "unmask":
                return Answer(body=session.unmask())
            case _:
                raise ProtocolError(f"a plan with secure aggregation has no message {self.request.kind}")

    def _masked(self, session: SiteSession) -> tuple[MaskedVector, bytes]:
        """Clip, quantise, sum, clamp; charge; with distributed noise add this site's share; mask."""
        prepared_for, shared = session.begin_mask()
        clipped = site_total(self.plan, self._key, prepared_for, self.memory)
        receipt = self._charge(clipped.values)
        if self.plan.privacy.noise == "central":
            return session.mask(prepared_for, shared, clipped)
        return session.mask(prepared_for, shared, add_share(clipped, receipt, self.plan, self.entropy))

    def _state(self) -> NDArray[np.float32]:
        state = self.request.state
        if isinstance(state, Packed):  # only now: the signature holds, and the plan says how long it is
            state = state.read(np.float32, self.plan.method.dimension).copy()  # torch wants what may be written to
        if state is None or state.shape != (self.plan.method.dimension,):
            raise ProtocolError(f"the model state is not a vector of {self.plan.method.dimension} values")
        return state

    def _prepare(self, state: NDArray[np.float32]) -> None:
        Preparation(self.site, self.plan, self._key, state, self.memory, self.entropy).run()

    def _charge(self, values: NDArray[np.int64]) -> Receipt:
        """Charge the site's own ledger, durably, before anything leaves."""
        # The site's own secret is the salt: a plain hash of a sum could be tested by guessing one unit.
        commitment = commit_to_sum(values, self.site.secret())
        reached("node/before charge")
        attempts = self.plan.privacy.max_attempts
        receipt = self.ledger.charge(
            *self._key, self.plan.event, commitment, attempts, once_per_round=self.plan.once_per_round
        )
        reached("node/charge durable")
        return receipt

    def _leaving(self, answer: Answer) -> Answer:
        """Coins and rows have served."""
        if not self.site.config.keep_rows:
            self.memory.forget(self._key)
        reached("node/before answer")
        return answer

    @property
    def _key(self) -> Attempt:
        return self.plan.digest, self.request.round, self.request.attempt
