"""What of a plan a site's policy does not allow: all of it at once, so that one look is enough.

Checked before an approval and again with every request: a policy that was tightened stops a study that is running.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from undertone.core.text import shown
from undertone.errors import NotApproved
from undertone.models.pinned import files_digest
from undertone.study.plan import Plan
from undertone_client.site.policy import Policy

_NOTHING = "nothing"


@dataclass(frozen=True)
class Violation:
    """One thing that a plan asks for and the policy does not allow.

    Attributes:
        key: of policy.toml.
        plan: what the plan says.
        policy: what the policy says.
        remedy: what would do.
    """

    key: str
    plan: str
    policy: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: the plan says {self.plan}, the policy {self.policy}; {self.remedy}"


def violations(plan: Plan, policy: Policy) -> list[Violation]:
    """Everything in a plan that the policy does not allow, in the order of the policy's keys."""
    kinds = (_of_kind, _of_exposure, _of_size, _of_lists, _of_figures)
    return [one for kind in kinds for one in kind(plan, policy)]


def check_policy(plan: Plan, policy: Policy, site: str) -> None:
    """Refuse a plan that the policy does not allow.

    Raises:
        NotApproved: names every violation.
    """
    found = violations(plan, policy)
    if found:
        raise NotApproved(f"{site} does not allow plan {plan.digest[:8]}: {'. '.join(map(str, found))}")


def _of_kind(plan: Plan, policy: Policy) -> Iterator[Violation]:
    """The lists: methods, models, noise."""
    method, model, noise = shown(plan.method.name), files_digest(plan.model.files), plan.privacy.noise
    if plan.method.name not in policy.methods:
        yield Violation("methods", method, _listed(policy.methods), f'a list with "{method}" would do')
    if model not in policy.models:
        yield Violation(
            "models",
            f"{shown(plan.model.base, 80)}, which is {model}",
            _listed([digest[:8] for digest in policy.models]),
            "a list with that digest would do, once `undertone model pin` prints it for a model you trust",
        )
    if noise not in policy.noise:
        yield Violation("noise", noise, _listed(policy.noise), f'a list with "{noise}" would do')


def _of_exposure(plan: Plan, policy: Policy) -> Iterator[Violation]:
    """How often, and how many of the units, a coordinator may see in sums before noise."""
    privacy = plan.privacy
    if privacy.noise != "central":
        return
    rate, sums = policy.largest_sampling_rate, policy.largest_rounds
    instead = "or a plan with distributed noise"
    largest = max(stage.sampling_rate for stage in plan.stages)
    if rate is None or largest > rate:
        yield Violation(
            "largest_sampling_rate",
            f"{largest:g}",
            _said(rate),
            f"a rate of {largest:g} or more would do, {instead}",
        )
    if sums is None or privacy.max_attempts > sums:
        yield Violation(
            "largest_rounds",
            f"{privacy.rounds} rounds in up to {privacy.max_attempts} attempts",
            _said(sums),
            f"{privacy.max_attempts} or more would do, {instead}",
        )


def _of_size(plan: Plan, policy: Policy) -> Iterator[Violation]:
    """Among how many sites and patients a site's own are hidden."""
    if policy.fewest_sites is None or plan.quorum < policy.fewest_sites:
        yield _too_few("fewest_sites", plan.quorum, policy.fewest_sites, "the sites of the smallest sum")
    units, unit = sum(plan.patients.values()), plan.privacy.unit
    patients = units if unit == "patient" else 0
    if policy.fewest_patients is None or patients < policy.fewest_patients:
        counted = (
            "the sum of the figures that it counts for its sites" if unit == "patient" else f"its unit is a {unit}"
        )
        yield _too_few("fewest_patients", patients, policy.fewest_patients, counted)
    if plan.aggregation.mode == "secagg" and (
        policy.fewest_honest_shares is None or plan.noise_shares < policy.fewest_honest_shares
    ):
        yield _too_few("fewest_honest_shares", plan.noise_shares, policy.fewest_honest_shares, "t - c")


def _of_lists(plan: Plan, policy: Policy) -> Iterator[Violation]:
    """What needs the site's consent in so many words."""
    if plan.free_rosters and not policy.allow_free_rosters:
        yield Violation(
            "allow_free_rosters",
            'aggregation.rosters = "free"',
            "false",
            'a plan with rosters = "chain" or distributed noise would do; else a coordinator that lies can learn one '
            "site's sum",
        )
    if plan.aggregation.mode == "plain" and not policy.allow_plain:
        yield Violation(
            "allow_plain",
            'aggregation.mode = "plain"',
            "false",
            'a plan with mode = "secagg" would do; in plain aggregation the coordinator sees each site\'s sum',
        )


def _of_figures(plan: Plan, policy: Policy) -> Iterator[Violation]:
    """Where the figures come from by which the size of a study, and of one that it starts from, is reckoned."""
    if policy.allow_filled_in_figures:
        return
    ancestor = plan.ancestor
    for one, of in ((plan, "its figures"), (ancestor, f"the figures of {ancestor.study}" if ancestor else "")):
        if one is not None and one.cohort.units_origin != "published":
            yield Violation(
                "allow_filled_in_figures",
                f"that {of} are {one.cohort.units_origin}",
                "false",
                "a plan with the figures that the sites publish would do",
            )


def _too_few(key: str, found: int, least: int | None, counted: str) -> Violation:
    would_do = f"at most {found} would do, or a plan with more"
    return Violation(key, f"{found} ({counted})", _said(least), would_do)


def _listed(values: Sequence[str]) -> str:
    return shown(", ".join(values)) if values else _NOTHING


def _said(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:g}" if isinstance(value, float) else str(value)
