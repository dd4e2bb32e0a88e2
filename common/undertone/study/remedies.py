"""What would work where a plan's noise drowns its signal: named from the plan's own numbers, before any charge."""

from math import sqrt

from undertone.methods.registry import METHODS
from undertone.models.pinned import PinnedBase
from undertone.privacy.accounting import calibrate
from undertone.study.plan import Plan

# Noise over signal: above it public subjects did not move, or moved apart (docs/benchmarks.md).
MOST_NOISE = 1.0
_FEWEST_DIRECTIONS, _DIRECTIONS = 8, 64


def what_works(plan: Plan, base: PinnedBase) -> str:
    """One sentence: directions for this method, or another method, whose noise stays below its signal here."""
    directions = _directions(plan)
    if directions:
        return directions
    words = _words(plan, base)
    if words:
        name, ratio = min(words.items(), key=lambda word: word[1])
        return f'For so many units method.name = "{name}" has noise {ratio:.2g} times its signal'
    return "No method has less noise than signal for so many units at this epsilon"


def _directions(plan: Plan) -> str:
    """How many public directions have little enough noise; "" where too few would, or the method has none."""
    d, ratio = plan.method.dimension, plan.privacy.noise_to_signal
    now = plan.method.options.get("directions")
    most = min(_DIRECTIONS, int(d * (MOST_NOISE / ratio) ** 2))
    if not isinstance(now, int) or most < _FEWEST_DIRECTIONS:
        return ""
    return (
        f"In public directions noise enters fewer values: method.directions = {most} has noise "
        f"{ratio * sqrt(most / d):.2g} times the signal"
    )


def _words(plan: Plan, base: PinnedBase) -> dict[str, float]:
    """Noise over signal of the methods that learn one word, where it is below 1, at the plan's epsilon and units."""
    privacy, width = plan.privacy, base.embedding_width
    z = calibrate(privacy.epsilon_target, privacy.delta, 1.0, 1, by_rdp=privacy.noise == "distributed")
    total = sum(plan.cohort.units.values())
    found = {
        name: z * sqrt(width) / (total * METHODS[name].alignment)
        for name in ("dpagg-ti", "dpsgd-ti")
        if name in METHODS and name != plan.method.name
    }
    return {name: ratio for name, ratio in found.items() if ratio <= MOST_NOISE}
