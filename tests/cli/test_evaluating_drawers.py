"""Membership inference by loss where a release draws by itself: by the loss that it was trained by, or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.gradient_studies import SMALL
from tests.support.images import pixels
from tests.support.prototypes import prototypes_of
from undertone.methods.denoiser.denoising import parametrisation_of
from undertone.methods.denoiser.options import Figures
from undertone.methods.registry import method_for
from undertone.methods.weights import attach
from undertone.models.base import LoadedBase, load_base
from undertone.models.interface import OwnDrawer
from undertone.models.pinned import PinnedBase, pin
from undertone.training.parametrisations import denoised
from undertone_cli.evaluating.losses import image_losses

DRAWS = 3


@pytest.fixture(scope="module")
def pinned(class_base: Path) -> PinnedBase:
    return pin(str(class_base))


def slow_loss(base: LoadedBase, figures: Figures, image: np.ndarray, prompt: str) -> float:
    """Draw after draw, spelled out: lambda(sigma) |D(x_0 + sigma n; sigma, y) - x_0|^2."""
    generator = np.random.Generator(np.random.Philox(key=20_301_201))
    drawn = torch.from_numpy(generator.standard_normal((DRAWS, *base.latent_shape), dtype=np.float32))
    of, x_0, found = parametrisation_of(base, figures), torch.from_numpy(base.encode(image[None])), []
    label = base.conditions([prompt])
    for k in range(DRAWS):
        u = torch.tensor([(k + 0.5) / DRAWS], dtype=torch.float64)
        sigma = of.sigma(u)

        def network(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(base.predict(x, noise, label))

        with torch.no_grad():
            away = denoised(of, network, x_0 + float(sigma) * drawn[k : k + 1], sigma) - x_0
        found.append(float(of.weight(sigma) * (away**2).mean()))
    return float(np.mean(found))


@pytest.mark.parametrize("parametrisation", ["edm", "v", "vp", "ve"])
def test_losses_of_a_denoiser_are_those_that_it_was_trained_by(pinned: PinnedBase, parametrisation: str) -> None:
    said = {"initial_weights": "scratch", "parametrisation": parametrisation, "class_names": ["mass", "clear"]}
    method = method_for("dpdm", SMALL["dpdm"] | said)
    base = load_base(pinned)
    attach(base, method.weights(pinned, method.released(method.initial_state(pinned))))
    images, prompts = [pixels(n, 32) for n in range(3)], ["mass", "clear", "mass"]
    found = image_losses(base, iter(images), prompts, DRAWS)
    figures = Figures.of(method.options)  # type: ignore[attr-defined]
    expected = [slow_loss(base, figures, one, prompt) for one, prompt in zip(images, prompts, strict=True)]
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_prototypes_have_no_losses(pinned: PinnedBase) -> None:
    method, base = prototypes_of(["mass", "clear"]), load_base(pinned)
    assert not isinstance(base.drawer, OwnDrawer)
    attach(base, method.weights(pinned, method.released(method.initial_state(pinned))))
    assert isinstance(base.drawer, OwnDrawer)
    assert image_losses(base, iter([pixels(0, 32)]), ["mass"], DRAWS) is None
