"""The model card that a pre-trained model is written with."""

from collections.abc import Sequence

from undertone.core.quoting import markdown_code, markdown_text, yaml_text
from undertone.pretraining.config import AutoencoderTable, Config, UnetTable
from undertone.public_images.procedural import NEUTRAL_SHARE, NOUN_SHARE, SHARES

_FRONT = """---
license: {licence}
library_name: diffusers
tags: [{tags}]
---

# {name}

A {kind} latent diffusion model of {size} x {size} images, pre-trained by Undertone on public images.

"""

_USE_TEXT = """```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
image = pipeline("a picture", height={size}, width={size}, num_inference_steps=20, guidance_scale=4.0).images[0]
```
"""

_USE_NONE = """```python
from diffusers import LDMPipeline

image = LDMPipeline.from_pretrained(folder)(num_inference_steps=20).images[0]
```
"""

_USE_CLASS = """No stock pipeline takes a class on latents; the parts are stock, `classes.json` names the classes in the
order of their numbers, and the number after the last says nothing.

```python
unet = UNet2DModel.from_pretrained(folder, subfolder="unet")
vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
scheduler.set_timesteps(20)
z = torch.randn(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
for t in scheduler.timesteps:
    z = scheduler.step(unet(z, t, class_labels=torch.tensor([number])).sample, t, z).prev_sample
image = vae.decode(z).sample
```
"""

_DRAWN = """{images:,} images of {size} x {size} pixels, drawn by procedure (`undertone.public_images.procedural`,
series {seed}); no photograph, no scan, no person. {phantoms:.0%} are grey drawings of body parts made of ellipses
and bands (chest, head, knee, abdomen), {glyphs:.0%} digits and letters (written with drawn strokes, soft, or sharp in
fonts that matplotlib bundles), {shapes:.0%} shapes, {textures:.0%} textures and backgrounds. {neutral:.0%} carry the
caption "a picture", {nouns:.0%} one noun ("a chest"), the others their own with a part left out here and there. Greys
have equal channels. How phantoms and handwriting look was drawn after looking at public radiographs and digits.
"""

_LIMITS_DRAWN = """It knows drawings and nothing else. Its "chest" is a phantom, not a radiograph; nothing it makes has
any medical meaning.
"""


def model_card(config: Config, images: int, *, words: int = 0, length: int = 0, classes: Sequence[str] = ()) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        config: the settings.
        images: how many images it was trained on.
        words: distinct words in the captions, where there is a text encoder.
        length: tokens per prompt.
        classes: names of the classes, where there are some.
    """
    drawn, size, kind = config.data.folder is None, config.data.size, config.unet.kind
    told = {"text": "text-to-image", "class": "class-conditional", "none": "unconditional"}[kind]
    use = {"text": _USE_TEXT, "class": _USE_CLASS, "none": _USE_NONE}[kind].format(size=size)
    data = _drawn(config, images) if drawn else _folder(config, images)
    rows = [
        ("autoencoder", _autoencoder(config.autoencoder, size)),
        *([("text encoder", _text_encoder(config.unet, words, length))] if kind == "text" else []),
        ("UNet", _unet(config.unet, classes)),
        ("scheduler", "DDIM, 1000 steps, v-prediction, betas rescaled to zero final signal, trailing steps"),
    ]
    recipe = "\n".join(f"| {name} | {text} |" for name, text in rows)
    limits = (_LIMITS_DRAWN if drawn else "") + "It has no safety checker: what you adapt it to may need one.\n"
    front = _FRONT.format(
        licence="apache-2.0" if drawn else yaml_text(config.data.licence),
        tags="stable-diffusion, synthetic-data" if kind == "text" else "synthetic-data",
        name=markdown_text(config.pretrain.name),
        kind=told,
        size=size,
    )
    return (
        f"{front}{use}\n## Data\n\n{data}\n## Recipe\n\n| part | how |\n|---|---|\n{recipe}\n\n"
        f"Weights are stored in half precision. Made by `undertone pretrain`.\n\n## Limits\n\n{limits}"
    )


def _drawn(config: Config, images: int) -> str:
    return _DRAWN.format(
        images=images,
        size=config.data.size,
        seed=config.pretrain.seed,
        phantoms=SHARES["phantom"],
        glyphs=sum(SHARES[name] for name in ("handwritten_digit", "soft_glyph", "sharp_glyph")),
        shapes=SHARES["shape"],
        textures=SHARES["texture"],
        neutral=NEUTRAL_SHARE,
        nouns=NOUN_SHARE,
    )


def _folder(config: Config, images: int) -> str:
    caption, licence = markdown_code(config.data.caption), markdown_text(config.data.licence)
    return f"{images:,} public images of a folder, captions {caption}. Licence: {licence}.\n"


def _autoencoder(table: AutoencoderTable, size: int) -> str:
    if table.base is not None:
        return f"that of {markdown_text(table.base)}, unchanged"
    factor = 2 ** (len(table.channels) - 1)
    return (
        f"{size} x {size} RGB to {table.latent_channels} x {size // factor} x {size // factor}, channels "
        f"{tuple(table.channels)}; {_steps(table.steps, table.batch, table.learning_rate, table.average)}; squared "
        f"error + {table.l1} L1 + {table.kl} KL + {table.chroma} squared error of the tint; latents whitened per "
        "channel, folded into the weights"
    )


def _text_encoder(table: UnetTable, words: int, length: int) -> str:
    return (
        f"CLIP, width {table.width}, {table.text_layers} layers, {length} tokens, {words} words of the captions as one "
        "token each, anything else as bytes; from scratch, with the UNet"
    )


def _unet(table: UnetTable, classes: Sequence[str]) -> str:
    told = f"; classes {', '.join(map(markdown_text, classes))}" if classes else ""
    if table.time_power != 1:
        told += f"; steps t = T u^{table.time_power:g}"
    if table.align:
        told += f"; its middle aligned with Undertone's public encoder, weight {table.align:g}"
    if table.favour:
        told += "; images picked more often for a word: "
        told += ", ".join(f"{markdown_text(word)} {factor:g}" for word, factor in table.favour.items())
    return (
        f"channels {tuple(table.channels)}, {table.layers} layers a level; "
        f"{_steps(table.steps, table.batch, table.learning_rate, table.average)}; of "
        f"{100 * table.drop:.0f} % of images it is told nothing{told}"
    )


def _steps(steps: int, batch: int, rate: float, average: float) -> str:
    return f"{steps} steps of {batch}, AdamW {rate:g} with a cosine, averaged at {average}"
