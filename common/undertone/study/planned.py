"""The method of a plan, once it adapts here exactly what the plan says it adapts."""

from undertone.errors import PlanChanged
from undertone.methods.protocol import Method, check_needs
from undertone.methods.registry import method_for
from undertone.models.pinned import PinnedBase
from undertone.study.plan import Plan


def planned_method(plan: Plan, base: PinnedBase) -> Method:
    """The plan's method with the plan's options.

    Raises:
        ModelError: the base lacks a part that the method needs.
        PlanChanged: the layout on this base is another.
    """
    method = method_for(plan.method.name, plan.method.options)
    check_needs(method, base)
    found = (method.layout(base).digest, method.dimension(base))
    if found != (plan.method.layout_digest, plan.method.dimension):
        raise PlanChanged(
            f"{plan.method.name} adapts {found[1]} values here, layout {found[0][:8]}; the plan says "
            f"{plan.method.dimension}, layout {plan.method.layout_digest[:8]}"
        )
    return method
