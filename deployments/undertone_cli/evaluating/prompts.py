"""What a release is asked for: one prompt for each class, and the same for the base that lacks its words."""

from collections.abc import Collection, Mapping

from undertone.core.captions import caption_columns, fill_caption
from undertone.core.text import shown
from undertone.errors import InputError
from undertone.methods.protocol import Method

MOST_CLASSES = 64


def class_prompts(
    method: Method, caption: str, class_column: str | None, given: Mapping[str, str], there: Collection[str]
) -> dict[str, str]:
    """Class -> prompt for the release; of the one class "" where no column names any.

    Args:
        method: the release's.
        caption: the plan's template.
        class_column: the column that names the class.
        given: what a person said, class -> prompt; empty: the caption is filled in, if it holds the column.
        there: the classes of the real images.

    Raises:
        InputError: there are no prompts, one class alone, or a prompt without the learned word.
    """
    if class_column is None:
        prompts = dict(given) or {"": method.sample_prompts(caption)[1]}
    elif given:
        prompts = dict(given)
    elif class_column in caption_columns(caption):
        prompts = {one: fill_caption(caption, method.token, {class_column: one}) for one in sorted(there)}
    else:
        raise InputError(
            f'the captions of this release, "{shown(caption)}", do not hold {{{shown(class_column)}}}: say what to '
            f'draw for each class, --prompt "CLASS=PROMPT" for each'
        )
    if class_column is not None and not 2 <= len(prompts) <= MOST_CLASSES:
        raise InputError(f"{len(prompts)} classes: a classifier needs at least 2, and at most {MOST_CLASSES} are taken")
    for one, prompt in prompts.items():
        if method.token and method.token not in prompt:
            whose = f' of class "{shown(one)}"' if one else ""
            raise InputError(
                f'the prompt{whose}, "{shown(prompt)}", lacks {method.token}: nothing of the release would be in it'
            )
    return prompts


def base_prompts(method: Method, prompts: Mapping[str, str]) -> dict[str, str]:
    """The same with the word that the learned one started from, for the base, which lacks the learned one."""
    before, _ = method.sample_prompts("{token}")
    return {one: prompt.replace(method.token, before) if method.token else prompt for one, prompt in prompts.items()}
