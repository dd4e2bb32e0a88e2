"""Adapters: A frozen or trained, in the UNet alone or in the text encoder too, and what a release may hold."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from undertone.core.canonical import sha256_hex
from undertone.errors import UnfitWeights
from undertone.gradients.engine import UnitBatch
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.unit_gradients import _losses
from undertone.methods.lora.method import DPLoRA
from undertone.methods.lora.public_a import public_a
from undertone.methods.lora.release import LORA
from undertone.methods.protocol import UnitRecords
from undertone.methods.registry import method_for
from undertone.methods.weights import check_weights
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin

Tensors = dict[str, NDArray[np.float32]]
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def pinned(tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


def made(**options: Any) -> GradientMethod:
    method = method_for("dp-lora", {"rank": 2, "alpha": 4, "draws": 2, **options})
    assert isinstance(method, DPLoRA)
    return method


def names(method: GradientMethod, pinned: PinnedBase, part: str) -> set[str]:
    return {name for name, _ in getattr(method.layout(pinned), part)}


def units(count: int) -> list[UnitRecords]:
    latents = np.random.Generator(np.random.Philox(key=9)).standard_normal((count, 1, 4, 8, 8), dtype=np.float32)
    randomness = [np.random.Generator(np.random.Philox(key=number)) for number in range(count)]
    return [UnitRecords(one, ("a picture",), generator) for one, generator in zip(latents, randomness, strict=True)]


def state_of(method: GradientMethod, pinned: PinnedBase) -> NDArray[np.float32]:
    """The first w, its B moved off zero by values that follow from their names."""
    layout = method.layout(pinned)
    start = layout.unflatten(method.initial_state(pinned)[: layout.size])
    return layout.flatten({name: value + public_a(f"moved {name}", value.shape) for name, value in start.items()})


def test_w_holds_b_alone_and_with_a_trained_both(pinned: PinnedBase) -> None:
    frozen, trained = made(), made(freeze_a=False)
    a, b = (names(frozen, pinned, part) for part in ("fixed", "tensors"))
    assert all(name.endswith(".lora_A.weight") for name in a)
    assert {name.replace("lora_B", "lora_A") for name in b} == a
    assert names(trained, pinned, "tensors") == a | b
    assert not trained.layout(pinned).fixed
    start = trained.layout(pinned).unflatten(trained.initial_state(pinned)[: trained.layout(pinned).size])
    for name, shape in frozen.layout(pinned).fixed:
        np.testing.assert_array_equal(start[name], public_a(name, shape))


def test_the_text_encoders_attention_has_adapters_under_the_names_of_stock_files(pinned: PinnedBase) -> None:
    text = {name for name in names(made(), pinned, "tensors") if name.startswith("text_encoder.")}
    layer = "text_encoder.text_model.encoder.layers.0.self_attn"
    assert text == {f"{layer}.{one}_proj.lora_B.weight" for one in ("q", "k", "v", "out")}
    assert names(made(text=False), pinned, "tensors") == names(made(), pinned, "tensors") - text


def test_the_public_draw_is_the_same_bits_for_ever_and_of_deviation_one_over_r() -> None:
    drawn = public_a(f"{LAYER}.lora_A.weight", (2, 3, 1, 1))
    assert sha256_hex(drawn.tobytes()) == "fe45715dc45ea22bdb38e8ab04622a8dd6bfda1cb0609c56a5932cd223f2ecf9"
    many = public_a("x", (4, 50_000))
    assert abs(float(many.mean())) < 0.002
    assert float(many.std()) == pytest.approx(1 / 4, rel=0.01)
    assert np.abs(many).max() > 1  # four deviations
    assert not np.array_equal(many, public_a("y", (4, 50_000)))


@pytest.mark.parametrize("options", [{}, {"freeze_a": False}, {"targets": ["conv"], "freeze_a": False}])
def test_rows_are_plain_autograds(base: LoadedBase, pinned: PinnedBase, options: dict[str, Any]) -> None:
    method = made(**options)
    w, (one,) = state_of(method, pinned), units(1)
    (row,) = method.rows(base, w, units(1), lambda _steps: None)
    with method._trained(base, w) as inside:
        parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
        named = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}
        inside_of = {name: named[inside_name(name)] for name, _ in method.layout(pinned).tensors}
        losses, batch = _losses(base, inside, [one], method.options)
        found = torch.autograd.grad((losses() * batch.weight_of_row).sum(), list(inside_of.values()))
    expected = torch.cat([gradient.reshape(-1) for gradient in found]).numpy()
    np.testing.assert_allclose(row, expected, atol=2e-5 * np.abs(expected).max())
    for name, gradient in method.layout(pinned).unflatten(row).items():
        assert np.abs(gradient).max() > 0, name


def inside_name(released: str) -> str:
    return released.replace(".text_model", "").replace(".weight", ".undertone.weight")


def test_frozen_a_leaves_bs_gradient_as_it_is(base: LoadedBase, pinned: PinnedBase) -> None:
    frozen, trained = made(), made(freeze_a=False)
    found = frozen.layout(pinned).unflatten(frozen.rows(base, state_of(frozen, pinned), units(1), lambda _: None)[0])
    layout = trained.layout(pinned)
    moved = layout.unflatten(state_of(trained, pinned)) | {
        name: public_a(name, shape) for name, shape in frozen.layout(pinned).fixed
    }
    both = layout.unflatten(trained.rows(base, layout.flatten(moved), units(1), lambda _steps: None)[0])
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, both[name], atol=1e-7)


def test_captions_reach_the_adapters_of_the_text_encoder(base: LoadedBase, pinned: PinnedBase) -> None:
    """With B moved, text states differ from the base's; after the context they are the base's again."""
    method, batch = made(), UnitBatch(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64), 1)
    with made(text=False)._trained(base, state_of(made(text=False), pinned)) as inside:
        before = inside.condition(["a picture"], batch)
    with method._trained(base, state_of(method, pinned)) as inside:
        during = inside.condition(["a picture"], batch)
    with made(text=False)._trained(base, state_of(made(text=False), pinned)) as inside:
        torch.testing.assert_close(inside.condition(["a picture"], batch), before, atol=0, rtol=0)
    assert not torch.allclose(before, during, atol=1e-3)


def test_a_context_that_cannot_begin_leaves_the_base_as_it_was(
    base: LoadedBase, pinned: PinnedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made()
    before = [name for part in (base.pipeline.unet, base.pipeline.text_encoder) for name, _ in part.named_parameters()]
    refused = MemoryError("no room")

    def full(*_arguments: object) -> None:
        raise refused

    monkeypatch.setattr("undertone.methods.lora.adapters.GradientEngine", full)
    with pytest.raises(MemoryError), method._trained(base, state_of(method, pinned)):
        pass
    after = [name for part in (base.pipeline.unet, base.pipeline.text_encoder) for name, _ in part.named_parameters()]
    assert before == after


# --- what a release may hold ----------------------------------------------------------------------


def planned(method: GradientMethod, pinned: PinnedBase) -> Any:
    layout = method.layout(pinned)
    options = method.options.model_dump(mode="json")
    return SimpleNamespace(name="dp-lora", options=options, dimension=layout.size, layout_digest=layout.digest)


def changed(name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: np.ascontiguousarray(change(tensors[name]))}


def one_bit(a: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = a.copy()
    bits.view(np.uint32).reshape(-1)[5] ^= 1
    return bits


HOSTILE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a bit of A": (changed(f"{LAYER}.lora_A.weight", one_bit), "to_q.lora_A.weight is not the public draw"),
    "a bit of the text's A": (changed(f"{TEXT_LAYER}.lora_A.weight", one_bit), "is not the public draw"),
    "A of other inputs": (changed(f"{LAYER}.lora_A.weight", lambda a: a[:, 1:]), "not what dp-lora releases"),
    "A is missing": (lambda held: {k: v for k, v in held.items() if k != f"{LAYER}.lora_A.weight"}, "not what dp-lora"),
    "no A": (lambda held: {k: v for k, v in held.items() if "lora_B" in k}, "not what dp-lora releases"),
    "one A more": (
        lambda held: {**held, "unet.x.lora_A.weight": public_a("unet.x.lora_A.weight", (2, 3))},
        "not what dp-lora releases",
    ),
    "no text": (lambda held: {k: v for k, v in held.items() if not k.startswith("text")}, "not what dp-lora releases"),
    "B of another layer": (
        lambda held: {k.replace("attn1.to_q", "attn1.to_x"): v for k, v in held.items()},
        "not what dp-lora releases",
    ),
}


def write(folder: Path, tensors: Tensors) -> Path:
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / LORA)
    return folder


@pytest.mark.parametrize("options", [{}, {"freeze_a": False}, {"text": False}], ids=["frozen", "trained", "no text"])
def test_what_a_plan_releases_is_accepted(tmp_path: Path, pinned: PinnedBase, options: dict[str, Any]) -> None:
    method = made(**options)
    released = method.weights(pinned, state_of(method, pinned))[LORA]
    check_weights(write(tmp_path, dict(released)), planned(method, pinned))


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_else_rides_in_a_release(tmp_path: Path, pinned: PinnedBase, name: str) -> None:
    method, (change, reason) = made(), HOSTILE[name]
    released = dict(method.weights(pinned, state_of(method, pinned))[LORA])
    with pytest.raises(UnfitWeights, match=reason):
        check_weights(write(tmp_path, change(released)), planned(method, pinned))


def test_a_trained_a_is_no_release_of_a_plan_that_freezes_it(tmp_path: Path, pinned: PinnedBase) -> None:
    trained = made(freeze_a=False)
    write(tmp_path, dict(trained.weights(pinned, state_of(trained, pinned))[LORA]))
    with pytest.raises(UnfitWeights, match="is not the public draw"):
        check_weights(tmp_path, planned(made(), pinned))
