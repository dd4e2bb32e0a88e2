"""Draws from prototypes: a centre by weight, a Gaussian step around it, the base's decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from undertone.core.text import shown
from undertone.errors import ModelError
from undertone.methods.prototypes.names import PARTS, classes_in, spelled
from undertone.models.interface import Base


@dataclass(frozen=True)
class PrototypeDrawer:
    """What `Base.sample` calls once prototypes are attached.

    mixtures: class -> (centres [n, c, h, w], shares [n] that sum to 1, which factor each centre has [n], factors
    [classes, k, c, h, w]); "" is any class, by weight.
    """

    base: Base
    mixtures: Mapping[str, "Mixture"]

    @classmethod
    def of(cls, base: Base, held: Mapping[str, NDArray[np.float32]]) -> "PrototypeDrawer":
        """From the tensors of a file that fits."""
        names = classes_in({name: tensor.shape for name, tensor in held.items()}) or []
        parts = {name: [held[spelled(part, name)] for part in PARTS] for name in names}
        mixtures = {name: Mixture.of(*(part[None] for part in of_class)) for name, of_class in parts.items()}
        whole = [np.stack(one) for one in zip(*parts.values(), strict=True)]
        return cls(base, {**mixtures, "": Mixture.of(*whole)})

    def __call__(
        self, prompts: Sequence[str], generators: Sequence[torch.Generator], *, steps: int, guidance: float
    ) -> list[Image.Image]:
        """One image for each prompt, which is a class's name or "" for any; image i follows from its own generator.

        There is nothing to denoise: `steps` and `guidance` change nothing.

        Raises:
            ModelError: a prompt that is no class.
        """
        del steps, guidance
        latents = [self._mixture(prompt).drawn(one) for prompt, one in zip(prompts, generators, strict=True)]
        return [Image.fromarray(pixels) for pixels in self.base.decode(np.stack(latents))] if latents else []

    def losses(self, *_: object) -> None:
        """There is no denoiser, so there are none."""

    def _mixture(self, prompt: str) -> "Mixture":
        found = self.mixtures.get(prompt.strip())
        if found is None:
            known = ", ".join(f'"{shown(name, 64)}"' for name in self.mixtures if name) or "one"
            raise ModelError(
                f'"{shown(prompt, 80)}" is no class of these prototypes: ask for {known}, or for "", which is any'
            )
        return found


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians in latents.

    centres: [classes, J, c, h, w]. shares: [classes * J], which sum to 1. factors: [classes, k, c, h, w].
    """

    centres: NDArray[np.float32]
    shares: NDArray[np.float64]
    factors: NDArray[np.float32]

    @classmethod
    def of(cls, centres: NDArray[np.float32], weights: NDArray[np.float32], factors: NDArray[np.float32]) -> "Mixture":
        """From tensors as they were released; weights that are none, as a control's may be, count as equal."""
        kept = np.maximum(weights.astype(np.float64), 0.0).reshape(-1)
        shares = kept / kept.sum() if kept.sum() > 0 else np.full(kept.size, 1.0 / kept.size)
        return cls(centres, shares, factors)

    def drawn(self, generator: torch.Generator) -> NDArray[np.float32]:
        """One latent [c, h, w]."""
        u = float(torch.rand(1, generator=generator, dtype=torch.float64))
        place = min(int(np.searchsorted(np.cumsum(self.shares), u, side="right")), self.shares.size - 1)
        of_class, centre = divmod(place, self.centres.shape[1])
        factor = self.factors[of_class]
        g = torch.randn(len(factor), generator=generator, dtype=torch.float64).numpy()
        return np.asarray(self.centres[of_class, centre] + np.tensordot(g, factor, axes=1), dtype=np.float32)
