"""A commented STUDY.toml from a person's answers. It sees nothing else: no value of a table gets into it."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from undertone.core.captions import TOKEN
from undertone.core.quoting import toml_text
from undertone.core.unit import Unit
from undertone.errors import StudyError
from undertone.methods.classed import ClassedMethod
from undertone.methods.protocol import ShardedMethod, check_needs
from undertone.methods.registry import METHODS, method_for
from undertone.models.pinned import pin
from undertone.study.automatic import filled
from undertone.study.resolve import aggregation_of
from undertone.study.schema import Study, parse_study

# Who gives none is shown where they go; `plan` accepts these, and no site has such a name by chance.
PLACEHOLDERS: Mapping[str, int] = {"site-a": 100, "site-b": 100, "site-c": 100}
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Answers:
    """What a person typed, and defaults of the program. Nothing here may come from a folder of images.

    sites: each site with its public round figure; empty: placeholders. classes: the public list of classes.
    """

    name: str
    base: str
    method: str
    unit: Unit
    epsilon: float
    delta: float
    revision: str | None = None
    unit_column: str | None = None
    caption: str | None = None
    class_column: str | None = None
    classes: Sequence[str] = ()
    sites: Mapping[str, int] = field(default_factory=dict)


def written(answers: Answers) -> str:
    """The text of the study, once `plan` would read it.

    Raises:
        StudyError, ModelError: an answer that no study may have; says which and what would do.
    """
    try:
        text = _text(answers)
    except ValueError as error:  # toml_text
        raise StudyError(f"what was typed cannot be written into a study: {error}") from None
    _check(parse_study(tomllib.loads(text), "the study"))
    return text


def default_caption(method: str) -> str:
    """What stands where a person says no caption: the method's word, or a neutral one."""
    return f"a {{{TOKEN}}}" if method_for(method, {}).token else "a picture"


def _check(study: Study) -> None:
    """What `plan` would refuse before it looks at any figure.

    Raises:
        StudyError, ModelError: see `written`.
    """
    method = method_for(study.method.name, study.method.options)
    base = pin(study.model.base, study.model.revision)
    check_needs(method, base)
    method.check(base, study.data.caption)
    settled, _ = filled(study)
    if len(study.cohort.figures) < study.cohort.min_sites:
        raise StudyError(f"{len(study.cohort.figures)} sites are fewer than three: name all sites of the study")
    aggregation_of(settled, len(study.cohort.figures))


def _text(answers: Answers) -> str:
    others = ", ".join(name for name in METHODS if name != answers.method)
    return "\n".join(
        (
            "# A study by `undertone new`. It holds what was typed, and nothing that was read from the data.",
            "# Every key, with its default: docs/study.md. Which method for how many patients: docs/choosing.md.",
            "[study]",
            f"name = {_quoted(answers.name)}  # sites approve and charge it under this name, and it is published",
            "",
            "[model]",
            f"base = {_quoted(answers.base)}  # what ships, a diffusers folder, or a hub id with its revision",
            *([f"revision = {_quoted(answers.revision)}"] if answers.revision else ()),
            "",
            "[method]",
            f"name = {_quoted(answers.method)}  # others: {others}",
            "# Rates, rounds and the clip norm are left out: `undertone plan` finds them from public drawings.",
            *_by_class(answers),
            "",
            *_privacy(answers),
            "",
            *_data(answers),
            "",
            *_cohort(answers),
            "",
            "# [aggregation]  # secure by default; see docs/study.md for threshold, colluders, rosters",
            "",
        )
    )


def _by_class(answers: Answers) -> list[str]:
    method = method_for(answers.method, {})
    if not answers.classes or not isinstance(method, ClassedMethod) or method.per_class:
        return []
    if _told_classes(answers):
        return ["per_class = true  # the base is told a class: each of the study's has its own"]
    able = bool(method.token) or "scheduler" not in method.needs
    return ["# per_class = true  # learn something for each class, at the cost of noise"] if able else []


def _told_classes(answers: Answers) -> bool:
    """Whether the base is told a class, and no words."""
    return pin(answers.base, answers.revision).kind == "class"


def _privacy(answers: Answers) -> list[str]:
    said = {
        "record": "each image by itself: whoever has several is protected less; patient protects all of a person's",
        "patient": "all images of a person at a site, named by data.unit_column",
        "site": "a whole site: its noise is for as many units as there are sites",
    }
    return [
        "[privacy]",
        f"# {said[answers.unit]}",
        f'unit = "{answers.unit}"',
        "# The claim: the noise is calibrated to it. Smaller is safer. Above some 10 it promises little.",
        f"epsilon = {float(answers.epsilon)!r}",
        "# Well below one in the number of units.",
        f"delta = {answers.delta!r}",
        '# noise = "distributed"  # each site adds a share, and nobody ever sees a sum without noise',
    ]


def _data(answers: Answers) -> list[str]:
    told = f"{{{answers.class_column}}}" if answers.class_column and _told_classes(answers) else ""
    caption = answers.caption or told or default_caption(answers.method)
    lines = ["[data]"]
    if answers.unit_column:
        lines += ["# The same name in every site's table.", f"unit_column = {_quoted(answers.unit_column)}"]
    lines += [
        "# How an image is described: columns may stand in braces. A site's values go into its own captions alone.",
        f"caption = {_quoted(caption)}",
    ]
    if answers.class_column:
        classes = ", ".join(map(_quoted, answers.classes))
        lines += [
            "# The classes are public: they stand in the plan, and images of any other class are left out.",
            f"class_column = {_quoted(answers.class_column)}",
            f"classes = [{classes}]",
        ]
    return lines


def _cohort(answers: Answers) -> list[str]:
    units = ", ".join(f"{site} = {count}" for site, count in (answers.sites or PLACEHOLDERS).items())
    lines = ["[cohort]", "# Fewer sites than these never give a sum.", "min_sites = 3"]
    if not answers.sites:
        lines.append("# PLACEHOLDERS: put in your sites, each with the round figure of units that it chose to publish.")
    else:
        lines.append("# Each site with the round figure of units that it chose to publish.")
    key = "patients" if isinstance(method_for(answers.method, {}), ShardedMethod) else "units"
    return [*lines, f"{key} = {{ {units} }}"]


def _quoted(text: str) -> str:
    return toml_text(text)
