"""The gradient methods one by one: rows against plain autograd, optimisers against torch's, options that cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.studies import study_with
from tests.support.unit_batches import grid_for
from undertone.errors import ModelError, StudyError
from undertone.methods.gradient.optimisers import OptimiserOptions, ServerOptimiser
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.losses import drop_captions, epsilon_loss, v_loss
from undertone.methods.protocol import Method, UnitRecords
from undertone.methods.registry import method_for
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.privacy.quantise import Grid, clip_and_quantise
from undertone.study.resolve import resolve
from undertone.study.schema import parse_study


def made(name: str, **options: Any) -> Method:
    return method_for(name, options)


@pytest.fixture(scope="module")
def pinned(tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


# --- rows -----------------------------------------------------------------------------------------


def unit(images: int, key: int = 1) -> UnitRecords:
    drawn = np.random.Generator(np.random.Philox(key=50 + key))
    latents = drawn.standard_normal((images, 4, 8, 8), dtype=np.float32)
    return UnitRecords(latents, ("a picture",) * images, np.random.Generator(np.random.Philox(key=key)))


def oracle_row(base: LoadedBase, method: Method, w: NDArray[np.float32], one: UnitRecords) -> NDArray[np.float64]:
    """Draw by draw, one image at a time: the mean over records of the mean over their draws, in layout order.

    For `dp-ldm` without embedder: plain autograd on the UNet's own parameters, moved by w.
    """
    options: GradientOptions = method.options
    generator, rows = one.generator, options.draws * options.records
    chosen = generator.permutation(len(one.captions))[: options.records]
    noise = generator.standard_normal((rows, 4, 8, 8), dtype=np.float32)
    phase = generator.random()
    names = [name.removeprefix("unet.") for name, _ in method.layout(base.pinned).tensors]
    unet = load_base(base.pinned).pipeline.unet
    parameters = [dict(unet.named_parameters())[name] for name in names]
    with torch.no_grad():
        for parameter, moved in zip(parameters, method.layout(base.pinned).unflatten(w).values(), strict=True):
            parameter.add_(torch.from_numpy(np.array(moved)))
    ids = base.pipeline.tokenizer("a picture", padding="max_length", return_tensors="pt").input_ids
    text, count = base.pipeline.text_encoder(ids)[0].detach(), base.schedule.config.num_train_timesteps
    by_record: dict[int, list[NDArray[np.float64]]] = {}
    for row in range(rows):
        record = int(chosen[(row // options.draws) % len(chosen)])
        fraction = (phase + row * (5**0.5 - 1) / 2) % 1.0
        t = torch.tensor([int((options.min_time + (1 - options.min_time) * fraction) * count)])
        x_0, epsilon = torch.from_numpy(one.latents[record])[None], torch.from_numpy(noise[row])[None]
        bar = base.schedule.alphas_cumprod[t]
        x_t, v = bar.sqrt() * x_0 + (1 - bar).sqrt() * epsilon, bar.sqrt() * epsilon - (1 - bar).sqrt() * x_0
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = (unet(x_t, t, encoder_hidden_states=text).sample - v).square().mean()
        found = torch.autograd.grad(loss, parameters)
        by_record.setdefault(record, []).append(torch.cat([one.reshape(-1) for one in found]).double().numpy())
    return np.mean([np.mean(found, axis=0) for found in by_record.values()], axis=0)


def as_read(method: Method, one: UnitRecords) -> UnitRecords:
    """The records of a unit that enter its row, as a node reads them."""
    chosen = list(method.entering(len(one.captions), one.generator))
    return UnitRecords(one.latents[chosen], tuple(one.captions[index] for index in chosen), one.generator)


@pytest.mark.parametrize(("images", "records", "draws"), [(1, 1, 3), (2, 3, 1), (5, 2, 2)])
def test_a_row_is_the_mean_over_records_of_the_mean_over_draws(
    base: LoadedBase, pinned: PinnedBase, images: int, records: int, draws: int
) -> None:
    method = made("dp-ldm", blocks=["mid_block"], embedder=False, draws=draws, records=records, min_time=0.3)
    w = (0.05 * np.random.Generator(np.random.Philox(key=4)).standard_normal(method.layout(pinned).size)).astype("f4")
    (row,) = method.rows(base, w, [as_read(method, unit(images))], lambda _steps: None)
    expected = oracle_row(base, method, w, unit(images))
    np.testing.assert_allclose(row, expected, atol=2e-5 * np.abs(expected).max())


def test_captions_are_left_out_at_the_rate_and_always_ask_for_one_draw() -> None:
    generator = np.random.Generator(np.random.Philox(key=1))
    kept = drop_captions(["x"] * 4000, 0.25, generator)
    assert 0.2 < kept.count("") / 4000 < 0.3
    again = np.random.Generator(np.random.Philox(key=1))
    assert drop_captions(["x"] * 4000, 0.0, again) == ["x"] * 4000
    assert again.random() == generator.random()


def test_losses_are_their_papers_formulas(base: LoadedBase) -> None:
    drawn = torch.Generator().manual_seed(3)
    x_0, epsilon = (torch.randn((3, 4, 8, 8), generator=drawn) for _ in range(2))
    t, bar = torch.tensor([0, 400, 999]), base.schedule.alphas_cumprod[torch.tensor([0, 400, 999])].reshape(3, 1, 1, 1)
    x_t, v = bar.sqrt() * x_0 + (1 - bar).sqrt() * epsilon, bar.sqrt() * epsilon - (1 - bar).sqrt() * x_0
    for loss, wanted in ((epsilon_loss, epsilon), (v_loss, v)):
        found = loss(base.schedule, lambda x, _t: 2 * x, x_0, epsilon, t)
        torch.testing.assert_close(found, (2 * x_t - wanted).square().mean((1, 2, 3)))


# --- server optimisers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "peer"),
    [
        ({"optimiser": "sgd", "momentum": 0.8}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
        ({"momentum": 0.9, "beta_2": 0.95}, lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.95))),
        (
            {"optimiser": "adamw", "momentum": 0.9, "beta_2": 0.95, "weight_decay": 0.3},
            lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.95), weight_decay=0.3),
        ),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_server_optimisers_are_torchs(options: dict[str, Any], peer: Any) -> None:
    gradients = np.random.Generator(np.random.Philox(key=2)).standard_normal((12, 5))
    ours, parameter = ServerOptimiser(OptimiserOptions(learning_rate=0.1, **options)), torch.ones(5, requires_grad=True)
    kept, theirs = ours.start(np.ones(5, dtype=np.float32)), peer([parameter])
    for gradient in gradients:
        kept = ours.advance(kept, gradient)
        parameter.grad = torch.from_numpy(gradient.astype(np.float32))
        theirs.step()
    np.testing.assert_allclose(ours.released(kept), parameter.detach().numpy(), rtol=1e-5)


def test_warm_up_raises_the_rate_and_ema_averages() -> None:
    options = OptimiserOptions(optimiser="sgd", momentum=0.0, learning_rate=1.0, warm_up=4, ema=0.5)
    ours = ServerOptimiser(options)
    kept, w, average = ours.start(np.zeros(1, dtype=np.float32)), 0.0, 0.0
    for t in range(1, 8):
        kept = ours.advance(kept, np.ones(1))
        w -= min(1.0, t / 4)
        beta = min(0.5, (1 + t) / (10 + t))
        average = beta * average + (1 - beta) * w
        assert kept[0] == pytest.approx(w)
        assert ours.released(kept)[0] == pytest.approx(average)


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "caption", "named"),
    [
        ("dp-ldm", {"blocks": ["up_block"]}, "a", ["up_block", "mid_block.attentions.0", "up_blocks.1.attentions.0"]),
        ("dp-ldm", {"blocks": []}, "a", ["blocks"]),
        ("dp-lora", {"targets": ["to_x"]}, "a", ["to_x", "attention", "conv", "to_q"]),
        ("dp-lora", {"rank": 0}, "a", ["rank"]),
        ("dp-lora", {}, "a {token}", ["learns no word"]),
        ("dp-ldm", {}, "a {token}", ["learns no word"]),
        ("dpsgd-ti", {}, "a picture", ["{token}"]),
        ("dp-lora", {"draws": 0}, "a", ["draws"]),
        ("dp-lora", {"weight_decay": 0.1}, "a", ["adamw"]),
        ("dp-lora", {"optimiser": "adamw"}, "a", ["weight_decay"]),
        ("dp-lora", {"optimizer": "adam"}, "a", ["optimiser"]),
    ],
)
def test_options_that_cannot_be_are_named(
    tiny_base: Path, name: str, options: dict[str, Any], caption: str, named: list[str]
) -> None:
    changes = {"method": {"name": name, **options}, "data.caption": caption}
    with pytest.raises((StudyError, ModelError)) as raised:
        resolve(parse_study(study_with(changes, str(tiny_base))))
    assert all(word in str(raised.value) for word in named), raised.value
    assert "\n" not in str(raised.value)


def test_rows_that_are_too_long_to_keep_are_summed(pinned: PinnedBase) -> None:
    wide = {
        part: {n: (4000, 6000) if len(s) > 1 else s for n, s in pinned.shapes(part).items()}
        for part in ("unet", "text_encoder")
    }
    large = PinnedBase(pinned.reference, None, pinned.folder, pinned.files)
    object.__setattr__(large, "shapes", wide.__getitem__)
    assert made("dp-ldm", embedder=False).sums(large)
    assert made("dp-lora", rank=256).sums(large)
    assert not made("dp-lora", rank=1).sums(pinned)
    assert not made("dp-ldm", embedder=False, blocks=["mid_block"]).sums(pinned)
    assert not made("dpagg-ti").sums(large)


@pytest.mark.parametrize("name", ["dpsgd-ti", "dp-lora", "dp-ldm"])
def test_the_clipped_sum_is_the_sum_of_clipped_rows_and_padding_counts_nothing(pinned: PinnedBase, name: str) -> None:
    base, method = load_base(pinned), made(name)  # a word makes the tokenizer longer

    def unit_(number: int) -> UnitRecords:
        return replace(unit(1, number), captions=("a <private>" if name == "dpsgd-ti" else "a picture",))

    units = [unit_(number) for number in range(4)]
    w = method.initial_state(pinned)[: method.layout(pinned).size]
    rows = method.rows(base, w, units, lambda _steps: None).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    bound = float(np.median(lengths))  # two are clipped, two are not
    batch = [unit_(0), None, unit_(2), unit_(3)]
    scale, clip_units = grid_for(bound)
    total = method.clipped_sum(base, w, batch, scale=scale, clip_units=clip_units)
    rows_kept = clip_and_quantise(rows[[0, 2, 3]], Grid(scale, clip_units, 1 << 30, 32))
    assert np.abs(total - rows_kept.sum(axis=0)).max() <= 0.001 * clip_units  # norms in float32, and a cut of each
    assert not method.clipped_sum(base, w, [None] * 4, scale=scale, clip_units=clip_units).any()


def test_blocks_and_embedder_choose_the_tensors(pinned: PinnedBase) -> None:
    def names(**options: Any) -> set[str]:
        return {name for name, _ in made("dp-ldm", **options).layout(pinned).tensors}

    everything, mid = names(), names(blocks=["mid_block"], embedder=False)
    assert mid < names(embedder=False) < everything
    assert all(name.startswith("unet.mid_block.attentions.0.") for name in mid)
    assert {"unet.mid_block.attentions.0.norm.weight", "unet.mid_block.attentions.0.proj_in.weight"} < mid
    assert "text_encoder.embeddings.token_embedding.weight" in everything
    assert not any("resnets" in name or "conv_in" in name for name in everything)


def test_lora_targets_choose_the_layers_and_convolutions_have_kernels(pinned: PinnedBase) -> None:
    def tensors(*targets: str) -> dict[str, tuple[int, ...]]:
        layout = made("dp-lora", rank=3, targets=list(targets), text=False).layout(pinned)
        return dict((*layout.tensors, *layout.fixed))

    attention, both = tensors("attention"), tensors("attention", "conv")
    assert {name.split(".lora_")[0].split(".")[-1] for name in attention} == {"to_q", "to_k", "to_v", "0"}
    assert set(attention) < set(both)
    assert both["unet.down_blocks.0.resnets.0.conv1.lora_A.weight"] == (3, 16, 3, 3)
    assert both["unet.down_blocks.0.resnets.0.conv1.lora_B.weight"] == (16, 3, 1, 1)


def test_lighter_studies_halve_draws_and_records() -> None:
    advice = [text for text, _ in made("dp-lora", draws=4, records=2).lighter()]
    assert advice == [
        "method.draws = 2 and method.records = 2",
        "method.draws = 1 and method.records = 2",
        "method.draws = 1 and method.records = 1",
    ]
    assert made("dpagg-ti").lighter() == []


def test_noise_to_signal_falls_with_the_root_of_the_rounds(tiny_base: Path) -> None:
    method = {"name": "dpsgd-ti"}

    def planned(rounds: int) -> Any:
        changes = {"method": method, "data.caption": "a {token}", "privacy.rounds": rounds, "privacy.clip_norm": 0.1}
        return resolve(parse_study(study_with(changes, str(tiny_base))))

    one, four = planned(1), planned(4)
    expected = one.privacy.noise_to_signal * (four.privacy.sigma / one.privacy.sigma) / 2
    assert four.privacy.noise_to_signal == pytest.approx(expected, rel=1e-3)
