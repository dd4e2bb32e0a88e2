"""Stages of a plan: consecutive rounds with one event, one grid and one clip norm, fixed before data (PRIVACY 25).

Most plans have one. Where rounds differ (a charged first round that selects what is trained, statistics before
gradients) each round has the figures of its own stage, and whoever handles a round asks the plan for that stage.
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import Annotated, Literal

from pydantic import Field

from undertone.core import bounds
from undertone.core.config import Section
from undertone.gradients.clipping import LARGEST_CLIP_UNITS, SMALLEST_CLIP_UNITS
from undertone.privacy.accounting import Event, GaussianEvent
from undertone.privacy.distributed import DistributedEvent, noise_margin, noise_share_sigma
from undertone.privacy.noise import LARGEST_SIGMA, SMALLEST_SIGMA
from undertone.privacy.quantise import Grid, too_coarse
from undertone.privacy.stages import PER_ROW, PER_SHARD, Sensitivity

ClipOrigin = Literal["study", "public images"]
# What the last stage of a plan is called, and the only one of most plans; those before it are named in the plan.
LAST = "rounds"
# Of stages before the last: a reader recomputes a claim with so many events in seconds.
MOST_EARLIER = 3
StageName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9 -]*$", max_length=bounds.NAME)]


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


class Mechanism(Section):
    """The figures of one stage that its event and its clip norm follow from. Delta = `sensitivity`, in integers.

    `sigma` is what the claim needs; `sigma_local` is that of a site's noise share, 0 with central noise.
    """

    sampling_rate: float = Field(gt=0, le=1)
    sigma: int = Field(ge=SMALLEST_SIGMA, le=LARGEST_SIGMA)
    sigma_local: int = Field(ge=0, le=LARGEST_SIGMA)
    sensitivity: int = Field(ge=1, le=bounds.SENSITIVITY)
    clip_origin: ClipOrigin
    noise_to_signal: float = Field(ge=0, le=bounds.RATIO)


class PlannedStage(Mechanism):
    """A stage before the last, as plan.json spells it. `dimension`: values of one row."""

    name: StageName
    rounds: int = Field(ge=1, le=bounds.ATTEMPTS)
    max_attempts: int = Field(ge=1, le=bounds.ATTEMPTS)
    dimension: int = Field(ge=1, le=bounds.DIMENSION)
    grid: PlannedGrid


@dataclass(frozen=True)
class Stage:
    """One stage of a plan, with all that a round of it is checked against.

    Attributes:
        name: what the plan calls it.
        rounds: which, counted from 1 through the whole study.
        max_attempts: how many sums its rounds may open in all.
        dimension: values of one row, d.
        mechanism: noise, sampling rate and bound.
        grid: s, s*C, B, b and m.
        noise_shares: how many the claim counts; 0 with central noise.
        once_at_full_rate: whether at p = 1 a site answers a round once.
        relation: what one unit moves of a sum; another where rows are of shards (PRIVACY 15).
    """

    name: str
    rounds: range
    max_attempts: int
    dimension: int
    mechanism: Mechanism
    grid: PlannedGrid
    noise_shares: int
    once_at_full_rate: bool
    relation: str = PER_ROW

    @property
    def sampling_rate(self) -> float:
        """The chance p with which a unit takes part in a round."""
        return self.mechanism.sampling_rate

    @property
    def sigma(self) -> int:
        """Of the noise that the claim needs, in grid units."""
        return self.mechanism.sigma

    @property
    def sigma_local(self) -> int:
        """Of a site's noise share; 0 with central noise."""
        return self.mechanism.sigma_local

    @property
    def sensitivity(self) -> Sensitivity:
        """Delta and its relation; gate and receipt check both (PRIVACY 5)."""
        return Sensitivity(self.mechanism.sensitivity, self.relation)

    @property
    def event(self) -> Event:
        """What one attempt costs."""
        figures = self.mechanism
        if not self.noise_shares:
            return GaussianEvent(figures.sigma, figures.sensitivity, figures.sampling_rate, 1)
        return DistributedEvent(
            figures.sigma_local, self.noise_shares, self.dimension, figures.sensitivity, figures.sampling_rate, 1
        )

    def noise_in(self, sites: int) -> float:
        """The deviation of the noise in an opened sum: the coordinator's, or the shares of the sites in it."""
        return self.sigma_local * sqrt(sites) if self.noise_shares else self.sigma

    @property
    def once_per_round(self) -> bool:
        """Whether a site answers one attempt of a round alone (PRIVACY 12)."""
        return self.once_at_full_rate and self.sampling_rate == 1

    @property
    def charges(self) -> Event:
        """All that its rounds may cost: its event, `max_attempts` times."""
        return replace(self.event, count=self.max_attempts)

    @property
    def clip_norm(self) -> float:
        """C = s C / s, exactly."""
        return self.grid.clip_units / self.grid.scale

    def check_grid(self, sites: int, wire_bits: int) -> None:
        """Delta is s C, or 2 s C of shards; the grid is fine enough for its rows; sums of all sites fit the wire.

        Raises:
            ValueError: they do not.
        """
        grid = self.grid
        if len(self.rounds) > self.max_attempts:
            raise ValueError("fewer attempts than rounds")
        if grid.scale & (grid.scale - 1):
            raise ValueError("the scale is not a power of two")
        if grid.site_clamp * sites + grid.noise_margin >= 1 << (grid.modulus_bits - 1):
            raise ValueError("the clamped sums of all sites and the noise margin do not fit the modulus")
        if self.sensitivity != Sensitivity.of(grid.clip_units, self.relation):
            raise ValueError("the sensitivity is not the clip bound of the grid; where rows are of shards, twice that")
        if self.relation == PER_SHARD and self.sampling_rate != 1:
            raise ValueError("every shard answers every round: the sampling rate is 1")
        if too_coarse(grid.clip_units, self.dimension):
            raise ValueError("the grid is too coarse for rows of this length")
        if wire_bits != grid.modulus_bits:
            raise ValueError("the wire and the grid have different moduli")

    def check_noise(self, sites: int, noise_shares: int) -> None:
        """The noise shares are a part of sigma, and there is room for them.

        Args:
            sites: of the roster.
            noise_shares: how many the claim counts; 0 with central noise.

        Raises:
            ValueError: they are not, or there is none.
        """
        if not noise_shares:
            if (self.sigma_local, self.grid.noise_margin) != (0, 0):
                raise ValueError("central noise has no noise shares and needs no margin")
            return
        if self.sigma_local != noise_share_sigma(self.sigma, noise_shares):
            raise ValueError("sigma_local is not a noise share's part of sigma")
        if self.grid.noise_margin != noise_margin(self.sigma_local, sites, self.dimension):
            raise ValueError("the noise margin is not that of the noise")
