"""README.md of a release: how to use it, and what it reveals."""

from undertone.plan import Plan
from undertone.statement import trust_assumptions

_CARD = """---
license: {licence}
base_model: {base}
tags: [undertone, differential-privacy, synthetic]
---
# {study}

Adapted from `{base}` by the method `{method}` of Undertone: {sites} sites, none of which shared an image.

```python
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(BASE)  # the folder or hub id of {base}
pipeline.load_textual_inversion("learned_embeds.safetensors")
image = pipeline("{prompt}").images[0]
```

Or: `undertone generate . --prompt "{prompt}" -n 8 --out images`. 
Images made with it are synthetic; say so where you show them.

## What it reveals

For any one unit ({unit}), adding or removing it changes the probability of any outcome by at most a factor
e^epsilon with **epsilon = {epsilon:.4g}**, but for a probability of **delta = {delta:g}**.
`privacy.json` states the mechanism; `undertone verify .` recomputes the figure and checks the ledger.

{trust}

## Limits

`samples.png` shows the same seeds before and after. The licence of the base model ({licence}) applies.
Not a medical device: no image made with it may support a diagnosis.
"""


def model_card(plan: Plan, prompt: str, sites: int) -> str:
    """The card of a release whose sum holds `sites` sites; facts of the plan."""
    return _CARD.format(
        licence=plan.model.licence,
        base=plan.model.base,
        study=plan.study,
        method=plan.method.name,
        sites=sites,
        prompt=prompt,
        unit=plan.privacy.unit,
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        trust="\n".join(f"- {line}" for line in trust_assumptions(plan)),
    )
