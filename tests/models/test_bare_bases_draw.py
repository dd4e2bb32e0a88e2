"""Bases that are told a class or nothing encode, predict and draw as the stock parts of diffusers do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDIMScheduler, LDMPipeline, UNet2DModel

from tests.models.conftest import CASES, CLASSES
from undertone.errors import ModelError
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import pin


def images(count: int, *, grey: bool = False) -> np.ndarray:
    drawn = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return drawn[..., :1].repeat(3, axis=3) if grey else drawn


@pytest.mark.parametrize("case", CASES)
def test_decode_is_the_reverse_of_encode(case: str, loaded: dict[str, LoadedBase]) -> None:
    base = loaded[case]
    taken = images(3, grey=case.endswith("grey"))
    latents = base.encode(taken)
    assert latents.shape == (3, *base.latent_shape)
    assert latents.dtype == np.float32
    seen = base.decode(latents)
    assert seen.shape == taken.shape
    assert seen.dtype == np.uint8
    if base.pipeline.vae is None:
        np.testing.assert_array_equal(seen, taken)
        assert latents.min() >= -1
        assert latents.max() <= 1


def test_a_grey_base_takes_the_mean_of_the_colours(loaded: dict[str, LoadedBase]) -> None:
    taken = images(2)
    seen = loaded["class grey"].decode(loaded["class grey"].encode(taken))
    assert (seen == seen[..., :1]).all()
    assert np.abs(seen[..., 0] - taken.astype(float).mean(3)).max() <= 0.51


@pytest.mark.parametrize("case", CASES)
def test_what_is_predicted_is_the_stock_units_output(
    case: str, bases: dict[str, Path], loaded: dict[str, LoadedBase]
) -> None:
    base, stock = loaded[case], UNet2DModel.from_pretrained(bases[case] / "unet")
    x, t = torch.randn(3, *base.latent_shape), torch.tensor([1, 500, 999])
    condition = base.conditions(["dog", "", "cat"])
    if case.startswith("class"):
        assert condition.tolist() == [1, 3, 0]
        wanted = stock(x, t, class_labels=torch.tensor([1, 3, 0])).sample
    else:
        assert condition is None
        wanted = stock(x, t).sample
    torch.testing.assert_close(base.predict(x, t, condition), wanted)


def test_a_caption_that_is_no_class_is_refused_with_those_that_are(loaded: dict[str, LoadedBase]) -> None:
    with pytest.raises(ModelError, match="'a cat' is none: cat, dog, eel"):
        loaded["class"].conditions(["cat", "a cat"])


def test_an_ldm_draws_what_the_stock_pipeline_draws(bases: dict[str, Path], loaded: dict[str, LoadedBase]) -> None:
    ours = loaded["none"].sample(["", ""], [5, 6], steps=3, guidance=1.0)
    noise = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    stock = LDMPipeline.from_pretrained(bases["none"])(batch_size=2, generator=noise, num_inference_steps=3).images
    assert max(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() for a, b in zip(ours, stock, strict=True)) <= 1


def test_a_base_of_pixels_draws_what_the_stock_pipeline_draws(
    bases: dict[str, Path], loaded: dict[str, LoadedBase]
) -> None:
    ours = loaded["none pixels"].sample(["", ""], [5, 6], steps=3, guidance=4.0)
    noise = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    stock = DDIMPipeline.from_pretrained(bases["none pixels"])(
        batch_size=2, generator=noise, num_inference_steps=3
    ).images
    assert max(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() for a, b in zip(ours, stock, strict=True)) <= 1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_class_is_drawn_with_guidance_away_from_the_null_label(
    guidance: float, bases: dict[str, Path], loaded: dict[str, LoadedBase]
) -> None:
    """Written out with stock parts."""
    folder, x = bases["class"], torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(9))
    unet_, vae = UNet2DModel.from_pretrained(folder / "unet"), AutoencoderKL.from_pretrained(folder / "vae")
    steps = DDIMScheduler.from_pretrained(folder / "scheduler")
    steps.set_timesteps(3)
    with torch.no_grad():
        for t in steps.timesteps:
            told, null = (unet_(x, t, class_labels=torch.tensor([label])).sample for label in (2, 3))
            x = steps.step(null + guidance * (told - null), t, x).prev_sample
        wanted = ((vae.decode(x).sample / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    (ours,) = loaded["class"].sample(["eel"], [9], steps=3, guidance=guidance)
    assert np.abs(np.asarray(ours).astype(float) - wanted).max() <= 1


@pytest.mark.parametrize("case", ["class", "class grey", "none"])
def test_an_image_follows_from_its_own_seed_whatever_the_batch(case: str, loaded: dict[str, LoadedBase]) -> None:
    names = list(CLASSES) * 2 if case.startswith("class") else [""] * 6
    whole = loaded[case].sample(names, list(range(6)), steps=3, guidance=2.0)
    parts = loaded[case].sample(names, list(range(6)), steps=3, guidance=2.0, batch=4)
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    assert len({np.asarray(one).tobytes() for one in whole}) == 6


def test_a_release_may_put_its_own_drawer_and_labels_in_place(bases: dict[str, Path]) -> None:
    base = load_base(pin(str(bases["class"])))
    asked: list[Any] = []

    def drawer(prompts: Any, generators: Any, *, steps: int, guidance: float) -> list[Any]:
        asked.append((list(prompts), [one.initial_seed() for one in generators], steps, guidance))
        return [None] * len(prompts)

    base.drawer = drawer
    base.sample(["cat", "7", "dog"], [4, 5, 6], steps=2, guidance=1.5, batch=2)
    assert asked == [(["cat", "7"], [4, 5], 2, 1.5), (["dog"], [6], 2, 1.5)]
    base.name_classes(["9", "dog", "1"])
    assert base.labels == {"9": 2, "dog": 1, "1": 0}
    assert base.conditions(["9", "", "1"]).tolist() == [2, 3, 0]


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_the_same_base_again(case: str, loaded: dict[str, LoadedBase], tmp_path: Path) -> None:
    loaded[case].pipeline.save_pretrained(tmp_path / "again", safe_serialization=True)
    again = load_base(pin(str(tmp_path / "again")))
    assert (again.pinned.kind, again.pinned.classes) == (loaded[case].pinned.kind, loaded[case].pinned.classes)
    for name, part in loaded[case].pipeline.modules.items():
        for one, other in zip(part.parameters(), again.pipeline.modules[name].parameters(), strict=True):
            assert torch.equal(one, other)
