"""Study -> plan: find the base, set C, calibrate sigma, choose the grid, and say what it will be worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from pydantic import ValidationError

from undertone import PROTOCOL, __version__
from undertone.core.bounds import PLAN_BYTES
from undertone.core.code_digest import package_sha256
from undertone.errors import ModelError, NoisyRelease, StudyError
from undertone.methods.choosing import WarmStarted
from undertone.methods.classed import scaled, with_classes
from undertone.methods.classes import FLOOR
from undertone.methods.protocol import (
    Method,
    MethodStage,
    Said,
    ShardedMethod,
    check_needs,
    sent_by,
    settled,
    stages_of,
)
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase, pin
from undertone.secagg.thresholds import default_colluders, default_threshold, fault
from undertone.study.automatic import filled, fitted, rated
from undertone.study.claim import recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.planned import class_prompts
from undertone.study.planned_data import PlannedData
from undertone.study.planned_parts import PlannedAggregation, PlannedCohort, PlannedMethod, PlannedModel
from undertone.study.public_rows import PublicRows, rows_for_c
from undertone.study.remedies import MOST_NOISE, what_works
from undertone.study.schema import FilledStudy, Study, load_study
from undertone.study.settling import Settled, as_planned, once_per_round, planned_privacy, rosters, settled_stages
from undertone.study.start import PlannedStart, PlannedSuccessor


def resolve(
    study: Study,
    *,
    simulated_units: dict[str, int] | None = None,
    start: PlannedStart | None = None,
) -> Plan:
    """Resolve a study to a plan; the same study gives the same plan.

    Args:
        study: a validated study.
        simulated_units: how many units each site has, filled in by a simulation where the study publishes none.
        start: what the study's `model.start` names, verified (`undertone.release.start`).

    Raises:
        StudyError, ModelError: what is missing or cannot be, and what would do.
    """
    return resolved(study, simulated_units=simulated_units, start=start).plan


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


def resolved(
    study: Study, *, simulated_units: dict[str, int] | None = None, start: PlannedStart | None = None
) -> Resolved:
    """As `resolve`, with what is needed to say more about the plan than stands in it."""
    if (study.model.start is None) != (start is None):
        raise StudyError("model.start names a release, which is verified before the study is planned; both or neither")
    units = study.cohort.figures or simulated_units or {}
    try:
        found = _resolved(study, units, start, _successor(study, units))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its numbers"
        raise StudyError(f"the study makes no plan that a site would read: {where}: {first['msg']}") from None
    if len(found.plan.as_bytes()) > PLAN_BYTES:
        raise StudyError(f"the plan has more than {PLAN_BYTES} bytes, which no site would read; use shorter names")
    return found


def _successor(study: Study, units: dict[str, int]) -> PlannedSuccessor | None:
    """What the study that `privacy.successor` names will charge, by its own figures and its own epsilon.

    Args:
        study: of which it may be the successor.
        units: how many each site has, for a successor that publishes none, as in a simulation.

    Raises:
        StudyError: it could not start from this study's release under one claim; why.
    """
    if study.privacy.successor is None:
        return None
    path = Path(study.privacy.successor)
    successor = load_study(path)
    if successor.privacy.successor is not None:
        raise StudyError(f"privacy.successor = {path} names a successor of its own; a claim covers two studies")
    for key in ("unit", "delta", "noise"):
        mine, its = getattr(study.privacy, key), getattr(successor.privacy, key)
        if mine != its:
            raise StudyError(f"privacy.{key} is {mine} here and {its} in {path}: one claim over both has one {key}")
    if study.data.unit_column != successor.data.unit_column:
        raise StudyError(f"data.unit_column is not that of {path}: one claim over both studies has one unit")
    if not set(successor.data.classes) <= set(study.data.classes):
        raise StudyError(f"{path} has classes that this study lacks: nothing of them could be drawn for its start")
    if not successor.privacy.epsilon < study.privacy.epsilon:
        raise StudyError(
            f"privacy.epsilon = {study.privacy.epsilon:g} is of this study and its successor together, and {path} "
            f"takes {successor.privacy.epsilon:g} of it by itself: say less there"
        )
    alone = successor.model_copy(
        update={"model": successor.model.model_copy(update=dict.fromkeys(("start", "start_images", "start_steps")))}
    )
    try:
        _check_warm(method_for(alone.method.name, alone.method.options))
        plan = resolved(alone, simulated_units=units).plan
    except (StudyError, ModelError) as error:
        raise StudyError(f"privacy.successor = {path} makes no plan: {error}") from None
    if plan.model.files != dict(pin(study.model.base, study.model.revision).files):
        raise StudyError(f"{path} adapts another base; what is drawn from this study's release would not fit it")
    return PlannedSuccessor.of(plan.study, plan.charges)


def _resolved(
    written: Study, people: dict[str, int], start: PlannedStart | None, successor: PlannedSuccessor | None
) -> Resolved:
    study, chosen = filled(written)
    method = method_for(study.method.name, study.method.options)
    units = _rows_of(study, method, people)
    method = with_classes(method, study.data.classes)
    base = pin(study.model.base, study.model.revision)
    check_needs(method, base)
    if start is not None:
        _check_warm(method)
    method.check(base, study.data.caption)
    _check_rounds(study, method)
    method, fewer = fitted(written, method, base)
    method, found = settled(method, base, study.data.caption)
    method, shares = scaled(method, base, lambda one: rows_for_c(base, one, study.data.caption).median)
    layout, dimension = method.layout(base), method.dimension(base)
    aggregation = aggregation_of(study, len(units))
    _check_attempts(study, aggregation)
    asked, beside = stages_of(method, base), () if successor is None else successor.charges
    _check_clip(study, asked[-1])
    stages = settled_stages(study, asked, base, aggregation, units, successor=beside)
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
            shards=method.shards if isinstance(method, ShardedMethod) else None,
        ),
        privacy=planned_privacy(study, [one.stage for one in stages], beside),
        grid=last.stage.grid,
        data=PlannedData(**study.data.model_dump()),
        cohort=PlannedCohort(
            units=units,
            units_origin="published" if study.cohort.figures else "filled in by simulate",
            min_sites=study.cohort.min_sites,
            patients=people if isinstance(method, ShardedMethod) else None,
        ),
        aggregation=aggregation,
        earlier=[as_planned(one.stage) for one in stages[:-1]],
        start=start,
        successor=successor,
    )
    if plan.data.classes and plan.ancestor is not None and "" in class_prompts(plan.ancestor):
        raise StudyError(
            f"model.start: {plan.ancestor.study} draws no class apart, so nothing of this study's is known"
        )
    plan = _covering(plan)
    said = tuple(dict((*chosen, *fewer, *rate, *found, *shares, *_floors(stages))).items())
    return Resolved(plan, base, stages_of(method, base)[-1].method, last.rows, said)


def _check_warm(method: Method) -> None:
    """Raise StudyError where a method cannot be trained on what is drawn from a release."""
    if not isinstance(method, WarmStarted):
        raise StudyError(f"{method.name} starts from its base alone: no study of it has model.start")


def _covering(plan: Plan) -> Plan:
    """The plan with the claim over both studies, where one covers its ancestor too (PRIVACY 25)."""
    if not plan.joint:
        return plan
    epsilon, epsilon_rdp = recompute_epsilon(plan)
    both = plan.privacy.model_copy(update={"epsilon": epsilon, "epsilon_rdp": epsilon_rdp})
    return Plan.model_validate(plan.model_copy(update={"privacy": both}).model_dump())


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
    """How many units in all would bring the noise-to-signal ratio to 1; of a method of shards, how many shards."""
    return ceil(sum(plan.cohort.units.values()) * plan.privacy.noise_to_signal)


def rows_are_of(plan: Plan) -> str:
    """What N_i counts: units, or shards of them."""
    return "units" if plan.method.shards is None else "shards"


def refuse_noise(plan: Plan, base: PinnedBase) -> None:
    """Stop before a release that would be mostly noise, and name what would not be.

    Raises:
        NoisyRelease: unless the study says `allow_noisy = true`.
    """
    ratio = plan.privacy.noise_to_signal
    if ratio > MOST_NOISE and not plan.privacy.allow_noisy:
        raise NoisyRelease(
            f"the noise would be {ratio:.1f} times the signal: about {units_for_signal(plan)} {rows_are_of(plan)} "
            f"would bring it under 1, {sum(plan.cohort.units.values())} are planned. {what_works(plan, base)}. Or add "
            "sites, raise epsilon, or say privacy.allow_noisy = true"
        )


def _rows_of(study: FilledStudy, method: Method, people: dict[str, int]) -> dict[str, int]:
    """N_i of each site: as many as it has units by its own public figure, or as many as it has shards (PRIVACY 15).

    Raises:
        StudyError: a key of [cohort] is missing, or goes with another method; too few sites.
    """
    sharded = isinstance(method, ShardedMethod)
    key, other = ("patients", "units") if sharded else ("units", "patients")
    if getattr(study.cohort, other):
        why = (
            f"rows of {method.name} are of shards of a site's units: say cohort.patients = {{ ... }}, how many units "
            "each site publishes, and leave units out"
            if sharded
            else f"cohort.patients goes with a method of shards; rows of {method.name} are of units: say cohort.units"
        )
        raise StudyError(f"cohort.{other}: {why}")
    if not people:
        raise StudyError(
            f"cohort.{key} is missing: list each site with its public number of units, as in "
            f'{key} = {{ "site-a" = 280, "site-b" = 200, "site-c" = 120 }}; only simulate can fill it in'
        )
    if len(people) < study.cohort.min_sites:
        raise StudyError(f"{len(people)} sites are fewer than cohort.min_sites = {study.cohort.min_sites}; add sites")
    if not isinstance(method, ShardedMethod):
        return people
    wanted = study.privacy
    if wanted.sampling_rate != 1:
        raise StudyError(
            f"privacy.sampling_rate = {wanted.sampling_rate:g}: every shard of {method.name} is in every round, "
            "which is a rate of 1; leave it out"
        )
    if wanted.unit == "site":
        raise StudyError(f'privacy.unit = "site": {method.name} splits a site\'s units into shards; say another unit')
    return dict.fromkeys(people, method.shards)


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
