"""What stands beside a study's choice: the same claim and C, with one thing chosen otherwise. Advice, and no more.

Nothing of it enters the plan, and nothing is refused by it: a choice that cannot be planned says why. Each neighbour
goes through the same settling as a study, with C a number, so that no drawing is looked at for it. Where the accountant
is slow (p < 1 with central noise) the noise of a neighbour is found by RDP, at the study's own epsilon by RDP.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from undertone.core.canonical import Json
from undertone.errors import UndertoneError
from undertone.methods.choosing import AveragingMethod, EncodingMethod
from undertone.methods.protocol import Method, MethodStage, ShardedMethod, stages_of
from undertone.privacy.accounting import Event
from undertone.study.automatic import filled
from undertone.study.near_noise import noise_near
from undertone.study.pace import Pace, pace
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone.study.resolve import Resolved, aggregation_of
from undertone.study.schema import FilledStudy, Study
from undertone.study.settling import Calibrated, once_per_round, settled_stages
from undertone.study.stage import Stage

THIS = "this study"
_SENTENCE = re.compile(r"(?<=\S)[:;.]\s")
_LONGEST = 120


@dataclass(frozen=True)
class Neighbour:
    """One choice and what it comes to; where `why_not` says why it cannot be planned, it has no figures.

    noise: the length of the noise in the mean of all rounds over C, as noise-to-signal counts it. passes: forward and
    backward through the base, for one unit in all rounds, expected; with rows of shards, for the queries; of a method
    that encodes alone, through the encoder. seconds: of all units on this machine, one after the other; of the queries;
    None: of a method that encodes alone. by_rdp: whether the noise was found by RDP, and is near what a plan would
    have.
    """

    name: str
    remark: str = ""
    noise: float | None = None
    passes: float | None = None
    seconds: float | None = None
    rounds: int | None = None
    attempts: int | None = None
    by_rdp: bool = False
    why_not: str = ""

    def as_dict(self) -> dict[str, Json]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Neighbours:
    """The study's own choice first, then those beside it; and where their seconds are from."""

    rows: tuple[Neighbour, ...]
    pace: Pace

    def as_dict(self) -> dict[str, Json]:
        """For JSON."""
        return {"seconds_of_a_pass": asdict(self.pace), "neighbours": [row.as_dict() for row in self.rows]}


def neighbours(written: Study, found: Resolved) -> Neighbours:
    """The neighbours of a study that was resolved; whatever cannot be planned is a row that says so."""
    study, _ = filled(written)
    method = planned_method(found.plan, found.base)
    beside = _Beside(study, found, method, pace(found.base, method))
    rows = [beside.itself(), *beside.averaged(), *(beside.row(*one) for one in _choices(study, found.plan, method))]
    return Neighbours(tuple(rows), beside.pace)


def _choices(study: FilledStudy, plan: Plan, method: Method) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """(name, remark, the keys of the study that are chosen otherwise), table by table."""
    wanted, central = study.privacy, study.privacy.noise == "central"
    if wanted.sampling_rate < 1:
        yield "p = 1", "every unit in every round", {"privacy": {"sampling_rate": 1.0}}
    if not method.one_shot and wanted.rounds > 1:
        fewer = wanted.rounds // 2
        yield f"rounds = {fewer}", "less to wait for, longer steps", {"privacy": {"rounds": fewer}}
    if not central:
        yield 'noise = "central"', "the coordinator sees the sum", {"privacy": {"noise": "central"}}
        return
    leave = {"aggregation": {"rosters": None}}
    yield 'noise = "distributed"', "nobody sees a sum without noise", {"privacy": {"noise": "distributed"}} | leave
    if plan.aggregation.rosters == "free":
        yield 'rosters = "chain"', "no site's sum is a difference", {"aggregation": {"rosters": "chain"}}
    else:
        remark = "goes on without a site; a coordinator that lies can learn differences"
        yield 'rosters = "free"', remark, {"aggregation": {"rosters": "free"}}


@dataclass(frozen=True)
class _Beside:
    """A study, its plan and whole method, and how long a pass takes here."""

    study: FilledStudy
    found: Resolved
    method: Method
    pace: Pace

    def itself(self) -> Neighbour:
        """The plan's own figures."""
        return self._figures(THIS, "", self.found.plan.stages, self._stages(self.method))

    def averaged(self) -> Iterator[Neighbour]:
        """Other K: the same stages and noise, other compute."""
        others = self.method.averaging() if isinstance(self.method, AveragingMethod) else ()
        for name, method in others:
            more = method.passes > self.method.passes
            remark = f"the same noise; rows vary {'less' if more else 'more'}"
            yield self._or_why(name, partial(self._averaged, name, remark, method))

    def row(self, name: str, remark: str, changes: dict[str, dict[str, Any]]) -> Neighbour:
        """The study with some keys chosen otherwise, settled anew."""
        return self._or_why(name, partial(self._settled, name, remark, changes))

    def _or_why(self, name: str, made: Callable[[], Neighbour]) -> Neighbour:
        try:
            return made()
        except ValidationError as error:
            return Neighbour(name, why_not=_phrase(error.errors()[0]["msg"].removeprefix("Value error, ")))
        except UndertoneError as error:
            return Neighbour(name, why_not=_phrase(str(error)))

    def _averaged(self, name: str, remark: str, method: Method) -> Neighbour:
        return self._figures(name, remark, self.found.plan.stages, self._stages(method))

    def _settled(self, name: str, remark: str, changes: dict[str, dict[str, Any]]) -> Neighbour:
        plan, study = self.found.plan, self._changed(changes)
        wanted, asked = study.privacy, self._stages(self.method)
        # At p = 1 the accountant takes no time; and a plan whose claim is RDP has not waited for it yet.
        exact = wanted.sampling_rate == 1 or wanted.noise == "central" != plan.privacy.noise
        settled = settled_stages(
            study,
            asked,
            self.found.base,
            aggregation_of(study, len(plan.cohort.units)),
            plan.cohort.units,
            None if exact else self._by_rdp(),
            plan.after,
        )
        by_rdp = not exact and wanted.noise == "central"  # with distributed noise RDP is the claim itself
        return replace(self._figures(name, remark, [one.stage for one in settled], asked), by_rdp=by_rdp)

    def _changed(self, changes: dict[str, dict[str, Any]]) -> FilledStudy:
        """The study with C the plan's, and as many attempts beyond its rounds as it named."""
        tables, privacy = self.study.model_dump(), self.study.privacy
        tables["privacy"]["clip_norm"] = self.found.plan.stages[-1].clip_norm
        for table, keys in changes.items():
            tables[table] |= keys
        if tables["privacy"]["sampling_rate"] == 1 or tables["privacy"]["noise"] == "central":
            tables["privacy"]["ready_seconds_per_unit"] = 0.0
        if privacy.max_attempts is not None:
            spare = privacy.max_attempts - privacy.rounds
            tables["privacy"]["max_attempts"] = tables["privacy"]["rounds"] + spare
        study = FilledStudy.model_validate(tables)
        if once_per_round(study):  # an attempt beyond could never be used
            tables["privacy"]["max_attempts"] = None
        return FilledStudy.model_validate(tables)

    def _by_rdp(self) -> Calibrated:
        """The search by RDP near the plan's own noise; for a claim by PLD at as much more as the plan has by RDP."""
        plan = self.found.plan
        more = plan.privacy.epsilon_rdp / plan.privacy.epsilon
        near = plan.stages[-1].sigma / plan.stages[-1].sensitivity.l2

        def calibrated(
            epsilon: float, delta: float, rate: float, rounds: int, *, by_rdp: bool, beside: Sequence[Event]
        ) -> float:
            wanted = epsilon if by_rdp else more * epsilon
            return noise_near(wanted, delta, rate, rounds, near=near, beside=beside)

        return calibrated

    def _stages(self, method: Method) -> list[MethodStage]:
        """What a method is asked for, with each C a number: the plan's."""
        stages = zip(stages_of(method, self.found.base), self.found.plan.stages, strict=True)
        return [asked if asked.clip_norm is None else replace(asked, clip_norm=one.clip_norm) for asked, one in stages]

    def _figures(self, name: str, remark: str, stages: Sequence[Stage], asked: Sequence[MethodStage]) -> Neighbour:
        passes = sum(
            stage.sampling_rate * len(stage.rounds) * one.method.passes
            for stage, one in zip(stages, asked, strict=True)
        )
        seconds: float | None = passes * self._often(asked[-1].method) * self.pace.seconds
        if isinstance(asked[-1].method, EncodingMethod):
            passes, seconds = 1.0, None  # the pace is of the denoiser, which no unit goes through
        return Neighbour(
            name,
            remark,
            noise=stages[-1].mechanism.noise_to_signal * asked[-1].method.alignment,
            passes=passes,
            seconds=seconds,
            rounds=sum(len(stage.rounds) for stage in stages),
            attempts=sum(stage.max_attempts for stage in stages),
        )

    def _often(self, method: Method) -> int:
        """How often the base is gone through in a round: for each unit; for rows of shards once, at the coordinator."""
        return 1 if isinstance(method, ShardedMethod) else sum(self.found.plan.cohort.units.values())


def _phrase(message: str) -> str:
    """The first clause of a message: what cannot be, without the advice that follows it."""
    clause = _SENTENCE.split(" ".join(message.split()), maxsplit=1)[0].removesuffix(".")
    return clause if len(clause) <= _LONGEST else f"{clause[:_LONGEST]}..."
