"""Checks of each plan at hand: the code that it names, its base model, and the memory that one unit takes."""

from collections.abc import Iterator, Mapping

from undertone.core.code_digest import check_package
from undertone.errors import ModelError, NotApproved, PlanChanged
from undertone.methods.classed import scaled, with_classes
from undertone.methods.protocol import Method, settled
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase, check_pins
from undertone.preflight.verdict import Verdict, failed, passed, warned
from undertone.study.planned import planned_method
from undertone_client.approval.approvals import check_honoured
from undertone_client.checks.inspection import Inspection, of_plans
from undertone_client.site.violations import violations

_MODEL_FAULTS: Mapping[type[Exception], tuple[str, str]] = {
    ModelError: ("the base model of plan {} is not here, or not whole", "fetch it with `undertone model pin`"),
    PlanChanged: ("the base model of plan {} is another one here", "restore the version that the plan names"),
}


def code(inspection: Inspection) -> Verdict:
    """The installed code is what each plan names."""
    faults = []
    for plan in inspection.plans:
        try:
            plan.check_version()
            check_package(plan.package_sha256)
        except PlanChanged as error:
            sentence = f"plan {plan.digest[:8]} names other code than is installed here"
            remedy = "install the version that the plan names, or ask for a new plan"
            faults.append(failed("code", sentence, remedy, [str(error)]))
    return of_plans(inspection, "code", faults, "the installed code is what the plans at hand name")


def base_models(inspection: Inspection) -> Verdict:
    """Each plan's base model is here, byte for byte."""
    faults = []
    for plan in inspection.plans:
        try:
            check_pins(inspection.pinned(plan.model.base, plan.model.revision), plan.model.files)
        except (ModelError, PlanChanged) as error:
            sentence, remedy = _MODEL_FAULTS[type(error)]
            faults.append(failed("base models", sentence.format(plan.digest[:8]), remedy, [str(error)]))
    return of_plans(inspection, "base models", faults, "each base model is here, byte for byte as pinned")


def policy(inspection: Inspection) -> Verdict:
    """The policy allows all of each plan, and honours each approval."""
    faults, allowed = [], inspection.site.policy
    for plan in inspection.plans:
        found = violations(plan, allowed)
        if found:
            keys = ", ".join(one.key for one in found)
            sentence = f"policy.toml does not allow plan {plan.digest[:8]}: {keys}"
            faults.append(failed("policy", sentence, f"refuse the plan, or change {keys}", list(map(str, found))))
    for approval in inspection.approved:
        try:
            check_honoured(inspection.site, approval, inspection.now)
        except NotApproved as error:
            sentence = f"the approval of plan {approval.document.digest[:8]} does not hold under policy.toml of today"
            faults.append(failed("policy", sentence, "approve the plan again, or withdraw it", [str(error)]))
    return of_plans(inspection, "policy", faults, "policy.toml allows all of the plans at hand")


def device_memory(inspection: Inspection) -> Verdict:
    """One step of one unit on random data, on each device of the site: slow, because the base model is loaded."""
    from undertone_client.compute.preparing import dry_run  # torch: only where this check is asked for

    tried = False
    for name, method, pinned in _work(inspection):
        tried = True
        try:
            dry_run(inspection.site, pinned, method)
        except ModelError as error:
            sentence = f"one unit of {name} cannot be computed on the devices of this site"
            return failed("device memory", sentence, "--details says what would fit", [str(error)])
    if not tried:
        return warned("device memory", "there is no plan and no study to try", "give --study or --plan")
    return passed("device memory", "one unit fits on each device of this site, tried on random data")


def _work(inspection: Inspection) -> Iterator[tuple[str, Method, PinnedBase]]:
    """The method and base of each plan at hand and of the study."""
    for plan in inspection.plans:
        pinned = inspection.pinned(plan.model.base, plan.model.revision)
        yield f"plan {plan.digest[:8]}", planned_method(plan, pinned), pinned
    study = inspection.study
    if study is not None:
        pinned = inspection.pinned(study.model.base, study.model.revision)
        method = with_classes(method_for(study.method.name, study.method.options), study.data.classes)
        method, _ = settled(method, pinned, study.data.caption)
        method, _ = scaled(method, pinned, lambda _method: 1.0)  # how long rows are costs no memory
        yield f"study {study.study.name}", method, pinned
