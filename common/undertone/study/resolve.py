"""Study -> plan: find the base, set C, calibrate sigma, choose the grid, and say what it will be worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from pydantic import ValidationError

from undertone import PROTOCOL, __version__
from undertone.core.bounds import PLAN_BYTES
from undertone.core.code_digest import package_sha256
from undertone.errors import NoisyRelease, StudyError
from undertone.methods.classed import scaled, with_classes
from undertone.methods.classes import FLOOR
from undertone.methods.protocol import Method, MethodStage, Said, check_needs, sent_by, settled, stages_of
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase, pin
from undertone.secagg.thresholds import default_colluders, default_threshold, fault
from undertone.study.automatic import filled, fitted, rated
from undertone.study.plan import (
    Plan,
    PlannedAggregation,
    PlannedCohort,
    PlannedMethod,
    PlannedModel,
)
from undertone.study.planned_data import PlannedData
from undertone.study.public_rows import PublicRows, rows_for_c
from undertone.study.remedies import MOST_NOISE, what_works
from undertone.study.schema import FilledStudy, Study
from undertone.study.settling import Settled, as_planned, once_per_round, planned_privacy, rosters, settled_stages


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

    Both are of the last stage; `rows` is None where C is the study's own number. `said` is what the method says of
    what it found.
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
    method = with_classes(method, study.data.classes)
    base = pin(study.model.base, study.model.revision)
    check_needs(method, base)
    method.check(base, study.data.caption)
    _check_rounds(study, method)
    method, fewer = fitted(written, method, base)
    method, found = settled(method, base, study.data.caption)
    method, shares = scaled(method, base, lambda one: rows_for_c(base, one, study.data.caption).median)
    layout, dimension = method.layout(base), method.dimension(base)
    aggregation = aggregation_of(study, len(units))
    _check_attempts(study, aggregation)
    asked = stages_of(method, base)
    _check_clip(study, asked[-1])
    stages = settled_stages(study, asked, base, aggregation, units)
    last = stages[-1]
    method, rate = rated(written, len(last.stage.rounds), method, base, last.stage.clip_norm)
    options, sent = method_options(method), sent_by(method, base)
    plan = Plan(
        protocol=PROTOCOL,
        package=__version__,
        package_sha256=package_sha256(),
        study=study.study.name,
        model=PlannedModel(base=base.reference, revision=base.revision, files=dict(base.files), licence=base.licence),
        method=PlannedMethod(
            name=method.name,
            options=options,
            dimension=dimension,
            layout_digest=layout.digest,
            row=None if last.stage.dimension == dimension else last.stage.dimension,
            sent=None if sent == dimension else sent,
        ),
        privacy=planned_privacy(study, [one.stage for one in stages]),
        grid=last.stage.grid,
        data=PlannedData(**study.data.model_dump()),
        cohort=PlannedCohort(
            units=units,
            units_origin="published" if study.cohort.units else "filled in by simulate",
            min_sites=study.cohort.min_sites,
        ),
        aggregation=aggregation,
        earlier=[as_planned(one.stage) for one in stages[:-1]],
    )
    said = tuple(dict((*chosen, *fewer, *rate, *found, *shares, *_floors(stages))).items())
    return Resolved(plan, base, stages_of(method, base)[-1].method, last.rows, said)


def _floors(stages: Sequence[Settled]) -> Said:
    """F of each stage whose rows hold shares of classes; and how many units that is, clipped and at rate p."""
    found = []
    for one in stages:
        if one.asked.shares is None:
            continue
        stage, rows = one.stage, one.rows
        floor = one.asked.shares.floor(stage.sigma, stage.grid.scale)
        whole = min(1.0, stage.clip_norm / rows.median) if rows else 1.0
        units = ceil(floor / (stage.sampling_rate * whole))
        said = f"F = {floor:.3g} = {FLOOR:g} sigma / (s a): below about {units} units of a class over all sites"
        beside = f", whose rows are cut to {whole:.2g} of their length" if whole < 1 else ""
        found.append(("floor of a class", f"{said}{beside}, what is learned of it shrinks towards the start"))
    return found


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


def _check_clip(study: FilledStudy, last: MethodStage) -> None:
    if study.privacy.clip_norm != "auto" and last.clip_norm is not None:
        raise StudyError(
            f"privacy.clip_norm = {study.privacy.clip_norm:g}: rows of {last.method.name} have a bound of their own by "
            "its options, which is C; leave clip_norm out"
        )


def _check_attempts(study: FilledStudy, aggregation: PlannedAggregation) -> None:
    privacy = study.privacy
    if privacy.max_attempts is None or privacy.max_attempts == privacy.rounds or not once_per_round(study):
        return
    why = "" if aggregation.mode == "plain" else ', or aggregation.rosters = "chain"'
    raise StudyError(
        f"privacy.max_attempts = {privacy.max_attempts} with privacy.sampling_rate = 1 and survivor lists that are "
        f"free: each site answers a round once, so more than privacy.rounds = {privacy.rounds} could never be used. "
        f"Leave max_attempts out, or give a sampling_rate below 1{why}"
    )


def aggregation_of(study: FilledStudy, sites: int) -> PlannedAggregation:
    """Threshold and colluders from the study or by their rules; none of both with plain aggregation.

    Raises:
        StudyError: so few sites, or so many colluders, that secure aggregation would hide nothing.
    """
    wanted = study.aggregation
    chosen = rosters(study)
    if wanted.mode == "plain":
        return PlannedAggregation(mode="plain", threshold=0, colluders=0, wire_bits=32, rosters=chosen)
    threshold = default_threshold(sites) if wanted.threshold is None else wanted.threshold
    colluders = default_colluders(sites, threshold) if wanted.colluders is None else wanted.colluders
    wrong = fault(sites, threshold, colluders, distributed=study.privacy.noise == "distributed")
    if wrong:
        raise StudyError(wrong)
    return PlannedAggregation(
        mode="secagg", threshold=threshold, colluders=colluders, wire_bits=wanted.wire_bits, rosters=chosen
    )
