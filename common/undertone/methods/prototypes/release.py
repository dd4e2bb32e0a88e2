"""`prototypes.safetensors`: a mixture of Gaussians for each class, in a base's latents: its decoder draws from it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.core.text import shown
from undertone.errors import InputError, UnfitWeights
from undertone.methods.prototypes.names import PARTS, classes_in, named, spelled
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

PROTOTYPES = "prototypes.safetensors"
_MOST_ROWS = 256  # centres of a class, and components

_PROGRAM = f'''import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.numpy import load_file
vae = AutoencoderKL.from_pretrained(BASE, subfolder="vae")  # the folder or hub id of the base model
held, of_class = load_file("{PROTOTYPES}"), {{prompt}}
centres, weights, factor = (held[f"{{{{part}}}}.{{{{of_class}}}}" if of_class else part] for part in {PARTS!r})
rng, shares = np.random.default_rng(), weights.astype(float)
centre = centres[rng.choice(len(centres), p=shares / shares.sum())]
latent = centre + np.tensordot(rng.standard_normal(len(factor)), factor, axes=1)
with torch.no_grad():
    decoded = vae.decode(torch.tensor(latent[None] / vae.config.scaling_factor, dtype=torch.float32)).sample[0]
pixels = (decoded.permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
image = Image.fromarray((255 * pixels).round().astype(np.uint8))'''


class PrototypeFile:
    """One file; see `named`."""

    files = (PROTOTYPES,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's tensors, as they are."""
        return {PROTOTYPES: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """That of its classes, where each has the same shapes and these go together."""
        held = shapes[PROTOTYPES]
        names = classes_in(held)
        if names is None:
            return None
        centres, weights, factor = (held[spelled(part, names[0])] for part in PARTS)
        if len(centres) != 4 or len(factor) != 4 or centres[1:] != factor[1:] or weights != centres[:1]:
            return None
        if not (1 <= centres[0] <= _MOST_ROWS and 1 <= factor[0] <= _MOST_ROWS):
            return None
        found = named([name for name in names if name], centres[0], factor[0], centres[1:])
        return found if dict(found.tensors) == dict(held) else None

    def attach(self, base: Base, weights: Weights) -> None:
        """Draw from the mixture in place of the base's own way of drawing.

        Raises:
            UnfitWeights: it is no mixture in this base's latents.
        """
        held = weights[PROTOTYPES]
        found = self.layout({PROTOTYPES: {name: tensor.shape for name, tensor in held.items()}})
        if found is None or found.tensors[0][1][1:] != tuple(base.latent_shape):
            first = ", ".join(f"{shown(name, 80)} {list(tensor.shape)}" for name, tensor in list(held.items())[:3])
            raise UnfitWeights(
                f"{PROTOTYPES} holds {len(held)} tensors ({first}), which are no prototypes in latents "
                f"{list(base.latent_shape)}; use the plan's base"
            )
        from undertone.methods.prototypes.drawer import PrototypeDrawer  # torch

        base.drawer = PrototypeDrawer.of(base, held)

    def fuse(self, base: Base) -> None:
        """Prototypes are no part of any pipeline.

        Raises:
            InputError: always; it says what draws from them.
        """
        del base
        raise InputError(
            f"{PROTOTYPES} is no part of a pipeline. The lines on its model card draw from it with numpy and the "
            "base's autoencoder alone; so does undertone generate"
        )

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """None: no other program has such files."""
        del program, weights
        return None

    def describe(self) -> Description:
        """A mixture, and lines that draw from it."""
        meaning = "how images of each kind vary around a few typical ones: a model's decoder draws such images"
        return Description("prototypes of each class, in the base's latents", meaning, "", program=_PROGRAM)


PROTOTYPE_FILE = PrototypeFile()
