"""privacy.json: what a release reveals about any one unit, point by point (NIST SP 800-226)."""

from dataclasses import dataclass

from undertone import __version__
from undertone.core.canonical import Json
from undertone.study.claim import delta_warning
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
    many the smallest sum holds.
    """

    everywhere: list[str]
    missing: dict[str, str]
    fewest: int


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
        },
        "trust": trust_assumptions(plan),
        "evidence": {
            "plan_digest": plan.digest,
            "package_sha256": plan.package_sha256,
            "ledger_head": ledger_head,
        },
    }


def covered_beside(plan: Plan) -> str:
    """The name of the study that a plan's claim covers beside its own: a joint ancestor or a successor; "" for none."""
    if plan.successor is not None:
        return plan.successor.study
    return plan.ancestor.study if plan.ancestor is not None and plan.joint else ""


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


def together(plan: Plan) -> str:
    """What a study and its ancestor cost together: one claim, or two figures and no claim over both (PRIVACY 25).

    The plan must have a start.
    """
    if plan.joint:
        return (
            "One claim covers both studies: the plan of the first held the noise of this one before it charged "
            "anything, so the events of both are composed in one call."
        )
    return (
        "No figure is claimed over both studies: the plan of the first did not hold the noise of this one. Each has "
        "an epsilon of its own, and the two do not simply add up; both draw on the budget of each site's data set, "
        "whose filter bounds what all studies cost together."
    )


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


def trust_assumptions(plan: Plan) -> list[Json]:
    """What the guarantee rests on (PRIVACY 17, 18)."""
    simulated = [
        "The cohort's figures were counted from the images by simulate and are not covered by epsilon; in a real study "
        "each site publishes a round figure instead."
    ]
    warning = delta_warning(plan)
    return [
        *([] if warning is None else [warning]),
        *(simulated if plan.cohort.units_origin != "published" else []),
        _trust_in_noise(plan),
        *_trust_in_aggregation(plan),
        *_trust_in_classes(plan),
        "Each node is trusted to clip and to keep its coins secret."
        if plan.method.shards is None
        else "Each node is trusted to split its units into shards by their ids alone, and to clip.",
        f"Hyper-parameters ({', '.join(sorted(plan.method.options))}, clip norm, rounds) are taken as public: if they "
        "were tuned on the private images, that tuning cost budget which is not counted here.",
        *_trust_in_start(plan),
        "The same people's images in other studies or data sets add to what is revealed: this covers "
        f"{'these two plans' if covered_beside(plan) else 'one plan'}.",
        _trust_in_timing(plan),
    ]


def _trust_in_start(plan: Plan) -> list[str]:
    """The study that this one starts from, with both figures; or the one that the claim covers too (PRIVACY 25)."""
    ancestor, successor = plan.ancestor, plan.successor
    if successor is not None:
        return [
            f"Epsilon covers this study and {successor.study}, which may start from its release, together, at the "
            "noise that stands in this plan. It is no less where that study never runs; any other study is not covered."
        ]
    if ancestor is None:
        return []
    privacy = ancestor.privacy
    its = f"which claims epsilon {privacy.epsilon:.4g} at delta {privacy.delta:g} for one {privacy.unit}"
    own = "" if plan.joint else f" This study claims epsilon {plan.privacy.epsilon:.4g} by itself."
    return [f"The study starts from the release of {ancestor.study}, {its}.{own} {together(plan)}{_against(ancestor)}"]


def _against(ancestor: Plan) -> str:
    """Whom the ancestor's figure holds against."""
    if ancestor.privacy.noise == "central":
        return f" The noise of {ancestor.study} was added by its coordinator, which is trusted with its sums."
    return (
        f" In {ancestor.study} epsilon holds even if {ancestor.aggregation.colluders} of the sites leave their noise "
        "shares out."
    )


def _trust_in_classes(plan: Plan) -> list[str]:
    """What a list of classes says by itself, which no noise covers."""
    if not plan.data.classes:
        return []
    return [
        "The list of classes is public and was typed by a person: if it was taken from the images, that is not covered "
        "by epsilon. Records of any other class have no part."
    ]


def _trust_in_timing(plan: Plan) -> str:
    """Who could learn how many units were sampled by looking at a clock (PRIVACY 17, 26)."""
    seconds = plan.privacy.ready_seconds_per_unit
    if plan.method.shards is not None:
        return (
            "How long a node takes is not protected: in every round it grows with the number of shards that hold a "
            "unit and with the number of records in them."
        )
    if not seconds:
        return "How long a node takes is not protected: it grows with the number of units that were sampled."
    return (
        "How long a node computes tells the coordinator nothing but whether it was done by its public time; how long "
        "it sums and masks finished rows is not hidden. Each site says that it is ready at that time, "
        f"{seconds:g} seconds after it began for each unit of its public figure, however many were sampled."
    )


def _trust_in_noise(plan: Plan) -> str:
    if plan.privacy.noise == "central":
        return (
            "Noise is added by the coordinator: it is trusted with the sum before noise, and epsilon holds against "
            "everyone but it and the unit's own site."
        )
    return (
        "Each site adds a noise share before its vector leaves: nobody, the coordinator included, sees a sum without "
        f"noise. Epsilon counts {plan.noise_shares} noise shares, so it holds against everyone but the unit's own site "
        f"even if {plan.aggregation.colluders} of the sites leave theirs out or take it off, and no more. It is "
        "claimed in Renyi DP at integer orders alone."
    )


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


def _trust_in_aggregation(plan: Plan) -> list[str]:
    aggregation = plan.aggregation
    if aggregation.mode == "plain":
        return ["Aggregation is plain: the coordinator also sees each site's sum."]
    liar = f"if it lies and up to {aggregation.colluders} sites help it"
    sums = f"Aggregation is secure: the coordinator sees sums over at least {plan.quorum} sites"
    spoil = (
        "Nothing proves that a site's vector is what its images give: one bad site can spoil a round, not read others."
    )
    if plan.privacy.noise == "distributed":
        return [f"{sums}, each with noise in it, and no site's own, even {liar}. {spoil}"]
    if plan.free_rosters:
        return [
            f"{sums}, and none over one site alone. Which sites are in a sum is free in this study: {liar}, it can "
            f"open two sums that differ by one site, whose own sum, without noise, is their difference. {spoil}"
        ]
    return [
        f"{sums}, and no site's own, nor a difference of sums that is one site's, even {liar}: in this study the sites "
        f"of all sums form a chain. {spoil}",
        "The chain covers this study alone: another study with other sites over the same images can be subtracted from "
        "it. Nor does it cover what a coordinator that lies extracts from one sum before noise, by its choice of the "
        'state that it sends. Distributed noise (privacy.noise = "distributed") covers both.',
    ]
