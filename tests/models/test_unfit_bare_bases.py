"""Bases that are told a class or nothing, and cannot be one: each is named in one line before anything is loaded."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from undertone.errors import ModelError
from undertone.models.base import load_base
from undertone.models.expected import EXPECTED, first_missing
from undertone.models.fitness import SCHEDULERS
from undertone.models.pinned import pin

Change = Callable[[Path], None]
UNET = "unet/diffusion_pytorch_model.safetensors"


def setting(name: str, **changes: Any) -> Change:
    """Change keys of a JSON file; None takes the key out."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        (folder / name).write_text(json.dumps({key: one for key, one in values.items() if one is not None}))

    return change


def unet(**changes: Any) -> Change:
    return setting("unet/config.json", **changes)


def scheduler(**changes: Any) -> Change:
    return setting("scheduler/scheduler_config.json", **changes)


def text(name: str, value: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(value)

    return change


def data(name: str, make: Callable[[bytes], bytes]) -> Change:
    return lambda folder: (folder / name).write_bytes(make((folder / name).read_bytes())) and None


def weights(name: str, make: Callable[[str, torch.Tensor], torch.Tensor]) -> Change:
    def change(folder: Path) -> None:
        values = {key: make(key, value) for key, value in load_file(folder / name).items()}
        save_file(values, folder / name, metadata={"format": "pt"})

    return change


def removed(name: str) -> Change:
    return lambda folder: shutil.rmtree(folder / name)


UNFIT: dict[str, tuple[str, Change, str]] = {
    "no list of classes": ("class", text("classes.json", '{"cat": 0}'), "no JSON list"),
    "no JSON": ("class", text("classes.json", "cat, dog"), "no JSON list"),
    "no classes": ("class", text("classes.json", "[]"), "no JSON list"),
    "numbers": ("class", text("classes.json", "[0, 1, 2]"), "no JSON list"),
    "a list of a thousand and one": ("class", text("classes.json", json.dumps(list(map(str, range(1001))))), "1000"),
    "a list too deep": ("class", text("classes.json", "[" * 100_000), "no JSON list"),
    "a file too long": ("class", text("classes.json", " " * (1 << 20) + '["cat", "dog", "eel"]'), "longer than 1 MiB"),
    "an empty name": ("class", text("classes.json", '["", "dog", "eel"]'), "'' is not one line"),
    "a name with an escape": ("class", text("classes.json", '["\\u001b[31m", "dog", "eel"]'), "is not one line"),
    "a name with a space": ("class", text("classes.json", '["cat ", "dog", "eel"]'), "'cat ' is not one line"),
    "a name twice": ("class", text("classes.json", '["dog", "cat", "dog"]'), "'dog' stands there twice"),
    "fewer classes than rows": ("class", text("classes.json", '["dog", "cat"]'), "num_class_embeds is 4, .* has 2"),
    "more classes than rows": (
        "class",
        text("classes.json", '["a", "b", "c", "d"]'),
        "num_class_embeds is 4, .* has 4",
    ),
    "no rows of classes": ("class", unet(num_class_embeds=None), "num_class_embeds is missing"),
    "rows that are true": ("class", unet(num_class_embeds=True), "num_class_embeds is True"),
    "classes told nowhere": ("none", unet(num_class_embeds=4), "num_class_embeds is 4.*classes.json"),
    "classes as times": ("class", unet(class_embed_type="timestep"), "class_embed_type is 'timestep'"),
    "classes as they are": ("none", unet(class_embed_type="identity"), "class_embed_type is 'identity'"),
    "classes beside a pipeline": (
        "none",
        text("classes.json", '["cat"]'),
        "model_index.json .* classes.json beside it",
    ),
    "a text encoder": ("class", text("text_encoder/config.json", "{}"), "a part text_encoder"),
    "an autoencoder of another name": ("class pixels", text("vqvae/config.json", "{}"), "a part vqvae"),
    "an autoencoder that is a file": ("class pixels", text("vae", ""), "has no vae"),
    "an empty autoencoder": (
        "class",
        lambda folder: [one.unlink() for one in (folder / "vae").iterdir()] and None,
        "vae",
    ),
    "no autoencoder": ("class", removed("vae"), "in_channels is 4 and there is no autoencoder"),
    "no autoencoder of a pipeline": ("none", removed("vqvae"), "has no vqvae"),
    "no UNet": ("class", removed("unet"), "has no unet"),
    "no scheduler": ("none pixels", removed("scheduler"), "has no scheduler"),
    "a codebook": ("none", setting("model_index.json", vqvae=["diffusers", "VQModel"]), "vqvae .* is a 'VQModel'"),
    "a codebook in the settings": ("class", setting("vae/config.json", _class_name="VQModel"), "is a 'VQModel'"),
    "a UNet of words": ("class", unet(_class_name="UNet2DConditionModel"), "is a 'UNet2DConditionModel'"),
    "a UNet of no class": ("class", unet(_class_name=None), "is a None"),
    "a further part": ("none", setting("model_index.json", bert=["transformers", "BertModel"]), "a part bert"),
    "a part fewer": ("none", setting("model_index.json", scheduler=None), "has no scheduler"),
    "code of its own": ("none", setting("model_index.json", unet=["mine", "UNet2DModel"]), "unet from 'mine'"),
    "a pipeline of another kind": ("none", setting("model_index.json", _class_name="DiTPipeline"), "DiTPipeline"),
    "code by a setting": ("class", unet(auto_map={"x": "y"}), "auto_map"),
    "an adapter": ("class", text("unet/adapter_config.json", "{}"), "adapter_config.json"),
    "two sets of weights": (
        "class",
        text("unet/diffusion_pytorch_model.safetensors.index.json", "{}"),
        "two sets of weights for unet",
    ),
    "two sets of weights of an LDM": (
        "none",
        text("vqvae/diffusion_pytorch_model.safetensors.index.json", "{}"),
        "two sets of weights for vqvae",
    ),
    "no weights": ("class", lambda folder: (folder / UNET).unlink(), "no .safetensors weights"),
    "four channels of pixels": ("class pixels", unet(in_channels=4, out_channels=4), "in_channels is 4 .* 1 channel"),
    "variances": ("none pixels", unet(out_channels=6), "out_channels is 6"),
    "latents of other channels": ("class", unet(in_channels=8, out_channels=8), "latent_channels is 4 and unet"),
    "a list of sizes": ("class", unet(sample_size=[4, 4]), r"sample_size is \[4, 4\]"),
    "no size": ("none", unet(sample_size=None), "sample_size is missing"),
    "a size that cannot be halved": ("none pixels", unet(sample_size=15), "cannot be halved 1 times"),
    "times without end": ("none", unet(time_embedding_type="fourier"), "time_embedding_type is 'fourier'"),
    "places as times": ("none", unet(resnet_time_scale_shift="spatial"), "resnet_time_scale_shift is 'spatial'"),
    "blocks that skip": ("class", unet(down_block_types=["SkipDownBlock2D"] * 2), "SkipDownBlock2D.*known are"),
    "blocks of words": ("class", unet(up_block_types=["CrossAttnUpBlock2D"] * 2), "CrossAttnUpBlock2D"),
    "too few blocks": ("class", unet(down_block_types=["DownBlock2D"]), "one for each level"),
    "blocks that are none": ("class", unet(down_block_types=[{}, None]), "one for each level"),
    "another middle": ("class", unet(mid_block_type="UNetMidBlock2DCrossAttn"), "mid_block_type"),
    "channels that are none": ("class", unet(block_out_channels=[[8], "x"]), "block_out_channels"),
    "layers without end": ("class", unet(layers_per_block=1 << 20), "layers_per_block is 1048576"),
    "moved latents": ("class", setting("vae/config.json", shift_factor=0.1), "vae.shift_factor"),
    "grey latents": (
        "none",
        lambda folder: setting("vqvae/config.json", in_channels=1)(folder),
        "vae.in_channels is 1",
    ),
    "cut latents": ("class", scheduler(clip_sample=True), "clip_sample is True, which cuts latents"),
    "cut latents by default": ("none", scheduler(clip_sample=None), "clip_sample is True, which cuts latents"),
    "another scheduler": ("class", scheduler(_class_name="EDMEulerScheduler"), "scheduler is a 'EDMEulerScheduler'"),
    "no scheduler's name": ("class pixels", scheduler(_class_name=None), "scheduler is a"),
    "sample prediction": ("class", scheduler(prediction_type="sample"), "prediction_type is 'sample'"),
    "quantised by its settings": ("class", unet(quantization_config={"a": 1}), "quantization_config"),
    "integers of 8 bits": ("class", weights(UNET, lambda _, value: value.to(torch.int8)), "quantised.*I8"),
    "half of the weights": ("none", data(UNET, lambda whole: whole[: len(whole) // 2]), f"{UNET} .* cut off"),
    "a git-lfs pointer": (
        "class",
        data(UNET, lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "git-lfs pointer",
    ),
    "rows of another base": (
        "class",
        weights(UNET, lambda key, value: value[:3].clone() if key == "class_embedding.weight" else value),
        r"lacks class_embedding.weight of the shape \[4, 32\]",
    ),
    "an autoencoder of other settings": ("class", setting("vae/config.json", layers_per_block=4), "vae/.* lacks"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_base_is_named_in_one_line_when_it_is_pinned(name: str, copy: Callable[[str], Path]) -> None:
    case, change, says = UNFIT[name]
    folder = copy(case)
    change(folder)
    with pytest.raises(ModelError, match=says) as raised:
        pin(str(folder))
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_a_folder_of_neither_says_what_a_base_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model_index\.json: a base model is a folder .* classes\.json"):
        pin(str(tmp_path))


@pytest.mark.parametrize("case", ["class", "class pixels", "none"])
def test_a_tensor_that_is_missing_is_named_with_its_file(case: str, copy: Callable[[str], Path]) -> None:
    folder = copy(case)
    whole = load_file(folder / UNET)
    wanted = [names[0] for names, _ in EXPECTED["bare_unet"](json.loads((folder / "unet/config.json").read_text()))]
    assert ("class_embedding.weight" in wanted) == case.startswith("class")
    for key in {*wanted[::6], "class_embedding.weight", "mid_block.attentions.0.to_q.weight"} & set(wanted):
        save_file({name: value for name, value in whole.items() if name != key}, folder / UNET, {"format": "pt"})
        with pytest.raises(ModelError, match=re.escape(UNET) + ".* lacks " + re.escape(key)):
            pin(str(folder))


def test_a_tensor_that_is_not_expected_and_missing_is_found_when_it_is_loaded(copy: Callable[[str], Path]) -> None:
    folder = copy("class")
    whole = load_file(folder / UNET)
    del whole["down_blocks.0.resnets.0.norm1.bias"]
    save_file(whole, folder / UNET, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack unet\.down_blocks\.0\.resnets\.0\.norm1\.bias"):
        load_base(pin(str(folder)))


def test_a_base_that_mixes_a_batch_is_refused(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = UNet2DModel.from_pretrained

    def mixing(*args: Any, **options: Any) -> UNet2DModel:
        found = whole(*args, **options)
        found.mid_block.resnets[0].norm1 = torch.nn.BatchNorm2d(16)
        return found

    monkeypatch.setattr(UNet2DModel, "from_pretrained", mixing)
    with pytest.raises(ModelError, match="batch normalisation"):
        load_base(pin(str(bases["class"])))


BUILT: list[dict[str, Any]] = [
    {},
    {"num_class_embeds": 5, "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    | {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "layers_per_block": 3, "sample_size": 8},
    {"mid_block_type": None, "in_channels": 1, "out_channels": 1},
    {"add_attention": False, "resnet_time_scale_shift": "scale_shift", "time_embedding_dim": 24, "num_class_embeds": 2},
]


@pytest.mark.parametrize("values", BUILT)
def test_everything_that_is_expected_is_in_what_the_library_builds(values: dict[str, Any]) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(one.shape) for name, one in UNet2DModel(**values).state_dict().items()}
    assert first_missing("bare_unet", json.loads(json.dumps(values)), shapes) is None
    for names, _ in EXPECTED["bare_unet"](values):
        without = {name: shape for name, shape in shapes.items() if name not in names}
        assert first_missing("bare_unet", values, without) == names[0]


@pytest.mark.parametrize(
    ("case", "name"), [*(("class", name) for name in SCHEDULERS), *(("none pixels", name) for name in SCHEDULERS[:2])]
)
def test_every_scheduler_that_is_taken_can_sample(case: str, name: str, copy: Callable[[str], Path]) -> None:
    folder = copy(case)
    named = {"_class_name": name, "prediction_type": "epsilon", "clip_sample": False, "rescale_betas_zero_snr": False}
    scheduler(**named)(folder)
    if (folder / "model_index.json").exists():
        setting("model_index.json", scheduler=["diffusers", name])(folder)
    base = load_base(pin(str(folder)))
    assert isinstance(base.pipeline.scheduler, getattr(diffusers, name))
    prompts = ["cat", "dog"] if case == "class" else ["", ""]
    both = base.sample(prompts, [3, 4], steps=4, guidance=1.5)
    alone = base.sample(prompts[1:], [4], steps=4, guidance=1.5)
    assert np.abs(np.asarray(both[1]).astype(int) - np.asarray(alone[0])).max() <= 1


def test_a_ddpm_with_old_names_of_its_attention_is_a_base(copy: Callable[[str], Path]) -> None:
    """As diffusers wrote them before 2023: it renames them when it loads, and a layout has the new names."""
    folder = copy("none pixels")
    scheduler(_class_name="DDPMScheduler", prediction_type="epsilon", rescale_betas_zero_snr=False)(folder)
    setting("model_index.json", _class_name="DDPMPipeline", scheduler=["diffusers", "DDPMScheduler"])(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    values = load_file(folder / UNET)
    for new, was in old.items():
        values = {name.replace(f".{new}.", f".{was}."): value for name, value in values.items()}
    assert any(".proj_attn." in name for name in values)
    save_file(values, folder / UNET, metadata={"format": "pt"})
    base = load_base(pin(str(folder)))
    named = {name: tuple(one.shape) for name, one in base.pipeline.unet.named_parameters()}
    assert base.pinned.shapes("unet") == dict(sorted(named.items()))
    first, again = (base.sample([""], [2], steps=3, guidance=1.0)[0] for _ in range(2))
    assert np.array_equal(np.asarray(first), np.asarray(again))
