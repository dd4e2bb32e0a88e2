"""Batched inversion against a slow oracle: one unit, a real row of the embedding table, Adam written out."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from undertone.methods.protocol import UnitRecords
from undertone.methods.textual_inversion.inversion import Inversion, invert
from undertone.models.base import load_base
from undertone.models.pinned import pin

WORD, TOKEN = "picture", "<private>"

MIN_TIME = 0.3


def make_unit(number: int, images: int) -> UnitRecords:
    drawn = np.random.Generator(np.random.Philox(key=number))
    latents = drawn.standard_normal((images, 4, 8, 8), dtype=np.float32)
    captions = tuple(f"a {TOKEN}, {word}" for word in ("clear", "mass", "scan")[:images])
    return UnitRecords(latents, captions, np.random.Generator(np.random.Philox(key=99 + number)))


def alpha_bars(config: Any) -> np.ndarray:
    """The noise schedule from its definition; with zero terminal SNR as Lin et al. 2023, algorithm 1."""
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    bars = np.cumprod(1 - betas)
    if not config.get("rescale_betas_zero_snr", False):
        return bars
    roots = np.sqrt(bars)
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def oracle(folder: Path, unit: UnitRecords, steps: int, rate: float) -> np.ndarray:
    """The paper's algorithm for one unit: gradient of the denoising loss in one row of the embedding table."""
    pipeline = load_base(pin(str(folder))).pipeline
    tokenizer, encoder, config = pipeline.tokenizer, pipeline.text_encoder, pipeline.scheduler.config
    start = encoder.get_input_embeddings().weight[tokenizer(WORD).input_ids[1]].detach().clone()
    tokenizer.add_tokens(TOKEN)
    encoder.resize_token_embeddings(len(tokenizer))
    table, number = encoder.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids(TOKEN)
    table.requires_grad_(True)
    bars, row = alpha_bars(config), start.clone()
    first, second = torch.zeros_like(row), torch.zeros_like(row)
    phase = unit.generator.random()
    for step in range(steps):
        with torch.no_grad():
            table[number] = row
        image = step % len(unit.captions)
        noise = torch.from_numpy(unit.generator.standard_normal((4, 8, 8), dtype=np.float32))[None]
        turn = (phase + step * (math.sqrt(5) - 1) / 2) % 1.0
        t = int((MIN_TIME + (1 - MIN_TIME) * turn) * config.num_train_timesteps)
        a, s = math.sqrt(bars[t]), math.sqrt(1 - bars[t])
        x = torch.from_numpy(unit.latents[image])[None]
        ids = tokenizer(unit.captions[image], padding="max_length", return_tensors="pt").input_ids
        predicted = pipeline.unet(a * x + s * noise, t, encoder_hidden_states=encoder(ids)[0]).sample
        wanted = a * noise - s * x if config.prediction_type == "v_prediction" else noise
        (gradient,) = torch.autograd.grad((predicted - wanted).square().mean(), table)
        g = gradient[number]
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
        bias = (1 - 0.9 ** (step + 1), 1 - 0.99 ** (step + 1))
        now = rate * (1 - 0.9 * step / max(steps - 1, 1))
        row = (row - now * (first / bias[0]) / ((second / bias[1]).sqrt() + 1e-8)).detach()
    return (row - start).numpy()


@pytest.mark.parametrize("which", ["tiny_base", "epsilon_base"])
def test_rows_are_those_of_the_papers_algorithm(which: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    pinned = pin(str(folder))
    settings = Inversion([TOKEN], 1, steps=6, learning_rate=0.02, min_time=MIN_TIME)
    images = [1, 3, 2]
    units = [make_unit(number, count) for number, count in enumerate(images)]
    rows = invert(load_base(pinned), pinned.embedding_of(WORD)[None], units, settings, lambda _steps: None)
    slow = [oracle(folder, make_unit(number, count), 6, 0.02) for number, count in enumerate(images)]
    np.testing.assert_allclose(rows, np.array(slow), atol=1e-4)
    assert np.abs(rows).min(axis=1).max() > 1e-3
