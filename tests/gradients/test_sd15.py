"""Real size: Stable Diffusion 1.5 from its configs with random weights, at 64x64 latents, on a CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.unit_batches import clipped_sum, noise, units_of
from undertone.gradients.clipping import MARGIN
from undertone.gradients.engine import GradientEngine

METHODS: dict[str, Callable[[str], bool]] = {
    "dp-lora": lambda name: "lora_" in name,
    "dp-ldm": lambda name: ".attentions." in name or name.startswith("text_encoder."),
}


def stable_diffusion() -> nn.ModuleDict:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12, num_attention_heads=12
    )
    return nn.ModuleDict({"unet": unet, "text_encoder": CLIPTextModel(config)}).eval()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
def test_a_clipped_step_of_two_units(method: str) -> None:
    """One row each; the larger gradient is clipped to the smaller. Plain autograd with those factors must agree."""
    model = stable_diffusion()
    assert 850e6 < sum(p.numel() for p in model["unet"].parameters()) < 870e6
    if method == "dp-lora":
        model["unet"].add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    model["unet"].enable_gradient_checkpointing()
    named = dict(model.named_parameters())
    names = [name for name in named if METHODS[method](name)]
    latents, target = noise(2, 4, 64, 64, seed=1), noise(2, 4, 64, 64, seed=2)
    times, tokens = torch.tensor([100, 800]), torch.arange(2 * 77).reshape(2, 77) % 1000

    def loss() -> Tensor:
        text = model["text_encoder"](tokens)[0]
        predicted = model["unet"](latents, times, encoder_hidden_states=text).sample
        return (predicted - target).square().flatten(1).mean(1)

    engine = GradientEngine(model, names)
    norms, total = engine.norms(loss, units_of(1, 1)), clipped_sum(engine, loss, units_of(1, 1), 1e-3)
    assert np.isfinite(norms).all()
    assert (norms > 0).all()
    factors = torch.from_numpy(np.minimum(1.0, 1e-3 * MARGIN / norms)).float()
    plain = torch.autograd.grad(loss(), [named[name] for name in names], factors, materialize_grads=True)
    expected = torch.cat([g.flatten() for g in plain]).double().numpy()
    # Each of 2 x 10^8 values loses up to one grid unit; the same values cut from the expected sum lose as much.
    assert np.linalg.norm(total - expected) < 1e-3 * 2 * np.sqrt(engine.d) / 2**21
