"""What a release is asked for: one prompt for each class, and the same for the base, which lacks its words."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from undertone.core.captions import caption_columns
from undertone.core.classes import FEWEST, MOST
from undertone.core.text import shown
from undertone.errors import InputError
from undertone.methods.classes import ClassShown
from undertone.methods.protocol import Method
from undertone.study.plan import Plan
from undertone.study.planned import class_prompts

_SAY = 'say what to draw for each class, --prompt "CLASS=PROMPT" for each'


@dataclass(frozen=True)
class Prompts:
    """Class -> prompt, for the base without adaptation and for the release; the one class "" where there are none."""

    before: Mapping[str, str]
    after: Mapping[str, str]

    @classmethod
    def of_pairs(cls, pairs: Mapping[str, tuple[str, str]]) -> "Prompts":
        """Class -> (before, after)."""
        return cls({one: pair[0] for one, pair in pairs.items()}, {one: pair[1] for one, pair in pairs.items()})


def planned_prompts(plan: Plan, method: Method) -> Prompts:
    """Those of the plan's classes; of the one class "" where it has none, or nothing tells one from another."""
    return Prompts.of_pairs(class_prompts(plan, method))


def prompts_for(
    plan: Plan, method: Method, class_column: str | None, given: Mapping[str, str], there: Collection[str]
) -> Prompts:
    """What is drawn, in the order of the classes.

    Args:
        plan: the release's.
        method: the plan's.
        class_column: the column that names the class of real images; None: they have none.
        given: what a person said, class -> prompt, "" -> that of no class; empty: what follows from the plan.
        there: the classes of the real images.

    Raises:
        InputError: there are no prompts, one class alone, or a prompt without a learned word.
    """
    if given:
        found = _said(plan, method, given)
    elif class_column is None and plan.data.classes and list(planned_prompts(plan, method).after) != [""]:
        raise InputError('this release knows classes: name their column, --class-column, or say --prompt "TEXT"')
    elif class_column is None or plan.data.classes:
        found = planned_prompts(plan, method)
    elif class_column in caption_columns(plan.data.caption):
        shown_ones = [ClassShown(place, name, class_column) for place, name in enumerate(sorted(there))]
        found = Prompts.of_pairs({one.name: method.sample_prompts(plan.data.caption, one) for one in shown_ones})
    else:
        raise InputError(
            f'the captions of this release, "{shown(plan.data.caption)}", do not hold {{{shown(class_column)}}}: {_SAY}'
        )
    if class_column is not None and list(found.after) == [""]:
        raise InputError(f"neither the captions nor the method of this release tell one class from another: {_SAY}")
    if class_column is not None and not FEWEST <= len(found.after) <= MOST:
        raise InputError(f"{len(found.after)} classes: a classifier needs {FEWEST}, and at most {MOST} are taken")
    return found


def _said(plan: Plan, method: Method, given: Mapping[str, str]) -> Prompts:
    """What a person said; for the base each learned word becomes the one that it started from."""
    words = _words(plan, method)
    before = {}
    for one, prompt in given.items():
        if words and not any(word in prompt for word in words):
            whose = f' of class "{shown(one)}"' if one else ""
            raise InputError(
                f'the prompt{whose}, "{shown(prompt)}", lacks {" and ".join(words)}: nothing of the release is in it'
            )
        before[one] = prompt
        for word, start in words.items():
            before[one] = before[one].replace(word, start)
    return Prompts(before, dict(given))


def _words(plan: Plan, method: Method) -> dict[str, str]:
    """Each word that the release holds and the one that it started from; none of a method that learns none."""
    column = plan.data.class_column or ""
    of = [None, *(ClassShown(place, name, column) for place, name in enumerate(plan.data.classes))]
    pairs = [method.sample_prompts("{token}", one) for one in of]
    return {word: start for start, word in pairs if word and word != start}
