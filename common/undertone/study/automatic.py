"""What "auto" is in a study, settled into plain numbers before there is a plan. Everything it reads is public.

`filled` needs the method's name alone; `fitted` the base's files; `rated` needs C, and looks at public drawings where
the base's files do not say how long a step may be. A number that the study names stays. Nodes and coordinator see
numbers: no plan holds the word.
"""

from typing import Any

from undertone.errors import StudyError
from undertone.methods.choosing import AffordableMethod, SteppingMethod
from undertone.methods.protocol import Method, Said
from undertone.methods.registry import method_for, method_type
from undertone.models.pinned import PinnedBase
from undertone.study.public_rows import UNASKED, public_distance, work
from undertone.study.schema import AUTO, FilledStudy, Study

_WHY_ROUNDS = "as many steps as it takes that none goes far"
_WHY_RATE = "every unit in every round: less noise in all rounds together than by sampling"


def filled(study: Study) -> tuple[FilledStudy, Said]:
    """The study with every "auto" that needs no base, and what was chosen and why.

    The key that is measured is left out where it is to be found, and "auto" stays for C, which needs rows.

    Raises:
        StudyError: no such method, or more rounds than attempts.
    """
    automatic, privacy, options = method_type(study.method.name).automatic, study.privacy, study.method.options
    chosen = {key: choice for key, choice in automatic.options.items() if key in chosen_keys(study)}
    numbers: dict[str, Any] = {"rounds": automatic.rounds, "sampling_rate": 1.0}
    ours = {key: value for key, value in numbers.items() if getattr(privacy, key) == AUTO}
    if privacy.max_attempts is not None and privacy.max_attempts < ours.get("rounds", 1):
        raise StudyError(
            f"privacy.max_attempts = {privacy.max_attempts} is below privacy.rounds, which is {ours['rounds']} where "
            "it is left out; give rounds, or more attempts"
        )
    ours_by_name = {key: value for key, value in options.items() if value == AUTO and key in automatic.options}
    written = {key: value for key, value in options.items() if key not in {*ours_by_name, *_measured(study)}}
    method = {key: choice.value for key, choice in chosen.items()} | written
    tables = study.model_dump() | {
        "privacy": privacy.model_dump() | ours,
        "method": {"name": study.method.name} | method,
    }
    said = [(f"auto: {key}", f"{choice.value}: {choice.why}") for key, choice in chosen.items()]
    if automatic.rounds > 1:
        whys = {"rounds": _WHY_ROUNDS, "sampling_rate": _WHY_RATE}
        said = [(f"auto: {key}", f"{value:g}: {whys[key]}") for key, value in ours.items()] + said
    return FilledStudy.model_validate(tables), said


def chosen_keys(study: Study) -> set[str]:
    """The keys of [method] that "auto" chooses: the study leaves them out, or says the word."""
    options = study.method.options
    return {
        key
        for key, choice in method_type(study.method.name).automatic.options.items()
        if options.get(key, AUTO) == AUTO and options.get(choice.unless, AUTO) == AUTO
    }


def fitted(study: Study, method: Method, base: PinnedBase) -> tuple[Method, Said]:
    """The method without what "auto" chose and what takes long to make on this base."""
    if not isinstance(method, AffordableMethod):
        return method, ()
    return method.affordable(base, chosen_keys(study), lambda one, count: work(base, one, count) <= UNASKED)


def rated(study: Study, rounds: int, method: Method, base: PinnedBase, clip_norm: float) -> tuple[Method, Said]:
    """The method with the length of its steps, where the study leaves it to "auto"; and why it is that.

    Raises:
        StudyError: public drawings do not say how long a step may be.
    """
    measured = _measured(study)
    if not measured or not isinstance(method, SteppingMethod):
        return method, ()
    (key,) = measured
    scale = method.step_scale(base)
    if scale is None:
        scale = public_distance(base, method, study.data.caption)
    rate, why = method.automatic_rate(scale, clip_norm, rounds, method.dimension(base))
    return method_for(method.name, method.options.model_dump() | {key: rate}), [(f"auto: {key}", f"{rate:g}: {why}")]


def _measured(study: Study) -> set[str]:
    """The key that drawings and C decide, where the study leaves it to them."""
    key = method_type(study.method.name).automatic.measured
    return {key} if key and study.method.options.get(key, AUTO) == AUTO else set()
