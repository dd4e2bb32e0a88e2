"""privacy.json: what a release reveals about any one unit, point by point (NIST SP 800-226)."""

from undertone import __version__
from undertone.canonical import Json
from undertone.plan import Plan

SIMULATION = "simulation"
_UNITS = {
    "record": "one image",
    "patient": "one patient at one site, with all her images there; the same person at two sites is two units, "
    "and her guarantee is weaker",
    "site": "one site, with all its images; whether a site took part is public",
}


def privacy_statement(
    plan: Plan, *, setting: Json, ledger_head: str, charges: int, sites: list[str], missing: dict[str, str]
) -> dict[str, Json]:
    """The statement of a release; every figure comes from the plan or the ledger.

    Args:
        plan: the plan that ran.
        setting: "simulation", or the deployment's own name for itself.
        ledger_head: the hash of the ledger's last entry.
        charges: attempts charged.
        sites: whose sums were opened.
        missing: roster sites that were not, with the reason.
    """
    privacy = plan.privacy
    return {
        "undertone": __version__,
        "study": plan.study,
        "setting": setting,
        "guarantee": {
            "unit": privacy.unit,
            "unit_means": _UNITS[privacy.unit],
            "adjacency": privacy.adjacency,
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "accountant": "privacy loss distribution (dp-accounting)",
            "epsilon_rdp": privacy.epsilon_rdp,
            "claim": "the plan's epsilon at max_attempts; stopping early does not lower it",
        },
        "mechanism": {
            "name": "rounded Gaussian noise on a sum of clipped integer rows",
            "noise_placement": privacy.noise,
            "sigma": privacy.sigma,
            "sensitivity_l2": privacy.sensitivity,
            "noise_multiplier": privacy.sigma / privacy.sensitivity,
            "clip_norm": plan.grid.clip_units / plan.grid.scale,
            "clip_norm_from": privacy.clip_origin,
            "grid_scale": plan.grid.scale,
            "site_clamp": plan.grid.site_clamp,
            "dimension": plan.method.dimension,
            "sampling": "Poisson, independent secret coins at each site",
            "sampling_rate": privacy.sampling_rate,
            "rounds": privacy.rounds,
            "max_attempts": privacy.max_attempts,
            "attempts_charged": charges,
            "floating_point": "rows are computed in batches of fixed shape, and that a row does not depend on its "
            "neighbours is measured, not proved; from clipping on there are only integers, and noise is drawn exactly",
        },
        "aggregation": {
            "mode": plan.aggregation.mode,
            "threshold": plan.aggregation.threshold,
            "colluders": plan.aggregation.colluders,
            "sites_needed": plan.quorum,
            "wire_bits": plan.grid.modulus_bits,
        },
        "utility": {"noise_to_signal_planned": privacy.noise_to_signal, "allow_noisy": privacy.allow_noisy},
        "method": {"name": plan.method.name, "options": dict(plan.method.options)},
        "model": {"base": plan.model.base, "revision": plan.model.revision, "licence": plan.model.licence},
        "cohort": {
            "units_public": dict(plan.cohort.units),
            "units_origin": plan.cohort.units_origin,
            "sites_in_the_sum": list(sites),
            "sites_missing": dict(missing),
        },
        "trust": trust_assumptions(plan),
        "evidence": {
            "plan_digest": plan.digest,
            "package_sha256": plan.package_sha256,
            "ledger_head": ledger_head,
        },
    }


def trust_assumptions(plan: Plan) -> list[Json]:
    """What the guarantee rests on (PRIVACY 17, 18)."""
    simulated = [
        "The cohort's figures were counted from the images by simulate and are not covered by epsilon; in a real study "
        "each site publishes a round figure instead."
    ]
    return [
        *(simulated if plan.cohort.units_origin != "published" else []),
        *_who_sees_what(plan),
        "Each node is trusted to clip and to keep its coins secret.",
        f"Hyper-parameters ({', '.join(sorted(plan.method.options))}, clip norm, rounds) are taken as public: if they "
        "were tuned on the private images, that tuning cost budget which is not counted here.",
        "The same people's images in other studies or data sets add to what is revealed: this covers one plan.",
        "How long a node takes is not protected.",
    ]


def _who_sees_what(plan: Plan) -> list[Json]:
    """Who could look at a sum before noise, and at a single site's sum."""
    colluders, needed = plan.aggregation.colluders, plan.quorum
    central = (
        "Noise is added by the coordinator: it is trusted with the sum before noise, and epsilon holds against "
        "everyone but it and the unit's own site."
    )
    distributed = (
        f"Each site adds its share of the noise: epsilon holds against the coordinator too, with up to {colluders} "
        "sites that help it by taking off their own shares, and is claimed in Renyi DP."
    )
    secure = (
        f"Aggregation is secure: the coordinator sees sums of at least {needed} sites and no site's own, even if it "
        f"lies, unless more than {colluders} sites help it."
    )
    plain = "Aggregation is plain: the coordinator also sees each site's sum."
    return [
        central if plan.privacy.noise == "central" else distributed,
        secure if plan.aggregation.mode == "secagg" else plain,
    ]
