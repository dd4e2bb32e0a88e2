"""What would work where a plan's noise drowns its signal: named from the plan's own numbers, before any charge."""

from math import sqrt

from undertone.errors import ModelError, StudyError
from undertone.methods.protocol import Method, ShardedMethod, check_needs
from undertone.methods.registry import METHODS, method_for
from undertone.models.pinned import PinnedBase
from undertone.privacy.accounting import calibrate
from undertone.study.plan import Plan

# Noise over signal: above it public subjects did not move, or moved apart (docs/benchmarks.md).
MOST_NOISE = 1.0


def what_works(plan: Plan, base: PinnedBase) -> str:
    """One sentence: this method by "auto", or another one, whose noise stays below its signal for so many units."""
    ratios = ratios_by_auto(plan, base)
    if ratios.get(plan.method.name, MOST_NOISE + 1) <= MOST_NOISE:
        chosen = sorted(METHODS[plan.method.name].automatic.options)
        return (
            f"By auto alone {plan.method.name} has noise {ratios[plan.method.name]:.2g} times its signal: "
            f"leave out {' and '.join(chosen) or 'the other keys of [method]'}"
        )
    name, ratio = min(ratios.items(), key=lambda one: one[1], default=("", MOST_NOISE + 1))
    if ratio <= MOST_NOISE:
        return f'method.name = "{name}" has noise {ratio:.2g} times its signal for so many units'
    return "No method has less noise than signal for so many units at this epsilon"


def ratios_by_auto(plan: Plan, base: PinnedBase) -> dict[str, float]:
    """Noise over signal of every method that this base has the parts for, by auto, at the plan's epsilon and units.

    At p = 1 the noise of T rounds over their signals is that of one round with the noise of one: T falls out.
    """
    privacy = plan.privacy
    z = calibrate(privacy.epsilon_target, privacy.delta, 1.0, 1, by_rdp=privacy.noise == "distributed")
    found = {}
    for name, kind in METHODS.items():
        method = method_for(name, {key: choice.value for key, choice in kind.automatic.options.items()})
        try:
            check_needs(method, base)
            found[name] = z * _noise_of_one(plan, method, base) / method.alignment
        except (ModelError, StudyError):
            continue  # not a method for this base
    return found


def _noise_of_one(plan: Plan, method: Method, base: PinnedBase) -> float:
    """The length of a mean row's noise over C at z = 1: Delta sqrt(row) / (C N), N units or shards (PRIVACY 15)."""
    if isinstance(method, ShardedMethod):
        return 2 * sqrt(method.row(base)) / (method.shards * len(plan.patients))
    return sqrt(method.dimension(base)) / sum(plan.patients.values())
