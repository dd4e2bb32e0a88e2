"""The model card of `embedded:tiny`."""

from undertone.pretraining.text_to_image import UnetRecipe
from undertone.pretraining.vae import VaeRecipe

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, synthetic-data]
---

# embedded:tiny

A latent diffusion model of 5 million parameters that ships with Undertone, so that examples and tests need
no download. It is a stock `StableDiffusionPipeline`; any diffusers user can load it:

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
image = pipeline(
    "a picture of a bright phantom of a chest",
    height=32, width=32, num_inference_steps=20, guidance_scale=2.0,
).images[0]
```

## Data

{images:,} images, drawn by procedure (`undertone.pretraining.procedural`, series {seed}); no photograph, no
scan, no person. 34 % are grey drawings of body parts made of ellipses and bands (chest, head, knee,
abdomen), 38 % digits and letters in fonts that matplotlib bundles (half of them soft and grey), 16 %
shapes, 12 % textures. 8 % carry the caption "a picture", 30 % one noun
("a chest"), the others their own. Greys have equal channels.
Captions use {words} words, each one token; other text falls back to bytes that the model has not seen.

## Recipe

| part | shape | training |
|---|---|---|
| autoencoder | 32 x 32 RGB to 4 x 8 x 8, blocks (16, 32, 64) | {vae_training} |
| text encoder | CLIP, width 64, 2 layers, 4 heads, {length} tokens | from scratch, with the UNet |
| UNet | blocks (64, 128), 1 layer each, cross-attention 64 | {unet_training} |
| scheduler | DDIM, 1000 steps, v-prediction, betas rescaled to zero final signal | sample with 20 steps |

Weights are stored in half precision. Made by `python -m undertone.pretraining.tiny` on CPU (no GPU).

## Limits

It knows 32 x 32 drawings and nothing else. Its "chest" is a phantom, not a radiograph; nothing it makes
has any medical meaning. Shapes come out as blobs of the right colours, small letters and textures are often
wrong. How its phantoms look was drawn after looking at public radiographs. It has no safety checker
because its data holds nothing to check for; what you adapt it to may.
"""


def model_card(images: int, seed: int, words: int, length: int, vae: VaeRecipe, unet: UnetRecipe) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        images: how many public images were drawn.
        seed: their series.
        words: distinct words in the captions.
        length: tokens per prompt.
        vae: settings of the first stage.
        unet: settings of the second stage.
    """
    vae_training = (
        f"{vae.steps} steps of {vae.batch}: squared error + {vae.l1} L1 + {vae.kl} KL + {vae.chroma} squared "
        "error of the tint; latents then whitened per channel, folded into the weights"
    )
    unet_training = (
        f"{unet.steps} steps of {unet.batch}, AdamW {unet.learning_rate} with a cosine, averaged at "
        f"{unet.average}, {100 * unet.drop:.0f} % of captions dropped"
    )
    return _CARD.format(
        images=images,
        seed=seed,
        words=words,
        length=length,
        vae_training=vae_training,
        unet_training=unet_training,
    )
