"""The plan: a study with every number settled, as canonical JSON (PRIVACY 4-7, 10).

Only the plan is signed, approved and charged; its SHA-256 is *the digest*. Nothing that affects
privacy is decided anywhere else, and nothing here is a matter of speed or place (device, folders).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from undertone import PROTOCOL, __version__
from undertone.core import bounds
from undertone.core.canonical import Json, canonical_json, sha256_hex
from undertone.core.config import Section
from undertone.core.keys import PLAN_DOMAIN, check_signature
from undertone.core.text import shown
from undertone.core.unit import SiteName
from undertone.errors import MechanismViolation, NotApproved, PlanChanged
from undertone.privacy.accounting import Event
from undertone.privacy.stages import PER_ROW, PER_SHARD
from undertone.secagg.thresholds import fault
from undertone.study.planned_data import PlannedData
from undertone.study.planned_parts import (
    PlannedAggregation,
    PlannedCohort,
    PlannedMethod,
    PlannedModel,
    PlannedPrivacy,
    Sha256,
)
from undertone.study.stage import LAST, MOST_EARLIER, Mechanism, PlannedGrid, PlannedStage, Stage
from undertone.study.start import PlannedStart, PlannedSuccessor

# Of plan.json: what this program reads. Each format is read for ever; only its own version runs a plan, of the newest.
FORMATS = (1, 2)
FORMAT = max(FORMATS)
# What a rehearsal may ask of a site in each stage, which nobody there approves.
REHEARSAL_ROUNDS, REHEARSAL_ATTEMPTS = 1, 3


class _Format(BaseModel):
    """The one key of plan.json that every version reads."""

    model_config = ConfigDict(extra="ignore", strict=True)
    format: int


class Plan(Section):
    """A resolved study. Build one with `undertone.study.resolve.resolve`, read one with `Plan.from_bytes`.

    `earlier` (since format 2): the stages before the one that `privacy`, `grid` and `method` describe; none in most
    plans, and then no key of plan.json. Whatever is done in a round is done with the figures of `stage_of(round)`.

    `rehearsal` (since format 2): every message on drawn images, at sites that charge nothing for it. Such a plan is a
    plan of its own: its digest is another than the study's, so no signature or approval of one is of the other.

    `start` and `successor` (since format 2; no key of plan.json where there is none): the release that the study starts
    from, and what a study that starts from this one's release will charge (`undertone.study.start`).
    """

    format: Literal[1, 2] = 2
    protocol: int = Field(ge=0, le=bounds.ATTEMPTS)
    package: str = Field(max_length=bounds.NAME)
    package_sha256: Sha256
    study: SiteName
    model: PlannedModel
    method: PlannedMethod
    privacy: PlannedPrivacy
    grid: PlannedGrid
    data: PlannedData
    cohort: PlannedCohort
    aggregation: PlannedAggregation
    rehearsal: bool = False
    earlier: Annotated[list[PlannedStage], Field(default_factory=list, max_length=MOST_EARLIER)]
    start: PlannedStart | None = None
    successor: PlannedSuccessor | None = None

    @model_serializer(mode="wrap")
    def _as_said(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the stages before the last, a start and a successor, where there are none."""
        unsaid = ("earlier", "start", "successor")
        return {key: value for key, value in dumped(self).items() if key not in unsaid or value}

    def model_post_init(self, _context: object, /) -> None:
        """Check the numbers that must agree with each other.

        Raises:
            ValueError: turned into `PlanChanged` by `from_bytes`.
        """
        if not self.privacy.rounds <= self.privacy.max_attempts:
            raise ValueError("fewer attempts than rounds")
        if len(self.cohort.units) < self.cohort.min_sites:
            raise ValueError("the roster is smaller than min_sites")
        sent, sharded = self.method.sent, self.method.shards is not None
        if sent is not None and (sent == self.method.dimension or not (sharded or sent > self.method.dimension)):
            raise ValueError("sites are sent w and what stands behind it, or w alone; a query of shards as it is long")
        if self.method.row == self.method.dimension:
            raise ValueError("a row that is as long as w is not written down")
        if sum(stage.rounds for stage in self.earlier) >= self.privacy.rounds:
            raise ValueError("the stages before the last leave it no round")
        self._check_format()
        self._check_aggregation()
        for stage in self.stages:
            stage.check_grid(len(self.cohort.units), self.aggregation.wire_bits)
        self._check_noise()
        self.cohort.check_shards(self.method.shards)
        if self.method.shards and (self.privacy.unit == "site" or self.earlier):
            raise ValueError("a plan of shards has one stage, and its unit is no site")
        self._check_lineage()

    @property
    def patients(self) -> Mapping[str, int]:
        """Site -> how many units it publishes; N_i, `cohort.units`, is another figure where rows are of shards."""
        return self.cohort.units if self.cohort.patients is None else self.cohort.patients

    def _check_format(self) -> None:
        """What format 1 cannot spell is not in a plan of format 1."""
        staged = self.earlier or self.method.row is not None or self.method.sent is not None
        staged = staged or self.start is not None or self.successor is not None or self.method.shards is not None
        if self.format == 1 and (self.rehearsal or self.privacy.ready_seconds_per_unit or staged or self.data.classes):
            raise ValueError("format 1 has no rehearsals, no ready time, no classes, one stage, no start and successor")
        if self.rehearsal and any(
            len(stage.rounds) > REHEARSAL_ROUNDS or stage.max_attempts > REHEARSAL_ATTEMPTS for stage in self.stages
        ):
            raise ValueError(f"a rehearsal has one round in at most {REHEARSAL_ATTEMPTS} attempts of each stage")
        if self.privacy.ready_seconds_per_unit and not self.amplified_at_sites:
            raise ValueError("only distributed noise with a sampling rate below 1 has a time at which a site is ready")

    def _check_aggregation(self) -> None:
        aggregation, sites = self.aggregation, len(self.cohort.units)
        if aggregation.rosters == "chain" and not self._hides_sums:
            raise ValueError("a chain of survivor lists goes with secure aggregation and central noise alone")
        if aggregation.mode == "plain":
            if (aggregation.threshold, aggregation.colluders, aggregation.wire_bits) != (0, 0, 32):
                raise ValueError("plain aggregation has no threshold, no colluders and words of 32 bits")
            return
        distributed = self.privacy.noise == "distributed"
        wrong = fault(sites, aggregation.threshold, aggregation.colluders, distributed=distributed)
        if wrong:
            raise ValueError(wrong)

    def _check_noise(self) -> None:
        distributed = self.privacy.noise == "distributed"
        if distributed and self.aggregation.mode != "secagg":
            raise ValueError("distributed noise needs secure aggregation")
        for stage in self.stages:
            stage.check_noise(len(self.cohort.units), self.noise_shares if distributed else 0)
        if distributed and self.privacy.epsilon != self.privacy.epsilon_rdp:
            raise ValueError("the claim of distributed noise is its RDP")

    def _check_lineage(self) -> None:
        """A start fits the study, and the plan has one ancestor or one successor at most."""
        if self.rehearsal and (self.start or self.successor):
            raise ValueError("a rehearsal starts from the base and nothing follows it")
        if self.start and self.successor:
            raise ValueError("a study that starts from a release is no start of another")
        ancestor = self.ancestor
        if ancestor is None:
            return
        if ancestor.rehearsal or ancestor.start is not None:
            raise ValueError("start: its plan is a rehearsal's, or itself starts from a release")
        if ancestor.model.files != self.model.files:
            raise ValueError("start: its study adapted another base, so what is drawn from it would not fit this one")
        if not set(self.data.classes) <= set(ancestor.data.classes):
            raise ValueError("start: its study has other classes, so nothing of some of this one's can be drawn")

    @property
    def ancestor(self) -> "Plan | None":
        """The plan of the study whose release this one starts from; None: it starts from the base.

        Raises:
            ValueError: it is no plan that its coordinator signed.
        """
        start = self.start
        return None if start is None else _signed_plan(start.plan, start.coordinator, start.signature)

    @property
    def joint(self) -> bool:
        """Whether one claim covers this study and its ancestor (PRIVACY 25).

        It does where the ancestor's plan held this study's events before the ancestor charged anything, for the same
        unit, delta and placement of noise.
        """
        one = self.ancestor
        if one is None or one.successor is None or one.successor.charges != self.charges:
            return False
        mine, its = ((plan.privacy, plan.data.unit_column) for plan in (self, one))
        same = all(getattr(mine[0], key) == getattr(its[0], key) for key in ("unit", "delta", "noise"))
        return same and mine[1] == its[1]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What the rounds are, in their order; each round is in one of them."""
        privacy, found, first, attempts = self.privacy, [], 1, self.privacy.max_attempts
        for one in self.earlier:
            found.append(
                self._stage(one.name, one, one.grid, range(first, first + one.rounds), one.max_attempts, one.dimension)
            )
            first, attempts = first + one.rounds, attempts - one.max_attempts
        row = self.method.row or self.method.dimension
        return (*found, self._stage(LAST, privacy, self.grid, range(first, privacy.rounds + 1), attempts, row))

    def _stage(
        self, name: str, mechanism: Mechanism, grid: PlannedGrid, rounds: range, max_attempts: int, dimension: int
    ) -> Stage:
        distributed = self.privacy.noise == "distributed"
        return Stage(
            name=name,
            rounds=rounds,
            max_attempts=max_attempts,
            dimension=dimension,
            mechanism=mechanism,
            grid=grid,
            noise_shares=self.noise_shares if distributed else 0,
            once_at_full_rate=not distributed and self.aggregation.rosters == "free",
            relation=PER_ROW if self.method.shards is None else PER_SHARD,
        )

    def stage_of(self, round_: int) -> Stage:
        """The stage of a round: its event, grid and clip (PRIVACY 25).

        Raises:
            MechanismViolation: the plan has no such round.
        """
        for stage in self.stages:
            if round_ in stage.rounds:
                return stage
        raise MechanismViolation(f"round {round_} is in no stage of this plan")

    @property
    def charges(self) -> tuple[Event, ...]:
        """All that the plan may charge: each stage's event, as often as the stage has attempts."""
        return tuple(stage.charges for stage in self.stages)

    @property
    def claimed(self) -> tuple[Event, ...]:
        """All that its claim covers: its own charges, and those of the study that shares the claim (PRIVACY 25)."""
        return (*self.before, *self.charges, *self.after)

    @property
    def before(self) -> tuple[Event, ...]:
        """What the ancestor may charge, where one claim covers both; else nothing."""
        return self.ancestor.charges if self.ancestor is not None and self.joint else ()

    @property
    def after(self) -> tuple[Event, ...]:
        """What a successor may charge, by this plan; else nothing."""
        return () if self.successor is None else self.successor.charges

    @property
    def state_size(self) -> int:
        """How many values sites are sent: w and what their rows follow from beside it, or a query in place of w."""
        return self.method.sent or self.method.dimension

    @property
    def _hides_sums(self) -> bool:
        """Whether what hides a site's sum from the coordinator is secure aggregation alone."""
        return self.aggregation.mode == "secagg" and self.privacy.noise == "central"

    @property
    def free_rosters(self) -> bool:
        """Whether a coordinator that lies could subtract opened sums and learn one site's (PRIVACY 12)."""
        return self._hides_sums and self.aggregation.rosters == "free"

    @property
    def once_per_round(self) -> bool:
        """Whether in some stage a site answers one attempt of a round alone.

        At p = 1 a second attempt sends the same rows without fresh noise, and with free lists two sums over different
        sites subtract to one site's.
        """
        return any(stage.once_per_round for stage in self.stages)

    @property
    def no_attempt_to_spare(self) -> bool:
        """Whether a round that breaks once vectors were asked for ends the study: there is one attempt for each."""
        return self.privacy.max_attempts == self.privacy.rounds

    @property
    def amplified_at_sites(self) -> bool:
        """Whether how long a site takes would tell the coordinator what its claim takes as secret (PRIVACY 26).

        With distributed noise the claim holds against the coordinator too, and at p < 1 it counts on coins that only
        the site knows.
        """
        return self.privacy.noise == "distributed" and any(stage.sampling_rate < 1 for stage in self.stages)

    def ready_after(self, site: str) -> float:
        """Seconds from when the work begins to the public time at which `site` says that it is ready (PRIVACY 26).

        0 where nothing has to be hidden, or where the plan sets no time: then a site is ready as soon as it is done.
        """
        return self.privacy.ready_seconds_per_unit * self.cohort.units[site]

    @property
    def noise_shares(self) -> int:
        """How many noise shares the claim counts: t - c."""
        return self.aggregation.threshold - self.aggregation.colluders

    @property
    def quorum(self) -> int:
        """The fewest sites whose sum may be opened: max(t, min_sites)."""
        return max(self.aggregation.threshold, self.cohort.min_sites)

    def as_bytes(self) -> bytes:
        """Canonical JSON: what is hashed, signed and stored."""
        dumped: dict[str, Json] = self.model_dump(mode="json")
        if self.format == 1:
            del dumped["rehearsal"]
            dumped["privacy"] = self.privacy.model_dump(mode="json", exclude={"ready_seconds_per_unit"})
        return canonical_json(dumped)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(self.as_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan":
        """Read a plan, which must be in canonical form. Its claim is checked by `undertone.study.claim`.

        Raises:
            PlanChanged: not a plan of this version, a figure beyond its bound, or bytes that are not the
                canonical form of their content.
        """
        if len(data) > bounds.PLAN_BYTES:
            raise PlanChanged(f"plan.json has {len(data)} bytes; no plan has more than {bounds.PLAN_BYTES}")
        _check_format(data)
        try:
            plan = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "plan"
            raise PlanChanged(f"plan.json does not hold a plan: {shown(where)}: {first['msg']}") from None
        if plan.as_bytes() != data:
            raise PlanChanged("plan.json is not in canonical form; restore the file that was written")
        return plan

    def check_version(self) -> None:
        """Refuse a plan made for another protocol, package or format.

        Raises:
            PlanChanged: names both versions.
        """
        if self.protocol != PROTOCOL:
            raise PlanChanged(f"the plan speaks protocol {self.protocol}, this program protocol {PROTOCOL}")
        if self.package != __version__:
            raise PlanChanged(f"the plan was made for undertone {self.package}, this is {__version__}")
        if self.format != FORMAT:
            raise PlanChanged(f"the plan has format {self.format}, this program runs format {FORMAT}; plan anew")

    def denominator(self, round_: int, sites: tuple[str, ...]) -> float:
        """The product s * p * sum of the public N_i of `sites`, with s and p of the round's stage (PRIVACY 6).

        Raises:
            MechanismViolation: a site that is not on the roster, or fewer sites than the quorum.
        """
        if 0 < len(sites) < self.quorum:
            raise MechanismViolation(f"a sum of {len(sites)} sites may not be used; the plan needs {self.quorum}")
        strangers = set(sites) - set(self.cohort.units)
        if strangers or not sites:
            raise MechanismViolation(f"{sorted(strangers) or 'no site'} cannot be in a sum of this plan")
        stage = self.stage_of(round_)
        return stage.grid.scale * stage.sampling_rate * sum(self.cohort.units[site] for site in sites)


@lru_cache(maxsize=16)
def _signed_plan(text: str, coordinator: str, signature: str) -> Plan:
    """A plan within another, once its coordinator's signature over it holds.

    Raises:
        ValueError: it is none, or another key signed it.
    """
    try:
        plan = Plan.from_bytes(text.encode())
        check_signature(coordinator, PLAN_DOMAIN, plan.digest, signature)
    except (PlanChanged, NotApproved) as error:
        raise ValueError(f"start: {error}") from None
    return plan


def _check_format(data: bytes) -> None:
    """Raise where plan.json is of a format that this program does not read, before any other key is looked at.

    Raises:
        PlanChanged: no format, or one of a later version.
    """
    try:
        found = _Format.model_validate_json(data).format
    except ValidationError as error:
        raise PlanChanged(f"plan.json does not hold a plan: format: {error.errors()[0]['msg']}") from None
    if found not in FORMATS:
        raise PlanChanged(
            f"plan.json has format {found}; undertone {__version__} reads format {', '.join(map(str, FORMATS))}. Use "
            "the version of undertone that made it, or a later one"
        )
