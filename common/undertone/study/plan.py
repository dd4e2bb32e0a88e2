"""The plan: a study with every number settled, as canonical JSON (PRIVACY 4-7, 10).

Only the plan is signed, approved and charged; its SHA-256 is *the digest*. Nothing that affects
privacy is decided anywhere else, and nothing here is a matter of speed or place (device, folders).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from undertone import PROTOCOL, __version__
from undertone.core import bounds
from undertone.core.canonical import Json, canonical_json, sha256_hex
from undertone.core.config import Section
from undertone.core.text import shown
from undertone.core.unit import SiteName, Unit
from undertone.errors import MechanismViolation, PlanChanged
from undertone.gradients.clipping import LARGEST_CLIP_UNITS, SMALLEST_CLIP_UNITS
from undertone.privacy.accounting import Event, GaussianEvent
from undertone.privacy.distributed import DistributedEvent, noise_margin, noise_share_sigma
from undertone.privacy.noise import LARGEST_SIGMA, SMALLEST_SIGMA
from undertone.privacy.quantise import Grid, too_coarse
from undertone.privacy.stages import PER_ROW, Sensitivity
from undertone.secagg.thresholds import fault
from undertone.study.schema import Mode, Rosters

# Of plan.json: what this program reads. Each format is read for ever; only its own version runs a plan, of the newest.
FORMATS = (1, 2)
FORMAT = max(FORMATS)
# What a rehearsal may ask of a site, which nobody there approves.
REHEARSAL_ROUNDS, REHEARSAL_ATTEMPTS = 1, 3
ClipOrigin = Literal["study", "public images"]
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
    """The method, all its options, and what it adapts."""

    name: str = Field(max_length=bounds.NAME)
    options: dict[Annotated[str, Field(max_length=bounds.NAME)], Option] = Field(max_length=bounds.OPTIONS)
    dimension: int = Field(ge=1, le=bounds.DIMENSION)
    layout_digest: Sha256


class PlannedPrivacy(Section):
    """The claim (epsilon, delta) and the mechanism behind it. Delta = `sensitivity`, in integers.

    `epsilon` is the claim: by PLD with central noise, by RDP (and then equal to `epsilon_rdp`) with distributed.
    `sigma` is what the claim needs; `sigma_local` is that of a site's noise share, 0 with central noise.
    `ready_seconds_per_unit` (since format 2): see `Plan.ready_after`.
    """

    unit: Unit
    adjacency: Literal["add/remove one unit"] = "add/remove one unit"
    epsilon_target: float = Field(gt=0, le=bounds.EPSILON)
    epsilon: float = Field(ge=0, le=bounds.EPSILON)
    epsilon_rdp: float = Field(ge=0, le=bounds.RATIO)
    delta: float = Field(gt=0, lt=bounds.DELTA)
    sampling_rate: float = Field(gt=0, le=1)
    rounds: int = Field(ge=1, le=bounds.ATTEMPTS)
    max_attempts: int = Field(ge=1, le=bounds.ATTEMPTS)
    noise: Literal["central", "distributed"]
    sigma: int = Field(ge=SMALLEST_SIGMA, le=LARGEST_SIGMA)
    sigma_local: int = Field(ge=0, le=LARGEST_SIGMA)
    sensitivity: int = Field(ge=1, le=bounds.SENSITIVITY)
    clip_origin: ClipOrigin
    noise_to_signal: float = Field(ge=0, le=bounds.RATIO)
    allow_noisy: bool
    ready_seconds_per_unit: float = Field(default=0.0, ge=0, le=bounds.READY_SECONDS)

    def event(self, noise_shares: int, dimension: int) -> Event:
        """What one attempt costs; `noise_shares` and `dimension` matter with distributed noise alone."""
        if self.noise == "central":
            return GaussianEvent(self.sigma, self.sensitivity, self.sampling_rate, 1)
        return DistributedEvent(self.sigma_local, noise_shares, dimension, self.sensitivity, self.sampling_rate, 1)


class PlannedGrid(Section):
    """s, s*C, B, b and m of PRIVACY 4; all integers. The noise margin m is 0 with central noise."""

    scale: int = Field(ge=1, le=bounds.SCALE)
    clip_units: int = Field(ge=SMALLEST_CLIP_UNITS, le=LARGEST_CLIP_UNITS)
    site_clamp: int = Field(ge=1, le=bounds.WORD)
    modulus_bits: Literal[32, 24]
    noise_margin: int = Field(ge=0, le=bounds.WORD)

    def as_grid(self) -> Grid:
        """The same numbers as the mechanism takes them."""
        return Grid(self.scale, self.clip_units, self.site_clamp, self.modulus_bits)


class PlannedData(Section):
    """How records become units and words."""

    unit_column: Annotated[str, Field(max_length=bounds.NAME)] | None
    caption: str = Field(max_length=bounds.TEXT)


class PlannedCohort(Section):
    """The roster with each site's public figure N_i, and where the figures come from."""

    units: dict[SiteName, Annotated[int, Field(ge=1, le=bounds.UNITS)]] = Field(max_length=bounds.SITES)
    units_origin: Literal["published", "filled in by simulate"]
    min_sites: int = Field(ge=2, le=bounds.SITES)


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


class _Format(BaseModel):
    """The one key of plan.json that every version reads."""

    model_config = ConfigDict(extra="ignore", strict=True)
    format: int


class Plan(Section):
    """A resolved study. Build one with `undertone.study.resolve.resolve`, read one with `Plan.from_bytes`.

    `rehearsal` (since format 2): every message on drawn images, at sites that charge nothing for it. Such a plan is a
    plan of its own: its digest is another than the study's, so no signature or approval of one is of the other.
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

    def model_post_init(self, _context: object, /) -> None:
        """Check the numbers that must agree with each other.

        Raises:
            ValueError: turned into `PlanChanged` by `from_bytes`.
        """
        if not self.privacy.rounds <= self.privacy.max_attempts:
            raise ValueError("fewer attempts than rounds")
        if self.grid.scale & (self.grid.scale - 1):
            raise ValueError("the scale is not a power of two")
        if len(self.cohort.units) < self.cohort.min_sites:
            raise ValueError("the roster is smaller than min_sites")
        if self.grid.site_clamp * len(self.cohort.units) + self.grid.noise_margin >= 1 << (self.grid.modulus_bits - 1):
            raise ValueError("the clamped sums of all sites and the noise margin do not fit the modulus")
        self._check_format()
        self._check_grid()
        self._check_aggregation()
        self._check_noise()

    def _check_format(self) -> None:
        """What format 1 cannot spell is not in a plan of format 1."""
        if self.format == 1 and (self.rehearsal or self.privacy.ready_seconds_per_unit):
            raise ValueError("format 1 has no rehearsals and no time at which a site is ready")
        if self.rehearsal and (self.privacy.rounds, self.privacy.max_attempts) > (REHEARSAL_ROUNDS, REHEARSAL_ATTEMPTS):
            raise ValueError(f"a rehearsal has one round in at most {REHEARSAL_ATTEMPTS} attempts")
        if self.privacy.ready_seconds_per_unit and not self.amplified_at_sites:
            raise ValueError("only distributed noise with a sampling rate below 1 has a time at which a site is ready")

    def _check_grid(self) -> None:
        """Delta is s C, and the grid is fine enough for rows of this length."""
        if self.privacy.sensitivity != self.grid.clip_units:
            raise ValueError("the sensitivity is not the clip bound of the grid")
        if too_coarse(self.grid.clip_units, self.method.dimension):
            raise ValueError("the grid is too coarse for rows of this length")

    def _check_aggregation(self) -> None:
        aggregation, sites = self.aggregation, len(self.cohort.units)
        if aggregation.rosters == "chain" and not self._hides_sums:
            raise ValueError("a chain of survivor lists goes with secure aggregation and central noise alone")
        if aggregation.wire_bits != self.grid.modulus_bits:
            raise ValueError("the wire and the grid have different moduli")
        if aggregation.mode == "plain":
            if (aggregation.threshold, aggregation.colluders, aggregation.wire_bits) != (0, 0, 32):
                raise ValueError("plain aggregation has no threshold, no colluders and words of 32 bits")
            return
        distributed = self.privacy.noise == "distributed"
        wrong = fault(sites, aggregation.threshold, aggregation.colluders, distributed=distributed)
        if wrong:
            raise ValueError(wrong)

    def _check_noise(self) -> None:
        privacy = self.privacy
        if privacy.noise == "central":
            if (privacy.sigma_local, self.grid.noise_margin) != (0, 0):
                raise ValueError("central noise has no noise shares and needs no margin")
            return
        if self.aggregation.mode != "secagg":
            raise ValueError("distributed noise needs secure aggregation")
        if privacy.sigma_local != noise_share_sigma(privacy.sigma, self.noise_shares):
            raise ValueError("sigma_local is not a noise share's part of sigma")
        margin = noise_margin(privacy.sigma_local, len(self.cohort.units), self.method.dimension)
        if self.grid.noise_margin != margin:
            raise ValueError("the noise margin is not that of the noise")
        if privacy.epsilon != privacy.epsilon_rdp:
            raise ValueError("the claim of distributed noise is its RDP")

    @property
    def sensitivity(self) -> Sensitivity:
        """Delta and its relation; gate and receipt check both (PRIVACY 5)."""
        return Sensitivity(self.privacy.sensitivity, PER_ROW)

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
        """Whether a site answers one attempt of a round alone.

        At p = 1 a second attempt sends the same rows without fresh noise, and with free lists two sums over different
        sites subtract to one site's.
        """
        privacy = self.privacy
        return privacy.noise == "central" and privacy.sampling_rate == 1 and self.aggregation.rosters == "free"

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
        return self.privacy.noise == "distributed" and self.privacy.sampling_rate < 1

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

    @property
    def event(self) -> Event:
        """What one attempt costs."""
        return self.privacy.event(self.noise_shares, self.method.dimension)

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

    def denominator(self, sites: tuple[str, ...]) -> float:
        """The product s * p * sum of the public N_i of `sites` (PRIVACY 6).

        Raises:
            MechanismViolation: a site that is not on the roster, or fewer sites than the quorum.
        """
        if 0 < len(sites) < self.quorum:
            raise MechanismViolation(f"a sum of {len(sites)} sites may not be used; the plan needs {self.quorum}")
        strangers = set(sites) - set(self.cohort.units)
        if strangers or not sites:
            raise MechanismViolation(f"{sorted(strangers) or 'no site'} cannot be in a sum of this plan")
        return self.grid.scale * self.privacy.sampling_rate * sum(self.cohort.units[site] for site in sites)


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
