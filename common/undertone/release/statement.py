"""privacy.json: what a release reveals about any one unit, point by point (NIST SP 800-226)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from undertone import __version__
from undertone.core.canonical import Json
from undertone.release.trust import together, trust_assumptions
from undertone.study.plan import Plan
from undertone.study.stage import Stage

SIMULATION = "simulation"
_ACCOUNTANTS = {
    "central": "privacy loss distribution (dp-accounting)",
    "distributed": "Renyi DP at integer orders (dp-accounting)",
}
_MECHANISMS = {
    "central": "rounded Gaussian noise on a sum of clipped integer rows",
    "distributed": "a sum of noise shares, discrete Gaussians, one from each site, on a sum of clipped integer rows",
}
_FLOATING_POINT = (
    "rows are computed in batches of fixed shape, and that a row does not depend on its neighbours is measured, not "
    "proved; from clipping on there are only integers: the length of each unit's row is checked in integers before it "
    "is added, and noise is drawn exactly"
)
_FLOATING_POINT_OF_SHARDS = (
    "rows are computed one shard at a time, but images of different shards share the encoder's batches of fixed "
    "shape, and that an image's latents do not depend on its neighbours is measured, not proved; from clipping on "
    "there are only integers: the length of each shard's row is checked in integers before it is added, and noise is "
    "drawn exactly"
)
_SAMPLING = "Poisson, independent secret coins at each site"
_SPLIT = (
    "none: at each site the units are split into {shards} shards by a secret of the site, and every shard is in every "
    "sum; a unit changes the row of one shard, from one vector of the clip norm's length at most to another"
)
UNIT_MEANS = {
    "record": "one image",
    "patient": "one patient at one site, with all her images there; the same person at two sites is two units, "
    "and her guarantee is weaker",
    "site": "one site, with all its images; whether a site took part is public",
}


@dataclass(frozen=True)
class TookPart:
    """Whose sums were opened: a site may be in the sum of one round and not of another.

    `everywhere` are the sites in every round's sum, `missing` the others of the roster with the reason; `fewest` is how
    many the smallest sum holds; `partly` says of those of `missing` that are in some sums, in how many.
    """

    everywhere: list[str]
    missing: dict[str, str]
    fewest: int
    partly: Mapping[str, int] = field(default_factory=dict)


def privacy_statement(
    plan: Plan, *, setting: Json, ledger_head: str, charges: int, took_part: TookPart
) -> dict[str, Json]:
    """The statement of a release; every figure comes from the plan or the ledger.

    Args:
        plan: the plan that ran.
        setting: "simulation", or the deployment's own name for itself.
        ledger_head: the hash of the ledger's last entry.
        charges: attempts charged.
        took_part: whose sums were opened.
    """
    privacy = plan.privacy
    return {
        "undertone": __version__,
        "study": plan.study,
        "setting": setting,
        "guarantee": {
            "unit": privacy.unit,
            "unit_means": UNIT_MEANS[privacy.unit],
            "adjacency": privacy.adjacency,
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "accountant": _ACCOUNTANTS[privacy.noise],
            "epsilon_rdp": privacy.epsilon_rdp,
            "claim": _claim(plan),
        },
        **_lineage(plan),
        "mechanism": _mechanism(plan, charges, took_part.fewest),
        "aggregation": {
            "mode": plan.aggregation.mode,
            "threshold": plan.aggregation.threshold,
            "colluders": plan.aggregation.colluders,
            "sites_needed": plan.quorum,
            "wire_bits": plan.aggregation.wire_bits,
            "rosters": plan.aggregation.rosters,
            "rosters_mean": _rosters(plan),
        },
        "utility": {"noise_to_signal_planned": privacy.noise_to_signal, "allow_noisy": privacy.allow_noisy},
        "method": {"name": plan.method.name, "options": dict(plan.method.options)},
        **_classes(plan),
        "model": {"base": plan.model.base, "revision": plan.model.revision, "licence": plan.model.licence},
        "cohort": {
            "units_public": dict(plan.patients),
            "units_origin": plan.cohort.units_origin,
            "sites_in_every_sum": list(took_part.everywhere),
            "fewest_sites_in_a_sum": took_part.fewest,
            "sites_missing": dict(took_part.missing),
            **({"sums_of_missing_sites": dict(took_part.partly)} if took_part.partly else {}),
        },
        "trust": trust_assumptions(plan),
        "evidence": {
            "plan_digest": plan.digest,
            "package_sha256": plan.package_sha256,
            "ledger_head": ledger_head,
        },
    }


def _claim(plan: Plan) -> str:
    """What epsilon is of."""
    claim = "the plan's epsilon at max_attempts; stopping early does not lower it"
    if plan.successor is not None:
        return f"{claim}; it covers this study and one that starts from it, whose noise is in this plan, together"
    if plan.joint:
        return f"{claim}; it covers this study and the one that it starts from together"
    return claim


def _lineage(plan: Plan) -> dict[str, Json]:
    """The study that this one starts from, and what both cost; or the one that may follow (PRIVACY 25)."""
    start, ancestor, successor = plan.start, plan.ancestor, plan.successor
    if start is not None and ancestor is not None:
        return {
            "start": {
                "study": ancestor.study,
                "method": ancestor.method.name,
                "plan_digest": ancestor.digest,
                "manifest_sha256": start.manifest,
                "coordinator": start.coordinator,
                "unit": ancestor.privacy.unit,
                "epsilon": ancestor.privacy.epsilon,
                "delta": ancestor.privacy.delta,
                "noise_placement": ancestor.privacy.noise,
                "images_drawn": start.images,
                "steps_trained": start.steps,
                "cost": "none of its own: what is computed from a release reveals no more than the release",
                "together": together(plan),
            }
        }
    if successor is not None:
        events: list[Json] = [event.as_dict() for event in successor.charges]
        return {"successor": {"study": successor.study, "events": events}}
    return {}


def _classes(plan: Plan) -> dict[str, Json]:
    """The public list of classes, where a study has one (PRIVACY 23)."""
    if not plan.data.classes:
        return {}
    return {"classes": {"column": plan.data.class_column, "list": list(plan.data.classes)}}


def _mechanism(plan: Plan, charges: int, sites: int) -> dict[str, Json]:
    """What was done to the sums, in numbers of the plan; where rounds differ, those of each stage (PRIVACY 25)."""
    privacy, stages = plan.privacy, plan.stages
    common: dict[str, Json] = {
        "name": _MECHANISMS[privacy.noise],
        "noise_placement": privacy.noise,
        "sampling": _SAMPLING if plan.method.shards is None else _SPLIT.format(shards=plan.method.shards),
        "rounds": privacy.rounds,
        "max_attempts": privacy.max_attempts,
        "attempts_charged": charges,
        "floating_point": _FLOATING_POINT if plan.method.shards is None else _FLOATING_POINT_OF_SHARDS,
    }
    if len(stages) == 1:
        return common | _of_stage(stages[0], sites)
    each: list[Json] = [
        _of_stage(stage, sites) | {"name": stage.name, "rounds": len(stage.rounds), "max_attempts": stage.max_attempts}
        for stage in stages
    ]
    return common | {"stages": each}


def _of_stage(stage: Stage, sites: int) -> dict[str, Json]:
    """Noise, bound and grid of its rounds."""
    return {
        "sigma": stage.sigma,
        "sensitivity_l2": stage.sensitivity.l2,
        "sensitivity_relation": stage.sensitivity.relation,
        "noise_multiplier": stage.sigma / stage.sensitivity.l2,
        "distributed": _distributed(stage, sites),
        "clip_norm": stage.clip_norm,
        "clip_norm_from": stage.mechanism.clip_origin,
        "grid_scale": stage.grid.scale,
        "site_clamp": stage.grid.site_clamp,
        "dimension": stage.dimension,
        "sampling_rate": stage.sampling_rate,
    }


def _distributed(stage: Stage, sites: int) -> Json:
    """A site's noise share and how many of them the claim counts; None with central noise.

    The noise that is there when more sites answer is a remark, never the claim (PRIVACY 8).
    """
    if not stage.noise_shares:
        return None
    return {
        "sigma_of_a_noise_share": stage.sigma_local,
        "noise_shares_counted": stage.noise_shares,
        "noise_margin": stage.grid.noise_margin,
        "remark": f"{sites} sites are in the smallest sum; if each left its noise share in, the variance of the noise "
        f"is {sites / stage.noise_shares:.2f} times what the claim counts",
    }


def _rosters(plan: Plan) -> str:
    """What the coordinator can learn from two sums that it opens over different sites."""
    if plan.aggregation.mode == "plain":
        return "nothing to add: the coordinator sees each site's sum"
    if plan.privacy.noise == "distributed":
        return "any sites may be in a sum: each carries noise, and so does every difference of two"
    if plan.free_rosters:
        return "any sites may be in a sum: a coordinator that lies can learn one site's sum as the difference of two"
    return (
        "the sites of all sums opened in this study form a chain: each sum is over the sites of the one before, or "
        f"over at least {plan.aggregation.colluders + 2} fewer of them; every combination of sums is over two honest "
        "sites or more"
    )
