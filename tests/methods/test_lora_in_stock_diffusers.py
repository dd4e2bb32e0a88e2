"""What `dp-lora` releases, alone and beside a learned word, in a pipeline that is built by stock diffusers alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from undertone.methods.lora.public_a import public_a
from undertone.methods.lora.release import ADAPTER_FILE, LORA
from undertone.methods.registry import method_for
from undertone.methods.textual_inversion.release import EMBEDS
from undertone.methods.weights import attach, format_in, read_weights
from undertone.models.base import load_base
from undertone.models.file_metadata import named_for
from undertone.models.pinned import PinnedBase, pin

BOTH = ["unet", "text_encoder"]
PLAIN, WORD = "a picture, mass", "a <private>, mass"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with the weights of two studies: adapters, and a word."""
    folder, pinned = tmp_path_factory.mktemp("releases"), pin(str(tiny_base))
    for name, options in (("dp-lora", {"rank": 2, "targets": ["attention", "conv"]}), ("dpsgd-ti", {})):
        for file, tensors in moved(pinned, name, options).items():
            held = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
            (folder / file).write_bytes(named_for(save(held), str(tiny_base)))
    return folder


def moved(pinned: PinnedBase, name: str, options: dict[str, Any]) -> Any:
    """The weights of a study that moved each value of w by some 0.2."""
    method = method_for(name, options)
    w = method.released(method.initial_state(pinned))
    return method.weights(pinned, w + np.float32(0.3) * public_a("a study", (2, w.size)).sum(0))


def stock(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any, prompt: str) -> NDArray[np.float32]:
    """An image [h, w, 3] of values in [0, 1], by two steps without guidance."""
    (image,) = pipeline(
        prompt,
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    found: NDArray[np.float32] = image.astype(np.float32)
    return found


def differ(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return float(np.abs(one - other).max()) > 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_adapters_and_a_word_load_into_one_pipeline_and_both_show(
    tiny_base: Path, releases: Path, dtype: torch.dtype
) -> None:
    pipeline = stock(tiny_base, dtype)
    plain = drawn(pipeline, PLAIN)
    pipeline.load_lora_weights(releases, weight_name=LORA)
    with_lora = drawn(pipeline, PLAIN)
    pipeline.load_textual_inversion(releases / EMBEDS)
    np.testing.assert_allclose(drawn(pipeline, PLAIN), with_lora, atol=0)  # a word that no prompt says changes nothing
    with_both = drawn(pipeline, WORD)
    assert differ(plain, with_lora)
    assert differ(with_lora, with_both)
    assert {parameter.dtype for part in BOTH for parameter in getattr(pipeline, part).parameters()} == {dtype}
    exact = stock(tiny_base)
    exact.load_lora_weights(releases, weight_name=LORA)
    exact.load_textual_inversion(releases / EMBEDS)
    np.testing.assert_allclose(with_both, drawn(exact, WORD), atol=1e-6 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("part", BOTH)
def test_the_adapters_of_each_part_show(tiny_base: Path, releases: Path, part: str) -> None:
    pipeline, tensors = stock(tiny_base), load_file(releases / LORA)
    plain = drawn(pipeline, PLAIN)
    pipeline.load_lora_weights({name: torch.tensor(one) for name, one in tensors.items() if name.startswith(part)})
    assert differ(plain, drawn(pipeline, PLAIN))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_fusing_both_parts_keeps_what_is_drawn(tiny_base: Path, releases: Path, dtype: torch.dtype) -> None:
    pipeline = stock(tiny_base, dtype)
    pipeline.load_textual_inversion(releases / EMBEDS)
    plain = drawn(pipeline, WORD)
    pipeline.load_lora_weights(releases, weight_name=LORA)
    before = drawn(pipeline, WORD)
    pipeline.fuse_lora(components=BOTH)
    pipeline.unload_lora_weights()
    assert not any("lora" in name for part in BOTH for name, _ in getattr(pipeline, part).named_parameters())
    np.testing.assert_allclose(drawn(pipeline, WORD), before, atol=1e-4 if dtype == torch.float32 else 0.02)
    assert differ(plain, before)


def test_attached_and_fused_as_stock_diffusers_does(tiny_base: Path, releases: Path, tmp_path: Path) -> None:
    """`attach` and `fuse` are what `generate` and `export` do."""
    expected = stock(tiny_base)
    expected.load_lora_weights(releases, weight_name=LORA)
    (tmp_path / LORA).write_bytes((releases / LORA).read_bytes())
    base = load_base(pin(str(tiny_base)))
    attach(base, read_weights(tmp_path))
    np.testing.assert_allclose(drawn(base.pipeline, PLAIN), drawn(expected, PLAIN), atol=1e-6)
    format_in(tmp_path).fuse(base)
    base.pipeline.save_pretrained(tmp_path / "whole")
    assert not list((tmp_path / "whole").rglob("adapter*"))
    np.testing.assert_allclose(drawn(stock(tmp_path / "whole"), PLAIN), drawn(expected, PLAIN), atol=1e-4)


def test_every_layer_is_read_back_from_a_kohya_file(tiny_base: Path) -> None:
    """By the converter of diffusers, whose rules go by parts of names: adapters on every layer that can have some."""
    pinned = pin(str(tiny_base))
    weights = [name for name, shape in pinned.shapes("unet").items() if len(shape) > 1 and name.endswith(".weight")]
    released = moved(pinned, "dp-lora", {"rank": 2, "targets": [name.removesuffix(".weight") for name in weights]})
    respelled = ADAPTER_FILE.respelled("kohya", released)
    assert respelled is not None
    assert len(respelled.tensors) == 3 * (len(weights) + 4)
    found, expected = stock(tiny_base), stock(tiny_base)
    found.load_lora_weights({name: torch.tensor(one) for name, one in respelled.tensors.items()})
    expected.load_lora_weights({name: torch.tensor(one) for name, one in released[LORA].items()})
    for part in BOTH:
        held = dict(getattr(found, part).named_parameters())
        for name, tensor in getattr(expected, part).named_parameters():
            torch.testing.assert_close(held.pop(name), tensor, atol=0, rtol=0)
        assert not held
    np.testing.assert_array_equal(drawn(found, PLAIN), drawn(expected, PLAIN))
    assert ADAPTER_FILE.respelled("another", released) is None
