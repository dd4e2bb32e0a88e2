"""What a guarantee rests on, in sentences: of a plan, and of the study that it starts from (PRIVACY 17, 18, 25)."""

from collections.abc import Sequence

from undertone.methods.classes import CountsUnits
from undertone.methods.registry import method_for
from undertone.study.claim import delta_warning
from undertone.study.plan import Plan

UNITS = {"record": ("image", "images"), "patient": ("patient", "patients"), "site": ("site", "sites")}
"""A unit in a word, and several."""


def trust_assumptions(plan: Plan) -> list[str]:
    """What the guarantee rests on; of the study that it starts from what is otherwise there than here, by its name."""
    own, timing = _own(plan), _trust_in_timing(plan)
    return [
        *own,
        f"Hyper-parameters ({', '.join(sorted(plan.method.options))}, clip norm, rounds) are taken as public: if they "
        "were tuned on the private images, that tuning cost budget which is not counted here.",
        *_trust_in_start(plan, [*own, timing]),
        "The same people's images in other studies or data sets add to what is revealed: this covers "
        f"{'these two plans' if covered_beside(plan) else 'one plan'}.",
        timing,
    ]


def _own(plan: Plan) -> list[str]:
    """What one study rests on by itself, but for timing."""
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
        *_trust_with_counts(plan),
        *_trust_in_classes(plan),
        "Each node is trusted to clip and to keep its coins secret."
        if plan.method.shards is None
        else "Each node is trusted to split its units into shards by their ids alone, and to clip.",
    ]


def covered_beside(plan: Plan) -> str:
    """The name of the study that a plan's claim covers beside its own: a joint ancestor or a successor; "" for none."""
    if plan.successor is not None:
        return plan.successor.study
    return plan.ancestor.study if plan.ancestor is not None and plan.joint else ""


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


def _trust_in_start(plan: Plan, own: Sequence[str]) -> list[str]:
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
    alone = "" if plan.joint else f" This study claims epsilon {plan.privacy.epsilon:.4g} by itself."
    first = f"The study starts from the release of {ancestor.study}, {its}.{alone} {together(plan)}{_against(ancestor)}"
    # A caveat of the first study is one of whatever was made from its release.
    its_own = [*_own(ancestor), _trust_in_timing(ancestor)]
    return [first, *(f"Of {ancestor.study}: {line}" for line in its_own if line not in own)]


def _against(ancestor: Plan) -> str:
    """Whom the ancestor's figure holds against."""
    if ancestor.privacy.noise == "central":
        return f" The noise of {ancestor.study} was added by its coordinator, which is trusted with its sums."
    return (
        f" In {ancestor.study} epsilon holds even if {ancestor.aggregation.colluders} of the sites leave their noise "
        "shares out."
    )


def _trust_with_counts(plan: Plan) -> list[str]:
    """Who could learn how many units fall where: of some methods a row says so, and a sum of rows counts them."""
    counted = counted_by(plan)
    if not counted:
        return []
    many = UNITS[plan.privacy.unit][1]
    sampled = "" if all(stage.sampling_rate == 1 for stage in plan.stages) else "sampled "
    if plan.privacy.noise == "distributed":
        who = "every sum carries noise before it leaves a site, so nobody learns that without noise"
    elif plan.aggregation.mode == "plain":
        who = "the coordinator learns that of each site"
    else:
        who = "the coordinator, which is trusted with sums, learns that of all sites in a sum together"
    return [
        f"A sum before noise tells how many {sampled}{many} fall to each {counted}, nearly to one, and so how many "
        f"there are: {who}. What is released holds it under the noise that epsilon counts."
    ]


def counted_by(plan: Plan) -> str:
    """By what a sum of the plan's rows counts units, such as "class"; "" where it counts none."""
    method = method_for(plan.method.name, plan.method.options)
    return method.counted_by if isinstance(method, CountsUnits) else ""


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
