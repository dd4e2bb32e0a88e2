"""Study -> plan: find the base, set C, calibrate sigma, choose the grid, and say what it will be worth."""

from dataclasses import dataclass, replace
from math import ceil, sqrt

from pydantic import ValidationError

from undertone import PROTOCOL, __version__
from undertone.core.bounds import PLAN_BYTES
from undertone.core.code_digest import package_sha256
from undertone.core.progress import reporter
from undertone.errors import NoisyRelease, StudyError
from undertone.methods.protocol import Method, Said, check_needs, settled
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase, pin
from undertone.privacy.accounting import calibrate
from undertone.privacy.distributed import noise_margin, noise_share_sigma
from undertone.privacy.noise import LARGEST_SIGMA, SMALLEST_SIGMA
from undertone.privacy.quantise import RING_BITS, Grid, choose_grid, too_coarse
from undertone.secagg.thresholds import default_colluders, default_threshold, fault
from undertone.study.automatic import filled, fitted, rated
from undertone.study.claim import epsilons
from undertone.study.plan import (
    ClipOrigin,
    Plan,
    PlannedAggregation,
    PlannedCohort,
    PlannedData,
    PlannedGrid,
    PlannedMethod,
    PlannedModel,
    PlannedPrivacy,
)
from undertone.study.public_rows import PublicRows, rows_for_c
from undertone.study.remedies import MOST_NOISE, what_works
from undertone.study.schema import FilledStudy, Rosters, Study

_FEWEST_SPARE = 3  # attempts, with free survivor lists


def resolve(
    study: Study,
    *,
    simulated_units: dict[str, int] | None = None,
) -> Plan:
    """Resolve a study to a plan; the same study gives the same plan.

    Args:
        study: a validated study.
        simulated_units: N_i filled in by a simulation, where the study publishes none.

    Raises:
        StudyError, ModelError: what is missing or cannot be, and what would do.
    """
    return resolved(study, simulated_units=simulated_units).plan


@dataclass(frozen=True)
class Resolved:
    """A plan, and what was found on the way to it: the base as it was hashed, the method, the rows that set C.

    `rows` is None where C is the study's own number; `said` is what the method has to say of what it found.
    """

    plan: Plan
    base: PinnedBase
    method: Method
    rows: PublicRows | None
    said: Said = ()


def resolved(study: Study, *, simulated_units: dict[str, int] | None = None) -> Resolved:
    """As `resolve`, with what is needed to say more about the plan than stands in it."""
    try:
        found = _resolved(study, study.cohort.units or simulated_units or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its numbers"
        raise StudyError(f"the study makes no plan that a site would read: {where}: {first['msg']}") from None
    if len(found.plan.as_bytes()) > PLAN_BYTES:
        raise StudyError(f"the plan has more than {PLAN_BYTES} bytes, which no site would read; use shorter names")
    return found


def _resolved(written: Study, units: dict[str, int]) -> Resolved:
    study, chosen = filled(written)
    method = method_for(study.method.name, study.method.options)
    _check_cohort(study, units)
    base = pin(study.model.base, study.model.revision)
    check_needs(method, base)
    method.check(base, study.data.caption)
    _check_rounds(study, method)
    method, fewer = fitted(written, method, base)
    method, said = settled(method, base, study.data.caption)
    layout, dimension = method.layout(base), method.dimension(base)
    aggregation = _aggregation(study, len(units))
    _check_attempts(study, aggregation)
    noise = _noise(study, method, aggregation, len(units), dimension)
    clip, rows = _clip(study, method, base)
    method, rate = rated(written, study.privacy.rounds, method, base, clip)
    grid = _grid(study, clip, units, noise)
    options = method_options(method)
    plan = Plan(
        protocol=PROTOCOL,
        package=__version__,
        package_sha256=package_sha256(),
        study=study.study.name,
        model=PlannedModel(base=base.reference, revision=base.revision, files=dict(base.files), licence=base.licence),
        method=PlannedMethod(name=method.name, options=options, dimension=dimension, layout_digest=layout.digest),
        privacy=_privacy(study, method, grid, noise, sum(units.values()), "public images" if rows else "study"),
        grid=PlannedGrid(
            scale=grid.scale,
            clip_units=grid.clip_units,
            site_clamp=grid.site_clamp,
            modulus_bits=aggregation.wire_bits,
            noise_margin=noise.margin(grid.clip_units),
        ),
        data=PlannedData(unit_column=study.data.unit_column, caption=study.data.caption),
        cohort=PlannedCohort(
            units=units,
            units_origin="published" if study.cohort.units else "filled in by simulate",
            min_sites=study.cohort.min_sites,
        ),
        aggregation=aggregation,
    )
    return Resolved(plan, base, method, rows, tuple(dict((*chosen, *fewer, *rate, *said)).items()))


def method_options(method: Method) -> dict[str, str | int | float | bool | list[str]]:
    """All options of a method, defaults included, as the plan stores them."""
    dumped: dict[str, str | int | float | bool | list[str]] = method.options.model_dump(mode="json")
    return dumped


def units_for_signal(plan: Plan) -> int:
    """How many units in all would bring the noise-to-signal ratio to 1."""
    return ceil(sum(plan.cohort.units.values()) * plan.privacy.noise_to_signal)


def refuse_noise(plan: Plan, base: PinnedBase) -> None:
    """Stop before a release that would be mostly noise, and name what would not be.

    Raises:
        NoisyRelease: unless the study says `allow_noisy = true`.
    """
    ratio = plan.privacy.noise_to_signal
    if ratio > MOST_NOISE and not plan.privacy.allow_noisy:
        raise NoisyRelease(
            f"the noise would be {ratio:.1f} times the signal: about {units_for_signal(plan)} units would bring it "
            f"under 1, {sum(plan.cohort.units.values())} are planned. {what_works(plan, base)}. Or add sites, raise "
            "epsilon, or say privacy.allow_noisy = true"
        )


def _check_cohort(study: FilledStudy, units: dict[str, int]) -> None:
    if not units:
        raise StudyError(
            "cohort.units is missing: list each site with its public number of units, as in "
            'units = { "site-a" = 280, "site-b" = 200, "site-c" = 120 }; only simulate can fill it in'
        )
    if len(units) < study.cohort.min_sites:
        raise StudyError(f"{len(units)} sites are fewer than cohort.min_sites = {study.cohort.min_sites}; add sites")


def _check_rounds(study: FilledStudy, method: Method) -> None:
    if method.one_shot and study.privacy.rounds != 1:
        raise StudyError(f"privacy.rounds = {study.privacy.rounds}: {method.name} opens one sum; leave rounds out")


def _attempts(study: FilledStudy, method: Method, sites: int) -> int:
    """How many sums may be opened in all: 1 for a one-shot method, else T and some more (PRIVACY 12).

    With a chain of survivor lists an attempt is void when one of n sites is away between its masks and its vector. If
    each is away 1 % of the time, an attempt succeeds with q = 0.99^n, and what T rounds need is negative binomial with
    mean T / q and variance T (1 - q) / q^2: two standard deviations are added. Free lists lose an attempt to a crash of
    the coordinator alone, in a deployed study sometimes two in one round: T and a quarter more, at least three; none
    where a site answers each round once.
    """
    wanted = study.privacy
    if wanted.max_attempts is not None:
        return wanted.max_attempts
    if method.one_shot or _once_per_round(study):
        return wanted.rounds
    if _rosters(study) == "free":
        return wanted.rounds + max(_FEWEST_SPARE, ceil(wanted.rounds / 4))
    q = 0.99**sites
    return wanted.rounds + ceil(wanted.rounds * (1 / q - 1) + 2 * sqrt(wanted.rounds * (1 - q)) / q)


def _rosters(study: FilledStudy) -> Rosters:
    """What the study says, else a chain wherever one protects something."""
    if study.aggregation.rosters is not None:
        return study.aggregation.rosters
    return "chain" if (study.aggregation.mode, study.privacy.noise) == ("secagg", "central") else "free"


def _once_per_round(study: FilledStudy) -> bool:
    """As `Plan.once_per_round`, before there is a plan."""
    privacy = study.privacy
    return privacy.noise == "central" and privacy.sampling_rate == 1 and _rosters(study) == "free"


def _check_attempts(study: FilledStudy, aggregation: PlannedAggregation) -> None:
    privacy = study.privacy
    if privacy.max_attempts is None or privacy.max_attempts == privacy.rounds or not _once_per_round(study):
        return
    why = "" if aggregation.mode == "plain" else ', or aggregation.rosters = "chain"'
    raise StudyError(
        f"privacy.max_attempts = {privacy.max_attempts} with privacy.sampling_rate = 1 and survivor lists that are "
        f"free: each site answers a round once, so more than privacy.rounds = {privacy.rounds} could never be used. "
        f"Leave max_attempts out, or give a sampling_rate below 1{why}"
    )


def _aggregation(study: FilledStudy, sites: int) -> PlannedAggregation:
    """Threshold and colluders from the study or by their rules; none of both with plain aggregation."""
    wanted = study.aggregation
    rosters = _rosters(study)
    if wanted.mode == "plain":
        return PlannedAggregation(mode="plain", threshold=0, colluders=0, wire_bits=32, rosters=rosters)
    threshold = default_threshold(sites) if wanted.threshold is None else wanted.threshold
    colluders = default_colluders(sites, threshold) if wanted.colluders is None else wanted.colluders
    wrong = fault(sites, threshold, colluders, distributed=study.privacy.noise == "distributed")
    if wrong:
        raise StudyError(wrong)
    return PlannedAggregation(
        mode="secagg", threshold=threshold, colluders=colluders, wire_bits=wanted.wire_bits, rosters=rosters
    )


@dataclass(frozen=True)
class _Noise:
    """The noise multiplier z, and what follows from it for a grid of `clip_units`.

    `noise_shares` is t - c, 0 with central noise.
    """

    multiplier: float
    noise_shares: int
    sites: int
    dimension: int

    def sigma(self, clip_units: int) -> int:
        """`sigma` = ceil(z Delta), Delta = s C."""
        return max(SMALLEST_SIGMA, ceil(self.multiplier * clip_units))

    def sigma_local(self, clip_units: int) -> int:
        """Deviation of a site's noise share; 0 with central noise."""
        return noise_share_sigma(self.sigma(clip_units), self.noise_shares) if self.noise_shares else 0

    def margin(self, clip_units: int) -> int:
        """Room below the modulus; 0 with central noise, which comes after it."""
        return noise_margin(self.sigma_local(clip_units), self.sites, self.dimension) if self.noise_shares else 0


def _noise(study: FilledStudy, method: Method, aggregation: PlannedAggregation, sites: int, dimension: int) -> _Noise:
    wanted, distributed = study.privacy, study.privacy.noise == "distributed"
    attempts = _attempts(study, method, sites)
    z = calibrate(wanted.epsilon, wanted.delta, wanted.sampling_rate, attempts, by_rdp=distributed)
    noise_shares = aggregation.threshold - aggregation.colluders if distributed else 0
    return _Noise(z, noise_shares, sites, dimension)


def _clip(study: FilledStudy, method: Method, base: PinnedBase) -> tuple[float, PublicRows | None]:
    """C, and the rows of public drawings where it is their median; None where the study says C."""
    clip = study.privacy.clip_norm
    if clip != "auto":
        return clip, None
    reporter().line('privacy.clip_norm = "auto": rows of public images; a number here makes a plan at once')
    rows = rows_for_c(base, method, study.data.caption)
    # Two digits: the same plan on machines whose arithmetic differs in the last bits.
    return float(f"{method.automatic.clip_share * rows.median:.2g}"), rows


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


def _privacy(
    study: FilledStudy, method: Method, grid: Grid, noise: _Noise, total_units: int, origin: ClipOrigin
) -> PlannedPrivacy:
    """`sigma` = ceil(z Delta) and that of a noise share, then the claim recomputed from the integers that will run."""
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
    length = total * sqrt(noise.dimension / wanted.rounds) / (grid.scale * wanted.sampling_rate * total_units)
    planned = PlannedPrivacy(
        unit=wanted.unit,
        epsilon_target=wanted.epsilon,
        epsilon=0.0,
        epsilon_rdp=0.0,
        delta=wanted.delta,
        sampling_rate=wanted.sampling_rate,
        rounds=wanted.rounds,
        max_attempts=_attempts(study, method, noise.sites),
        noise=wanted.noise,
        sigma=sigma,
        sigma_local=sigma_local,
        sensitivity=grid.clip_units,
        clip_origin=origin,
        noise_to_signal=length / (method.alignment * grid.clip_norm),
        allow_noisy=wanted.allow_noisy,
        ready_seconds_per_unit=wanted.ready_seconds_per_unit,
    )
    charges = replace(planned.event(noise.noise_shares, noise.dimension), count=planned.max_attempts)
    epsilon, epsilon_rdp = epsilons(charges, planned.delta)
    if not sigma_local and epsilon > wanted.epsilon:
        raise StudyError(
            f"privacy.delta = {wanted.delta:g} is so small over {planned.max_attempts} attempts that rounding errors "
            f"decide what the accountant certifies ({epsilon:.6g}, not {wanted.epsilon:g}); raise privacy.delta or "
            "lower privacy.rounds"
        )
    return planned.model_copy(update={"epsilon": epsilon, "epsilon_rdp": epsilon_rdp})
