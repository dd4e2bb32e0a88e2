"""Name -> method. A new method is one file and one line here."""

import difflib

from undertone.config import parse_options
from undertone.errors import PlanChanged, StudyError
from undertone.methods.dp_ldm import DPLDM
from undertone.methods.dp_lora import DPLoRA
from undertone.methods.dpagg_ti import DPAggTI
from undertone.methods.dpsgd_ti import DPSGDTI
from undertone.methods.protocol import Method
from undertone.models.pinned import PinnedBase
from undertone.plan import Plan
from undertone.study import MethodTable

METHODS: dict[str, type[Method]] = {
    DPAggTI.name: DPAggTI,
    DPSGDTI.name: DPSGDTI,
    DPLoRA.name: DPLoRA,
    DPLDM.name: DPLDM,
}


def method_for(table: MethodTable) -> Method:
    """The study's method with its validated options.

    Raises:
        StudyError: no such method, or a key it does not know.
    """
    method = METHODS.get(table.name)
    if method is None:
        near = difflib.get_close_matches(table.name, METHODS, n=1, cutoff=0.0)[0]
        raise StudyError(f'method.name = "{table.name}" is not known; did you mean "{near}"?')
    return method(parse_options(method.options_type, table.options))


def lighter(method: Method) -> list[tuple[str, Method]]:
    """The same method with fewer draws and records of a unit at a time, and the keys that say so, the nearest first."""
    found, options = [], method.options
    sizes = {key: getattr(options, key) for key in ("draws", "records") if hasattr(options, key)}
    while any(size > 1 for size in sizes.values()):
        largest = max(sizes, key=lambda key: sizes[key])
        sizes[largest] //= 2
        advice = " and ".join(f"method.{key} = {size}" for key, size in sizes.items())
        found.append((advice, type(method)(options.model_copy(update=sizes))))
    return found


def planned_method(plan: Plan, base: PinnedBase) -> Method:
    """The plan's method, once it adapts here exactly what the plan says it adapts.

    Raises:
        PlanChanged: the layout on this base is another.
    """
    method = method_for(MethodTable.model_validate({"name": plan.method.name, **plan.method.options}))
    layout = method.layout(base)
    if (layout.digest, layout.size) != (plan.method.layout_digest, plan.method.dimension):
        raise PlanChanged(f"{plan.method.name} adapts {layout.size} values here, the plan says {plan.method.dimension}")
    return method
