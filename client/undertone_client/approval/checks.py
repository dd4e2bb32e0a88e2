"""What a site checks about a plan before it is approved, and again with every request: nothing sent can relax it."""

from undertone.core.captions import caption_fields
from undertone.core.code_digest import check_package
from undertone.core.text import shown
from undertone.errors import NotApproved, PlanChanged, StudyError
from undertone.methods.registry import method_for
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone.study.planned import check_shards
from undertone_client.site.datasets import DataSet, data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.violations import check_policy


def check_plan(site: SiteDir, plan: Plan) -> None:
    """Everything about a plan that a site checks, before it is approved and with every request.

    Raises:
        NotApproved: the site is not on the roster, or its policy does not allow the plan.
        PlanChanged: made for another version or other code, its caption is none, or it counts other shards.
        UnderstatedClaim: it claims less than it costs.
    """
    if plan.rehearsal != site.config.rehearsal:
        raise NotApproved(
            f"plan {plan.digest[:8]} is a rehearsal: it runs on drawn images, needs no approval and gets none"
            if plan.rehearsal
            else f"this SITE_DIR holds drawn images for rehearsals alone, and plan {plan.digest[:8]} is none"
        )
    check_asked(site, plan)


def check_asked(site: SiteDir, plan: Plan) -> None:
    """As `check_plan`, for a study and its rehearsal alike."""
    plan.check_version()
    check_package(plan.package_sha256)
    if site.config.site not in plan.cohort.units:
        raise NotApproved(f"{site.config.site} is not on the roster of plan {plan.digest[:8]}")
    check_policy(plan, site.policy, site.config.site)
    try:
        caption_fields(plan.data.caption)
    except ValueError as error:
        raise PlanChanged(f"plan {plan.digest[:8]} cannot be run: {error}") from None
    try:
        method = method_for(plan.method.name, plan.method.options)
    except StudyError as error:
        raise PlanChanged(f"plan {plan.digest[:8]} cannot be run: {error}") from None
    check_shards(method, plan)
    check_claim(plan)


def check_data_set(site: SiteDir, plan: Plan, data_set: str) -> DataSet:
    """The data set, if it is this plan's kind.

    Raises:
        NotApproved: there is none of that name, its unit is another, or the plan's figure is not the one it publishes.
        FolderError: a data set's file is damaged.
    """
    data = data_sets(site.folder).get(data_set)
    if data is None:
        raise NotApproved(f"{site.config.site} has no data set {data_set}; `undertone node data list` shows them")
    wanted = (plan.privacy.unit, plan.data.unit_column)
    if wanted != (data.unit, data.unit_column):
        raise NotApproved(
            f"plan {plan.digest[:8]} protects {_unit(*wanted)}, the data set {data_set} "
            f"{_unit(data.unit, data.unit_column)}, which is fixed for life: the study must be planned anew"
        )
    figure = plan.patients[site.config.site]
    if figure != data.publish:
        raise NotApproved(
            f"plan {plan.digest[:8]} counts {figure} units at {site.config.site}, which publishes {data.publish} for "
            "this data set: the study must be planned anew"
        )
    return data


def _unit(unit: str, column: str | None) -> str:
    return f"each {unit}" if column is None else f"each {unit} that the column {shown(column)} names"
