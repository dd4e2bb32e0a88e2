"""README.md of a release: how to use it, and what it reveals.

Prompt, base and licence were written by others: each is quoted as the place where it stands asks (`quoting.py`).
"""

from collections.abc import Mapping

from undertone.core.quoting import markdown_code, markdown_text, python_text, shell_text, yaml_text
from undertone.methods.release_format import Description
from undertone.release.trust import trust_assumptions
from undertone.study.plan import Plan

_CARD = """---
license: {yaml_licence}
base_model: {yaml_base}
tags: [undertone, differential-privacy, synthetic]
---
# {study}

Adapted from {base} by the method `{method}` of Undertone: {sites} sites or more, none of which shared an image.

```python
{python}
```

Or:

```sh
undertone generate . --prompt {shell_prompt} -n 8 --out images
```

Images made with it are synthetic; say so where you show them.

{by_class}## What it reveals

For any one unit ({unit}), adding or removing it changes the probability of any outcome by at most a factor
e^epsilon with **epsilon = {epsilon:.4g}**, but for a probability of **delta = {delta:g}**.
`privacy.json` states the mechanism; `undertone verify . --coordinator KEY` recomputes the figure and checks the ledger.

{trust}

## Limits

{samples} The licence of the base model ({licence}) applies.
Not a medical device: no image made with it may support a diagnosis.
"""

_PYTHON = """from diffusers import {pipeline}
pipeline = {pipeline}.from_pretrained(BASE)  # the folder or hub id of the base model
{load}
image = pipeline({prompt}).images[0]"""
_SAMPLES = "`samples.png` shows the same seeds before and after."
_BY_CLASS = """## Prompts by class

{prompts}

The list of classes is public; records of any other class had no part.

"""
_NO_SAMPLES = (
    "No samples were drawn where this was made, and whether the study changed anything that can be seen was not "
    "looked at."
)


def model_card(
    plan: Plan, prompts: Mapping[str, str], sites: int, described: Description, *, samples: bool = True
) -> str:
    """The card of a release.

    Args:
        plan: its plan.
        prompts: for its images, by class; "" where it has no classes.
        sites: how many the smallest sum holds.
        described: how its kind is loaded.
        samples: whether samples.png is there.
    """
    base, licence, prompt = plan.model.base, plan.model.licence, next(iter(prompts.values()))
    return _CARD.format(
        yaml_licence=yaml_text(licence),
        yaml_base=yaml_text(base),
        licence=markdown_text(licence),
        base=markdown_code(base),
        study=markdown_text(plan.study),
        method=plan.method.name,
        sites=sites,
        python=_python(described, prompt),
        shell_prompt=shell_text(prompt),
        unit=plan.privacy.unit,
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        samples=_SAMPLES if samples else _NO_SAMPLES,
        by_class=_by_class(prompts),
        trust="\n".join(f"- {line}" for line in trust_assumptions(plan)),
    )


def _python(described: Description, prompt: str) -> str:
    """Lines that make `image` in the release's folder."""
    program = described.program or _PYTHON
    return program.format(pipeline=described.pipeline, load=described.load, prompt=python_text(prompt))


def _by_class(prompts: Mapping[str, str]) -> str:
    """A prompt for each class, where there are classes."""
    if set(prompts) == {""}:
        return ""
    lines = (f"- {markdown_code(name)}: {markdown_code(prompt)}" for name, prompt in prompts.items())
    return _BY_CLASS.format(prompts="\n".join(lines))
