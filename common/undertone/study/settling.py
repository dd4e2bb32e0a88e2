"""The stages of a study with every number settled: rounds, attempts, noise, C and grid of each (PRIVACY 4, 10, 25)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from undertone.core.progress import reporter
from undertone.errors import StudyError
from undertone.methods.protocol import Method, MethodStage, ShardedMethod
from undertone.models.pinned import PinnedBase
from undertone.privacy.accounting import Event, GaussianEvent, calibrate
from undertone.privacy.distributed import noise_margin, noise_share_sigma
from undertone.privacy.noise import LARGEST_SIGMA, SMALLEST_SIGMA
from undertone.privacy.quantise import RING_BITS, Grid, choose_grid, too_coarse
from undertone.privacy.stages import PER_ROW, PER_SHARD, Sensitivity
from undertone.study.claim import epsilons
from undertone.study.planned_parts import PlannedAggregation, PlannedPrivacy
from undertone.study.public_rows import PublicRows, rows_for_c
from undertone.study.schema import FilledStudy, Rosters
from undertone.study.stage import LAST, ClipOrigin, Mechanism, PlannedGrid, PlannedStage, Stage

_FEWEST_SPARE = 3  # attempts, with free survivor lists
_UNIT = 1 << 20  # grid units of Delta: z as the quotient of two integers, as events hold it
Calibrated = Callable[..., float]
"""As `calibrate`."""


def _rounds(study: FilledStudy, stages: Sequence[MethodStage]) -> list[int]:
    """How many rounds each stage has; those that no other stage takes are the last one's.

    Raises:
        StudyError: they leave it none, or other than it says.
    """
    earlier = [stage.rounds or 1 for stage in stages[:-1]]
    left = study.privacy.rounds - sum(earlier)
    if left < 1:
        named = ", ".join(f"{stage.name} ({stage.rounds})" for stage in stages[:-1])
        raise StudyError(
            f"privacy.rounds = {study.privacy.rounds} counts all noised sums, and the first are for {named}: say "
            f"{sum(earlier) + 1} or more"
        )
    wanted = stages[-1].rounds
    if wanted is not None and left != wanted:
        raise StudyError(
            f"privacy.rounds = {study.privacy.rounds}: these options of {stages[-1].method.name} open "
            f"{sum(earlier) + wanted} noised sums; say so, or change its options"
        )
    return [*earlier, left]


def _attempts(study: FilledStudy, method: Method, rounds: Sequence[int], sites: int) -> list[int]:
    """How many sums each stage may open.

    What the study says beyond T is shared out by rounds, rounded up but for the last; without a number by the rule.
    """
    wanted = study.privacy
    if wanted.max_attempts is None:
        return [_by_rule(study, method, one, sites) for one in rounds]
    spare = left = wanted.max_attempts - wanted.rounds
    found = []
    for one in rounds[:-1]:
        extra = min(left, ceil(spare * one / wanted.rounds))
        found.append(one + extra)
        left -= extra
    return [*found, rounds[-1] + left]


def _by_rule(study: FilledStudy, method: Method, rounds: int, sites: int) -> int:
    """How many sums may be opened for so many rounds: 1 for a one-shot method, else T and some more (PRIVACY 12).

    With a chain of survivor lists an attempt is void when one of n sites is away between its masks and its vector. If
    each is away 1 % of the time, an attempt succeeds with q = 0.99^n, and what T rounds need is negative binomial with
    mean T / q and variance T (1 - q) / q^2: two standard deviations are added. Free lists lose an attempt to a crash of
    the coordinator alone, in a deployed study sometimes two in one round: T and a quarter more, at least three; none
    where a site answers each round once.
    """
    if method.one_shot or once_per_round(study):
        return rounds
    if rosters(study) == "free":
        return rounds + max(_FEWEST_SPARE, ceil(rounds / 4))
    q = 0.99**sites
    return rounds + ceil(rounds * (1 / q - 1) + 2 * sqrt(rounds * (1 - q)) / q)


def rosters(study: FilledStudy) -> Rosters:
    """What the study says, else a chain wherever one protects something."""
    if study.aggregation.rosters is not None:
        return study.aggregation.rosters
    return "chain" if (study.aggregation.mode, study.privacy.noise) == ("secagg", "central") else "free"


def once_per_round(study: FilledStudy) -> bool:
    """As `Plan.once_per_round`, before there is a plan."""
    privacy = study.privacy
    return privacy.noise == "central" and privacy.sampling_rate == 1 and rosters(study) == "free"


@dataclass(frozen=True)
class _Noise:
    """The noise multiplier z, and what follows from it for a grid of `clip_units`.

    `noise_shares` is t - c, 0 with central noise; `relation` is the stage's.
    """

    multiplier: float
    noise_shares: int
    sites: int
    dimension: int
    relation: str

    def sensitivity(self, clip_units: int) -> int:
        """Delta: s C, or 2 s C where rows are of shards."""
        return Sensitivity.of(clip_units, self.relation).l2

    def sigma(self, clip_units: int) -> int:
        """`sigma` = ceil(z Delta)."""
        return max(SMALLEST_SIGMA, ceil(self.multiplier * self.sensitivity(clip_units)))

    def sigma_local(self, clip_units: int) -> int:
        """Deviation of a site's noise share; 0 with central noise."""
        return noise_share_sigma(self.sigma(clip_units), self.noise_shares) if self.noise_shares else 0

    def margin(self, clip_units: int) -> int:
        """Room below the modulus; 0 with central noise, which comes after it."""
        return noise_margin(self.sigma_local(clip_units), self.sites, self.dimension) if self.noise_shares else 0


@dataclass(frozen=True)
class Settled:
    """A stage with every number settled, and the public rows that set its C, if they did."""

    asked: MethodStage
    stage: Stage
    rows: PublicRows | None


def settled_stages(
    study: FilledStudy,
    stages: Sequence[MethodStage],
    base: PinnedBase,
    aggregation: PlannedAggregation,
    units: dict[str, int],
    calibrated: Calibrated | None = None,
    successor: Sequence[Event] = (),
) -> list[Settled]:
    """Each stage's noise, C and grid, in order: the last one's noise is what the others leave of the claim.

    `calibrated` finds noise in place of `calibrate`, for tables; no plan is made with another. `successor`: what
    another study will charge under the same claim. `units`: N_i, of a method of shards S.
    """
    rounds, first, found = _rounds(study, stages), 1, list[Settled]()
    attempts = _attempts(study, stages[0].method, rounds, len(units))
    for asked, count, most in zip(stages, rounds, attempts, strict=True):
        if asked.share is None:
            epsilon, beside = study.privacy.epsilon, (*successor, *(one.stage.charges for one in found))
        else:
            epsilon, beside = asked.share * _left(study, successor, calibrated or calibrate), ()
        noise = _noise(study, asked, most, aggregation, len(units), epsilon, beside, calibrated or calibrate)
        clip, rows = _clip(study, asked, base)
        grid = _grid(study, clip, units, noise)
        origin: ClipOrigin = "public images" if rows else "study"
        stage = Stage(
            name=asked.name or LAST,
            rounds=range(first, first + count),
            max_attempts=most,
            dimension=asked.row,
            mechanism=_mechanism(study, asked.method, grid, noise, count, sum(units.values()), origin),
            grid=PlannedGrid(
                scale=grid.scale,
                clip_units=grid.clip_units,
                site_clamp=grid.site_clamp,
                modulus_bits=aggregation.wire_bits,
                noise_margin=noise.margin(grid.clip_units),
            ),
            noise_shares=noise.noise_shares,
            once_at_full_rate=study.privacy.noise == "central" and rosters(study) == "free",
            relation=noise.relation,
        )
        found.append(Settled(asked, stage, rows))
        first += count
    return found


def as_planned(stage: Stage) -> PlannedStage:
    """As plan.json spells a stage before the last."""
    return PlannedStage(
        name=stage.name,
        rounds=len(stage.rounds),
        max_attempts=stage.max_attempts,
        dimension=stage.dimension,
        grid=stage.grid,
        **stage.mechanism.model_dump(),
    )


def _noise(
    study: FilledStudy,
    asked: MethodStage,
    attempts: int,
    aggregation: PlannedAggregation,
    sites: int,
    epsilon: float,
    beside: Sequence[Event],
    calibrated: Calibrated,
) -> _Noise:
    """Of a stage at this epsilon: by itself, or together with `beside`."""
    wanted, distributed = study.privacy, study.privacy.noise == "distributed"
    z = calibrated(epsilon, wanted.delta, wanted.sampling_rate, attempts, by_rdp=distributed, beside=beside)
    noise_shares = aggregation.threshold - aggregation.colluders if distributed else 0
    relation = PER_SHARD if isinstance(asked.method, ShardedMethod) else PER_ROW
    return _Noise(z, noise_shares, sites, asked.row, relation)


def _left(study: FilledStudy, successor: Sequence[Event], calibrated: Calibrated) -> float:
    """The epsilon that shares of stages are of: the study's own, or that of one whole sum beside its successor."""
    wanted, distributed = study.privacy, study.privacy.noise == "distributed"
    if not successor:
        return wanted.epsilon
    z = calibrated(wanted.epsilon, wanted.delta, 1.0, 1, by_rdp=distributed, beside=successor)
    one = GaussianEvent(ceil(z * _UNIT), _UNIT, 1.0, 1)
    return epsilons((one,), wanted.delta)[1 if distributed else 0]


def _clip(study: FilledStudy, asked: MethodStage, base: PinnedBase) -> tuple[float, PublicRows | None]:
    """C, and the rows of public drawings where it is their median; None where the study says C."""
    clip = study.privacy.clip_norm if asked.clip_norm is None else asked.clip_norm
    if clip != "auto":
        return clip, None
    reporter().line('privacy.clip_norm = "auto": rows of public images; a number here makes a plan at once')
    rows = rows_for_c(base, asked.method, study.data.caption)
    # Two digits: the same plan on machines whose arithmetic differs in the last bits.
    return float(f"{asked.method.automatic.clip_share * rows.median:.2g}"), rows


def _grid(study: FilledStudy, clip: float, units: dict[str, int], noise: _Noise) -> Grid:
    """C, then s and B (PRIVACY 4)."""
    largest, bits = max(units.values()), study.aggregation.wire_bits
    grid = choose_grid(clip, study.privacy.sampling_rate, largest, len(units), bits, noise.margin)
    if too_coarse(grid.clip_units, noise.dimension):
        raise StudyError(
            f"{noise.dimension} values on a grid of {grid.clip_units} units per clip norm would be mostly cut to zero; "
            "lower privacy.sampling_rate or adapt fewer values"
            + (", or say aggregation.wire_bits = 32" if bits < RING_BITS else "")
        )
    return grid


def _mechanism(
    study: FilledStudy, method: Method, grid: Grid, noise: _Noise, rounds: int, total_units: int, origin: ClipOrigin
) -> Mechanism:
    """`sigma` = ceil(z Delta) and that of a noise share, on the grid that will be used."""
    wanted = study.privacy
    sigma, sigma_local = noise.sigma(grid.clip_units), noise.sigma_local(grid.clip_units)
    if sigma > LARGEST_SIGMA:
        raise StudyError(
            f"privacy.epsilon = {wanted.epsilon:g} needs noise of {sigma:.3g} grid units, beyond the sampler's 2^38; "
            "raise epsilon or lower privacy.rounds"
        )
    # Where all sites answer, all noise shares are in the sum.
    total = sigma_local * sqrt(noise.sites) if sigma_local else sigma
    # Of T rounds: signals add up in length, noise as a root, so the ratio of one round falls with sqrt(T).
    length = total * sqrt(noise.dimension / rounds) / (grid.scale * wanted.sampling_rate * total_units)
    return Mechanism(
        sampling_rate=wanted.sampling_rate,
        sigma=sigma,
        sigma_local=sigma_local,
        sensitivity=noise.sensitivity(grid.clip_units),
        clip_origin=origin,
        noise_to_signal=length / (method.alignment * grid.clip_norm),
    )


def planned_privacy(study: FilledStudy, stages: Sequence[Stage], successor: Sequence[Event] = ()) -> PlannedPrivacy:
    """The claim, recomputed from the integers that will run, of all stages together; the figures of the last.

    `successor`: what another study will charge under the same claim.
    """
    wanted, attempts = study.privacy, sum(stage.max_attempts for stage in stages)
    epsilon, epsilon_rdp = epsilons((*(stage.charges for stage in stages), *successor), wanted.delta)
    if wanted.noise == "central" and epsilon > wanted.epsilon:
        raise StudyError(
            f"privacy.delta = {wanted.delta:g} is so small over {attempts} attempts that rounding errors "
            f"decide what the accountant certifies ({epsilon:.6g}, not {wanted.epsilon:g}); raise privacy.delta or "
            "lower privacy.rounds"
        )
    return PlannedPrivacy(
        unit=wanted.unit,
        epsilon_target=wanted.epsilon,
        epsilon=epsilon,
        epsilon_rdp=epsilon_rdp,
        delta=wanted.delta,
        rounds=wanted.rounds,
        max_attempts=attempts,
        noise=wanted.noise,
        allow_noisy=wanted.allow_noisy,
        ready_seconds_per_unit=wanted.ready_seconds_per_unit,
        **stages[-1].mechanism.model_dump(),
    )
