"""Study -> plan: find the base, set C, calibrate sigma, choose the grid, and say what it will be worth."""

from math import ceil, sqrt

from undertone import PROTOCOL, __version__
from undertone.errors import NoisyRelease, StudyError
from undertone.methods.protocol import Method
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase, pin
from undertone.package import package_sha256
from undertone.plan import (
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
from undertone.privacy.accounting import GaussianEvent, calibrate, epsilon_pld, epsilon_rdp
from undertone.privacy.quantise import Grid, choose_grid
from undertone.progress import reporter
from undertone.secagg.parameters import default_colluders, default_threshold
from undertone.study import Study

MINIMUM_SIGMA = 64
SMALLEST_COHORT = 3


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
    units = study.cohort.units or simulated_units or {}
    method = method_for(study.method)
    _check_cohort(study, units)
    base = pin(study.model.base, study.model.revision)
    method.check(base, study.data.caption)
    _check_rounds(study, method)
    grid, origin = _grid(study, method, base, units)
    layout = method.layout(base)
    options = method_options(method)
    return Plan(
        protocol=PROTOCOL,
        package=__version__,
        package_sha256=package_sha256(),
        study=study.study.name,
        model=PlannedModel(base=base.reference, revision=base.revision, files=dict(base.files), licence=base.licence),
        method=PlannedMethod(name=method.name, options=options, dimension=layout.size, layout_digest=layout.digest),
        privacy=_privacy(study, method, grid, layout.size, sum(units.values()), origin),
        grid=PlannedGrid(
            scale=grid.scale,
            clip_units=grid.clip_units,
            site_clamp=grid.site_clamp,
            modulus_bits=study.aggregation.wire_bits,
        ),
        data=PlannedData(unit_column=study.data.unit_column, caption=study.data.caption),
        cohort=PlannedCohort(
            units=units,
            units_origin="published" if study.cohort.units else "filled in by simulate",
            min_sites=study.cohort.min_sites,
        ),
        aggregation=_aggregation(study, len(units)),
    )


def method_options(method: Method) -> dict[str, str | int | float | bool]:
    """All options of a method, defaults included, as the plan stores them."""
    dumped: dict[str, str | int | float | bool] = method.options.model_dump(mode="json")
    return dumped


def units_for_signal(plan: Plan) -> int:
    """How many units in all would bring the noise-to-signal ratio to 1."""
    return ceil(sum(plan.cohort.units.values()) * plan.privacy.noise_to_signal)


def refuse_noise(plan: Plan) -> None:
    """Stop before a release that would be mostly noise.

    Raises:
        NoisyRelease: unless the study says `allow_noisy = true`.
    """
    ratio = plan.privacy.noise_to_signal
    if ratio > 1 and not plan.privacy.allow_noisy:
        raise NoisyRelease(
            f"the noise would be {ratio:.1f} times the signal: about {units_for_signal(plan)} units would bring it "
            f"under 1, {sum(plan.cohort.units.values())} are planned. Add sites, raise epsilon, or say "
            "privacy.allow_noisy = true"
        )


def _check_cohort(study: Study, units: dict[str, int]) -> None:
    if not units:
        raise StudyError(
            "cohort.units is missing: list each site with its public number of units, as in "
            'units = { "site-a" = 280, "site-b" = 200, "site-c" = 120 }; only simulate can fill it in'
        )
    if len(units) < study.cohort.min_sites:
        raise StudyError(f"{len(units)} sites are fewer than cohort.min_sites = {study.cohort.min_sites}; add sites")
    if study.privacy.noise == "distributed":
        raise StudyError(
            'privacy.noise = "distributed" needs secure aggregation, which this version lacks; use "central"'
        )


def _aggregation(study: Study, sites: int) -> PlannedAggregation:
    """T and c from the study or at their defaults (docs/secure-aggregation.md, 2).

    Raises:
        StudyError: too few sites, or a threshold at which the coordinator could open one site's sum.
    """
    wanted = study.aggregation
    if wanted.mode == "plain":
        return PlannedAggregation(mode="plain", threshold=study.cohort.min_sites, colluders=0)
    if sites < SMALLEST_COHORT:
        raise StudyError(
            f"secure aggregation needs at least {SMALLEST_COHORT} sites, the study has {sites}: add sites, or let the "
            'coordinator see each site\'s sum with aggregation.mode = "plain"'
        )
    t = wanted.threshold or default_threshold(sites)
    c = wanted.colluders or max(1, min(default_colluders(sites), t - 2, 2 * t - sites - 1))
    if not (t <= sites and 2 * t > sites + c and t - c >= 2):
        raise StudyError(
            f"aggregation.threshold = {t} with aggregation.colluders = {c} among {sites} sites is not safe: at most "
            f"{sites}, more than (sites + colluders) / 2, and colluders + 2 or more. Leave both out for "
            f"{default_threshold(sites)} and {default_colluders(sites)}"
        )
    return PlannedAggregation(mode="secagg", threshold=t, colluders=c)


def _check_rounds(study: Study, method: Method) -> None:
    if method.one_shot and study.privacy.rounds != 1:
        raise StudyError(f"privacy.rounds = {study.privacy.rounds}: {method.name} opens one sum; leave rounds out")


def _attempts(study: Study, method: Method) -> int:
    """T + 10 %, and 1 for a one-shot method (DESIGN 7)."""
    if study.privacy.max_attempts is not None:
        return study.privacy.max_attempts
    return 1 if method.one_shot else study.privacy.rounds + ceil(study.privacy.rounds / 10)


def _grid(study: Study, method: Method, base: PinnedBase, units: dict[str, int]) -> tuple[Grid, ClipOrigin]:
    """C from the study or from public images, then s and B (PRIVACY 4)."""
    clip = study.privacy.clip_norm
    origin: ClipOrigin = "study"
    if clip == "auto":
        reporter().line('privacy.clip_norm = "auto": inverting public images; a number here makes a plan at once')
        # Two digits: the same plan on machines whose arithmetic differs in the last bits.
        clip = float(f"{method.public_clip_norm(base, study.data.caption):.2g}")
        origin = "public images"
    return choose_grid(
        clip, study.privacy.sampling_rate, max(units.values()), len(units), study.aggregation.wire_bits
    ), origin


def _privacy(
    study: Study, method: Method, grid: Grid, dimension: int, total_units: int, origin: ClipOrigin
) -> PlannedPrivacy:
    """Sigma = ceil(z Delta), then the claim recomputed from the integers that will run."""
    wanted, attempts = study.privacy, _attempts(study, method)
    z = calibrate(wanted.epsilon, wanted.delta, wanted.sampling_rate, attempts)
    sigma = max(MINIMUM_SIGMA, ceil(z * grid.clip_units))
    events = [GaussianEvent(sigma, grid.clip_units, wanted.sampling_rate, attempts)]
    noise = sigma * sqrt(dimension) / (grid.scale * wanted.sampling_rate * total_units)
    return PlannedPrivacy(
        unit=wanted.unit,
        epsilon_target=wanted.epsilon,
        epsilon=epsilon_pld(events, wanted.delta),
        epsilon_rdp=epsilon_rdp(events, wanted.delta),
        delta=wanted.delta,
        sampling_rate=wanted.sampling_rate,
        rounds=wanted.rounds,
        max_attempts=attempts,
        noise="central",
        sigma=sigma,
        sensitivity=grid.clip_units,
        clip_origin=origin,
        noise_to_signal=noise / (method.alignment * grid.clip_norm),
        allow_noisy=wanted.allow_noisy,
    )


def recompute_epsilon(plan: Plan) -> tuple[float, float]:
    """The claim (PLD, RDP) from the plan's integers alone: what `verify` compares with the statement."""
    privacy = plan.privacy
    events = [GaussianEvent(privacy.sigma, privacy.sensitivity, privacy.sampling_rate, privacy.max_attempts)]
    return epsilon_pld(events, privacy.delta), epsilon_rdp(events, privacy.delta)
