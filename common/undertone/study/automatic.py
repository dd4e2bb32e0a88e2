"""What "auto" is in a study, settled into plain numbers before there is a plan. Everything it reads is public.

`filled` needs the method's name alone; `rated` needs C, and looks at public drawings where the base's files do not say
how long a step may be. A number that the study names stays. Nodes and coordinator see numbers: no plan holds the word.
"""

from typing import Any

from undertone.errors import StudyError
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.protocol import Method, Said, SteppingMethod
from undertone.methods.registry import method_for, method_type
from undertone.models.pinned import PinnedBase
from undertone.study.public_rows import UNASKED, public_distance, work
from undertone.study.schema import AUTO, FilledStudy, Study

RATE, DIRECTIONS = "learning_rate", "directions"
_WHY = {
    "rounds": "as many steps as it takes that none of them overshoots",
    "sampling_rate": "every unit in every round has less noise in all than fewer units in each",
    "min_time": "from where words and coarse shape are decided; later alone, one colour answers for all",
    "directions": "noise enters so many values, in which gradients of many subjects lie",
    "draws": "more draws cost compute alone",
    "optimiser": "its step is as long as the mean row, so that noise does not decide how far it goes",
    "momentum": "a long step that overshoots is not repeated",
}


def filled(study: Study) -> tuple[FilledStudy, Said]:
    """The study with every "auto" that needs no base, and what was chosen and why.

    `learning_rate` is left out where it is to be found, and "auto" stays for C, which needs rows.

    Raises:
        StudyError: no such method, or more rounds than attempts.
    """
    automatic = method_type(study.method.name).automatic
    privacy = study.privacy
    known = {RATE, *automatic.options, *automatic.optimiser}
    written = {key: value for key, value in study.method.options.items() if value != AUTO or key not in known}
    options = dict(automatic.options)
    if "optimiser" not in written:
        options |= automatic.optimiser
    chosen: dict[str, Any] = {key: value for key, value in options.items() if key not in written}
    numbers = {"rounds": automatic.rounds, "sampling_rate": 1.0}
    ours = {key: value for key, value in numbers.items() if getattr(privacy, key) == AUTO}
    if privacy.max_attempts is not None and privacy.max_attempts < ours.get("rounds", 1):
        raise StudyError(
            f"privacy.max_attempts = {privacy.max_attempts} is below privacy.rounds, which is {ours['rounds']} where "
            "it is left out; give rounds, or more attempts"
        )
    tables = study.model_dump() | {
        "privacy": privacy.model_dump() | ours,
        "method": {"name": study.method.name} | chosen | written,
    }
    said = [(f"auto: {key}", f"{value}: {_WHY[key]}") for key, value in (ours | chosen).items() if key in _WHY]
    return FilledStudy.model_validate(tables), said


def affordable(written: Study, method: Method, base: PinnedBase) -> tuple[Method, Said]:
    """The method without directions that "auto" chose, where making them is not a matter of a minute or two."""
    if not isinstance(method, GradientMethod) or not method.options.directions:
        return method, ()
    if written.method.options.get(DIRECTIONS, AUTO) != AUTO:
        return method, ()
    fitting = method.with_affordable_directions(base)
    if fitting.options.directions and work(base, method, fitting.options.direction_drawings) <= UNASKED:
        return fitting, ()
    without = method_for(method.name, method.options.model_dump() | {DIRECTIONS: 0})
    reason = "a base of this size makes them only where a study asks: method.directions = 64"
    return without, [(f"auto: {DIRECTIONS}", f"0: {reason}")]


def rated(study: FilledStudy, method: Method, base: PinnedBase, clip_norm: float) -> tuple[Method, Said]:
    """The method with its `learning_rate`, where the study leaves it to "auto"; and why it is that.

    Raises:
        StudyError: public drawings do not say how long a step may be.
    """
    if study.method.options.get(RATE, AUTO) != AUTO or not isinstance(method, SteppingMethod):
        return method, ()
    scale = method.step_scale(base)
    if scale is None:
        scale = public_distance(base, method, study.data.caption)
    rate, why = method.automatic_rate(scale, clip_norm, study.privacy.rounds, method.dimension(base))
    return method_for(method.name, method.options.model_dump() | {RATE: rate}), [(f"auto: {RATE}", f"{rate:g}: {why}")]
