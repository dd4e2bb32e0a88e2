"""The plan: a study resolved to the last number, as canonical JSON (DESIGN 1, PRIVACY 4-7, 10).

Only the plan is signed, approved and charged; its SHA-256 is *the digest*. Nothing that affects
privacy is decided anywhere else, and nothing here is a matter of speed or place (device, folders).
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from undertone import PROTOCOL, __version__
from undertone.canonical import Json, canonical_json, sha256_hex
from undertone.errors import MechanismViolation, PlanChanged
from undertone.privacy.accounting import GaussianEvent
from undertone.privacy.noise import SMALLEST_SHARE
from undertone.privacy.quantise import Grid
from undertone.study import Section, SiteName, Unit

ClipOrigin = Literal["study", "public images"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PlannedModel(Section):
    """The base model: its reference and the SHA-256 of every file used."""

    base: str
    revision: str | None
    files: dict[str, Sha256]
    licence: str


class PlannedMethod(Section):
    """The method, all its options, and what it adapts."""

    name: str
    options: dict[str, str | int | float | bool]
    dimension: int = Field(ge=1)
    layout_digest: Sha256


class PlannedPrivacy(Section):
    """The claim (epsilon, delta) and the mechanism behind it. Delta = `sensitivity`, in integers."""

    unit: Unit
    adjacency: Literal["add/remove one unit"] = "add/remove one unit"
    epsilon_target: float
    epsilon: float
    epsilon_rdp: float
    delta: float
    sampling_rate: float = Field(gt=0, le=1)
    rounds: int = Field(ge=1)
    max_attempts: int = Field(ge=1)
    noise: Literal["central", "distributed"]
    sigma: int = Field(ge=64)
    sigma_local: int = 0
    noise_margin: int = 0
    sensitivity: int = Field(ge=1)
    clip_origin: ClipOrigin
    noise_to_signal: float
    allow_noisy: bool


class PlannedGrid(Section):
    """s, s*C, B and b of PRIVACY 4; all integers."""

    scale: int = Field(ge=1)
    clip_units: int = Field(ge=1024)
    site_clamp: int = Field(ge=1)
    modulus_bits: Literal[24, 32]

    def as_grid(self) -> Grid:
        """The same numbers as the mechanism takes them."""
        return Grid(self.scale, self.clip_units, self.site_clamp, self.modulus_bits)


class PlannedData(Section):
    """How records become units and words."""

    unit_column: str | None
    caption: str


class PlannedCohort(Section):
    """The roster with each site's public figure N_i, and where the figures come from."""

    units: dict[SiteName, Annotated[int, Field(ge=1)]]
    units_origin: Literal["published", "filled in by simulate"]
    min_sites: int = Field(ge=2)


class PlannedAggregation(Section):
    """How sums are opened: t sites must help, and c of them may help a coordinator that lies."""

    mode: Literal["secagg", "plain"]
    threshold: int = Field(ge=1)
    colluders: int = Field(ge=0)


class Plan(Section):
    """A resolved study. Build one with `undertone.resolve.resolve`, read one with `Plan.from_bytes`."""

    protocol: int
    package: str
    package_sha256: Sha256
    study: SiteName
    model: PlannedModel
    method: PlannedMethod
    privacy: PlannedPrivacy
    grid: PlannedGrid
    data: PlannedData
    cohort: PlannedCohort
    aggregation: PlannedAggregation

    def model_post_init(self, _context: object, /) -> None:
        """Numbers that must agree with each other.

        Raises:
            ValueError: turned into `PlanChanged` by `from_bytes`.
        """
        if self.privacy.sensitivity != self.grid.clip_units:
            raise ValueError("the sensitivity is not the clip bound of the grid")
        if not self.privacy.rounds <= self.privacy.max_attempts:
            raise ValueError("fewer attempts than rounds")
        if len(self.cohort.units) < self.cohort.min_sites:
            raise ValueError("the roster is smaller than min_sites")
        largest = self.grid.site_clamp * len(self.cohort.units) + self.privacy.noise_margin
        if largest >= 1 << (self.grid.modulus_bits - 1):
            raise ValueError("the clamped sums of all sites and their noise do not fit the modulus")
        if (self.privacy.noise == "distributed") != (self.privacy.sigma_local >= SMALLEST_SHARE):
            raise ValueError("a share of noise goes with distributed noise, and is at least 4")
        self._check_aggregation()

    def _check_aggregation(self) -> None:
        """The rules of docs/secure-aggregation.md, section 2; nodes check them again for themselves."""
        n, t, c = len(self.cohort.units), self.aggregation.threshold, self.aggregation.colluders
        if self.aggregation.mode == "secagg":
            if not (t <= n and 2 * t > n + c and t - c >= 2):
                raise ValueError(f"threshold {t} with {c} colluders among {n} sites is not safe")
        elif self.grid.modulus_bits != 32 or self.privacy.noise == "distributed":
            raise ValueError("plain aggregation has words of 32 bits and central noise")

    @property
    def sites_needed(self) -> int:
        """The fewest sites whose sum is ever opened."""
        secure = self.aggregation.mode == "secagg"
        return max(self.cohort.min_sites, self.aggregation.threshold if secure else 0)

    @property
    def event(self) -> GaussianEvent:
        """What one attempt costs."""
        privacy = self.privacy
        return GaussianEvent(privacy.sigma, privacy.sensitivity, privacy.sampling_rate, 1)

    def as_bytes(self) -> bytes:
        """Canonical JSON: what is hashed, signed and stored."""
        dumped: Json = self.model_dump(mode="json")
        return canonical_json(dumped)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(self.as_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan":
        """Read a plan and insist on its canonical spelling.

        Raises:
            PlanChanged: not a plan of this version, or not byte for byte what its content spells.
        """
        try:
            plan = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "plan"
            raise PlanChanged(f"plan.json does not hold a plan: {where}: {first['msg']}") from None
        if plan.as_bytes() != data:
            raise PlanChanged("plan.json is not in canonical form; restore the file that was written")
        return plan

    def check_version(self) -> None:
        """Refuse a plan made for another protocol or package.

        Raises:
            PlanChanged: names both versions.
        """
        if self.protocol != PROTOCOL:
            raise PlanChanged(f"the plan speaks protocol {self.protocol}, this program protocol {PROTOCOL}")
        if self.package != __version__:
            raise PlanChanged(f"the plan was made for undertone {self.package}, this is {__version__}")

    def denominator(self, sites: tuple[str, ...]) -> float:
        """S * p * sum of the public N_i of `sites` (PRIVACY 6).

        Raises:
            MechanismViolation: a site that is not on the roster.
        """
        strangers = set(sites) - set(self.cohort.units)
        if strangers or not sites:
            raise MechanismViolation(f"{sorted(strangers) or 'no site'} cannot be in a sum of this plan")
        return self.grid.scale * self.privacy.sampling_rate * sum(self.cohort.units[site] for site in sites)
