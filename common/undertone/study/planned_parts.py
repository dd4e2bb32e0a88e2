"""Parts of a plan: base and method, the claim, the roster, and how vectors become a sum."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from undertone.core import bounds
from undertone.core.config import Section
from undertone.core.unit import SiteName, Unit
from undertone.study.schema import Mode, Rosters
from undertone.study.stage import Mechanism

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Text = Annotated[str, Field(max_length=bounds.TEXT)]
# A method's own bounds are narrower; these hold before it is asked.
Option = (
    _Text
    | Annotated[int, Field(ge=-bounds.OPTION, le=bounds.OPTION)]
    | Annotated[float, Field(ge=-bounds.RATIO, le=bounds.RATIO)]
    | bool
    | Annotated[list[_Text], Field(max_length=bounds.ITEMS)]
)


class PlannedModel(Section):
    """The base model: its reference and the SHA-256 of every file used."""

    base: str = Field(max_length=bounds.PATH)
    revision: Annotated[str, Field(max_length=bounds.NAME)] | None
    files: dict[Annotated[str, Field(max_length=bounds.PATH)], Sha256] = Field(max_length=bounds.MODEL_FILES)
    licence: str = Field(max_length=bounds.TEXT)


class PlannedMethod(Section):
    """The method, all its options, and what it adapts: `dimension` values, w.

    `row`: the values of a row of the last stage, where those are not `dimension`. `sent`: the values of the state that
    sites are sent, where that is more than w, or of the query that they are sent in place of w. `shards`: S, how many
    shards each site's units are split into, where rows are of shards (PRIVACY 15). Each stands in plan.json only there.
    """

    name: str = Field(max_length=bounds.NAME)
    options: dict[Annotated[str, Field(max_length=bounds.NAME)], Option] = Field(max_length=bounds.OPTIONS)
    dimension: int = Field(ge=1, le=bounds.DIMENSION)
    layout_digest: Sha256
    row: Annotated[int, Field(ge=1, le=bounds.DIMENSION)] | None = None
    sent: Annotated[int, Field(ge=1, le=bounds.DIMENSION)] | None = None
    shards: Annotated[int, Field(ge=1, le=bounds.SHARDS)] | None = None

    @model_serializer(mode="wrap")
    def _as_said(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what most plans leave unsaid."""
        unsaid = ("row", "sent", "shards")
        return {key: value for key, value in dumped(self).items() if key not in unsaid or value is not None}


class PlannedPrivacy(Mechanism):
    """The claim (epsilon, delta) and the mechanism of the last stage, which is the only one of most plans.

    `epsilon` is the claim: by PLD with central noise, by RDP (and then equal to `epsilon_rdp`) with distributed.
    `rounds` and `max_attempts` are of the whole study. Figures of a round are asked of its stage: `Plan.stage_of`.
    `ready_seconds_per_unit` (since format 2): see `Plan.ready_after`.
    """

    unit: Unit
    adjacency: Literal["add/remove one unit"] = "add/remove one unit"
    epsilon_target: float = Field(gt=0, le=bounds.EPSILON)
    epsilon: float = Field(ge=0, le=bounds.EPSILON)
    epsilon_rdp: float = Field(ge=0, le=bounds.RATIO)
    delta: float = Field(gt=0, lt=bounds.DELTA)
    rounds: int = Field(ge=1, le=bounds.ATTEMPTS)
    max_attempts: int = Field(ge=1, le=bounds.ATTEMPTS)
    noise: Literal["central", "distributed"]
    allow_noisy: bool
    ready_seconds_per_unit: float = Field(default=0.0, ge=0, le=bounds.READY_SECONDS)


_Figures = dict[SiteName, Annotated[int, Field(ge=1, le=bounds.UNITS)]]


class PlannedCohort(Section):
    """The roster with each site's public figure N_i, and where the figures come from.

    `patients`: where rows are of shards, so that N_i = S at each site, how many units each site publishes; no key of
    plan.json elsewhere. Whoever asks how many people there are asks `Plan.patients`.
    """

    units: _Figures = Field(max_length=bounds.SITES)
    units_origin: Literal["published", "filled in by simulate"]
    min_sites: int = Field(ge=2, le=bounds.SITES)
    patients: Annotated[_Figures, Field(max_length=bounds.SITES)] | None = None

    def check_shards(self, shards: int | None) -> None:
        """Where rows are of shards each site has S of them, and how many people it has is said apart (PRIVACY 15).

        Raises:
            ValueError: other figures.
        """
        if shards is None:
            if self.patients is not None:
                raise ValueError("cohort.patients goes with a method of shards; else cohort.units counts the people")
            return
        if set(self.units.values()) != {shards}:
            raise ValueError(f"N_i is not the number of shards, {shards}, at each site")
        if set(self.patients or ()) != set(self.units):
            raise ValueError("cohort.patients does not name each site of the roster with its public number of units")

    @model_serializer(mode="wrap")
    def _as_said(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what most plans leave unsaid."""
        return {key: value for key, value in dumped(self).items() if key != "patients" or value is not None}


class PlannedAggregation(Section):
    """How vectors become a sum: t, c and the wire's b. With plain aggregation t and c are 0.

    `rosters` says whether the survivor lists that a node signs in this study form a chain (PRIVACY 12). The chain
    belongs to secure aggregation with central noise. Elsewhere it protects nothing and the plan says "free": with
    distributed noise each vector carries noise, and in plain aggregation the coordinator sees each vector anyway.
    """

    mode: Mode
    threshold: int = Field(ge=0, le=bounds.SITES)
    colluders: int = Field(ge=0, le=bounds.SITES)
    wire_bits: Literal[32, 24]
    rosters: Rosters
