"""The model card that a pre-trained model is written with."""

from collections.abc import Sequence

from undertone.core.quoting import markdown_code, markdown_text, yaml_text
from undertone.pretraining.config import AutoencoderTable, Config, UnetTable
from undertone.public_images.procedural import NEUTRAL_SHARE, NOUN_SHARE, SHARES
from undertone.public_images.wording import PLURAL_KINDS, plural

_FRONT = """---
license: {licence}
library_name: diffusers
tags: [{tags}]
---

# {name}

A {kind} {where}diffusion model of {size} x {size} images, pre-trained by Undertone on public images.

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

_USE_NONE_PIXELS = """```python
from diffusers import DDIMPipeline

image = DDIMPipeline.from_pretrained(folder)(num_inference_steps=20).images[0]
```
"""

_USE_CLASS = """No stock pipeline takes a class; the parts are stock, `classes.json` names the classes in the
order of their numbers, and the number after the last says nothing.

```python
unet = UNet2DModel.from_pretrained(folder, subfolder="unet"){vae}
scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
scheduler.set_timesteps(20)
z = torch.randn(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
for t in scheduler.timesteps:
    z = scheduler.step(unet(z, t, class_labels=torch.tensor([number])).sample, t, z).prev_sample
image = {image}  # [1, channels, height, width] in -1..1
```
"""
_VAE = """
vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")"""

_DRAWN_ALONE = """{images:,} images of {size} x {size} pixels, drawn by procedure (`undertone.public_images.procedural`,
series {seed}); no photograph, no scan, no person. Drawn were {kinds} alone.{digits}{letters}
"""
_LETTERS = """
Letters are white on black, written with drawn strokes or set in fonts that matplotlib bundles, bent, slanted and
stretched, with pens of any width, in one box and centred by mass, as MNIST's digits are."""

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
_LIMITS_ALONE = "It knows these drawings and nothing else.\n"


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
    pixels = config.unet.denoises != "latents"
    of_class = _USE_CLASS.format(vae="" if pixels else _VAE, image="z" if pixels else "vae.decode(z).sample")
    untold = _USE_NONE_PIXELS if pixels else _USE_NONE
    use = {"text": _USE_TEXT.format(size=size), "class": of_class, "none": untold}[kind]
    data = _drawn(config, images) if drawn else _folder(config, images)
    rows = [
        *([] if pixels else [("autoencoder", _autoencoder(config.autoencoder, size))]),
        *([("text encoder", _text_encoder(config.unet, words, length))] if kind == "text" else []),
        ("UNet", _unet(config.unet, classes)),
        ("scheduler", "DDIM, 1000 steps, v-prediction, betas rescaled to zero final signal, trailing steps"),
    ]
    recipe = "\n".join(f"| {name} | {text} |" for name, text in rows)
    known = _LIMITS_DRAWN if config.data.kinds is None else _LIMITS_ALONE
    limits = (known if drawn else "") + "It has no safety checker: what you adapt it to may need one.\n"
    front = _FRONT.format(
        licence="apache-2.0" if drawn else yaml_text(config.data.licence),
        tags="stable-diffusion, synthetic-data" if kind == "text" else "synthetic-data",
        name=markdown_text(config.pretrain.name),
        kind=told,
        where="" if pixels else "latent ",
        size=size,
    )
    return (
        f"{front}{use}\n## Data\n\n{data}\n## Recipe\n\n| part | how |\n|---|---|\n{recipe}\n\n"
        f"Weights are stored in half precision. Made by `undertone pretrain`.\n\n## Limits\n\n{limits}"
    )


def _drawn(config: Config, images: int) -> str:
    if config.data.kinds is not None:
        return _drawn_alone(config, images, sorted(set(config.data.kinds)))
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


def _drawn_alone(config: Config, images: int, kinds: Sequence[str]) -> str:
    return _DRAWN_ALONE.format(
        images=images,
        size=config.data.size,
        seed=config.pretrain.seed,
        kinds=", ".join(plural(kind) if kind not in PLURAL_KINDS else kind for kind in kinds),
        letters=_LETTERS if "letter" in kinds else "",
        digits="" if "digit" in kinds else " No digit was drawn.",
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
    seen = {"latents": "", "pixels": "denoises pixels; ", "grey": "denoises grey pixels, one channel; "}[table.denoises]
    return (
        f"{seen}channels {tuple(table.channels)}, {table.layers} layers a level; "
        f"{_steps(table.steps, table.batch, table.learning_rate, table.average)}; of "
        f"{100 * table.drop:.0f} % of images it is told nothing{told}"
    )


def _steps(steps: int, batch: int, rate: float, average: float) -> str:
    return f"{steps} steps of {batch}, AdamW {rate:g} with a cosine, averaged at {average}"
