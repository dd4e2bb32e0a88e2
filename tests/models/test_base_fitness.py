"""What a base cannot do is found when it is pinned: by `plan`, before a site is asked or anything is charged."""

import contextlib
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
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.support.images import write_folder
from tests.support.runs import SITES, call, tiny_study
from undertone.errors import ModelError
from undertone.models.base import load_base
from undertone.models.expected import EXPECTED, first_missing
from undertone.models.fitness import SCHEDULERS
from undertone.models.pinned import pin

Change = Callable[[Path], None]
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def setting(name: str, **changes: Any) -> Change:
    """Change keys of a JSON file; None takes the key out, "null" writes null."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        for key, value in changes.items():
            values[key] = value
            if value is None:
                del values[key]
        (folder / name).write_text(json.dumps(values), encoding="utf-8")

    return change


def unet(**changes: Any) -> Change:
    return setting("unet/config.json", **changes)


def scheduler(**changes: Any) -> Change:
    return setting("scheduler/scheduler_config.json", **changes)


def index(**changes: Any) -> Change:
    return setting("model_index.json", **changes)


def data(name: str, make: Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(make((folder / name).read_bytes()))

    return change


def file(name: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(value), encoding="utf-8")

    return change


def weights(name: str, make: Callable[[str, torch.Tensor], torch.Tensor]) -> Change:
    def change(folder: Path) -> None:
        values = {key: make(key, value) for key, value in load_file(folder / name).items()}
        save_file(values, folder / name, metadata={"format": "pt"})

    return change


def beyond_the_end(whole: bytes) -> bytes:
    """A header that places its last tensor behind the end of the file."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    last = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"][1])
    header[last]["data_offsets"][1] += 4096
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + whole[8 + length :]


def xl(folder: Path) -> None:
    index(
        _class_name="StableDiffusionXLPipeline",
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer_2=["transformers", "CLIPTokenizer"],
    )(folder)
    unet(addition_embed_type="text_time")(folder)


UNFIT: dict[str, tuple[Change, str]] = {
    "SDXL": (xl, "StableDiffusionXLPipeline"),
    "a second text encoder alone": (index(text_encoder_2=["transformers", "CLIPTextModel"]), "text_encoder_2"),
    "extra conditions alone": (unet(addition_embed_type="text_time"), "addition_embed_type.*Stable Diffusion XL"),
    "an inpainting pipeline": (index(_class_name="StableDiffusionInpaintPipeline"), "StableDiffusionInpaintPipeline"),
    "an inpainting unet": (unet(in_channels=9), "in_channels is 9.*inpainting"),
    "an editing unet": (unet(in_channels=8), "in_channels is 8.*edits"),
    "a unet that predicts variances": (unet(out_channels=8), "out_channels is 8"),
    "LCM": (unet(time_cond_proj_dim=256), "time_cond_proj_dim.*latent consistency"),
    "classes by number": (unet(num_class_embeds=10), "num_class_embeds.*classes"),
    "classes by projection": (unet(class_embed_type="projection"), "class_embed_type.*classes"),
    "another encoder's states": (unet(encoder_hid_dim=8), "encoder_hid_dim"),
    "a list of sizes": (unet(sample_size=[8, 8]), r"sample_size is \[8, 8\].*one number"),
    "no size": (unet(sample_size=None), "sample_size is missing"),
    "a size that is true": (unet(sample_size=True), "sample_size is True"),
    "a unet without words": (
        unet(down_block_types=["DownBlock2D"] * 2, mid_block_type="UNetMidBlock2D"),
        "attends to the words",
    ),
    "words too wide": (unet(cross_attention_dim=1024), "cross_attention_dim is 1024 and text_encoder.hidden_size is"),
    "words of two widths": (unet(cross_attention_dim=[16, 32]), r"cross_attention_dim is \[16, 32\]"),
    "sample prediction": (scheduler(prediction_type="sample"), "prediction_type is 'sample'"),
    "flow prediction": (scheduler(prediction_type="flow_prediction"), "prediction_type is 'flow_prediction'"),
    "flow matching": (
        index(scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "scheduler is a 'FlowMatchEulerDiscreteScheduler'",
    ),
    "another class in the settings": (scheduler(_class_name="EDMEulerScheduler"), "scheduler is a 'EDMEulerScheduler'"),
    "no scheduler of diffusers": (index(scheduler=["diffusers", "MyScheduler"]), "scheduler is a 'MyScheduler'.*DDIM"),
    "flow sigmas": (scheduler(use_flow_sigmas=True), "follows a flow"),
    "betas of another kind": (scheduler(beta_schedule="cosine\x1b[31m"), r"beta_schedule is 'cosine.*known are linear"),
    "no times": (scheduler(num_train_timesteps=0), "num_train_timesteps is 0"),
    "a git-lfs pointer": (
        data(UNET, lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "git-lfs pointer.*git lfs pull",
    ),
    "half of the weights": (data(UNET, lambda whole: whole[: len(whole) // 2]), f"{UNET} .* cut off"),
    "half of the header": (data(UNET, lambda whole: whole[:100]), f"{UNET} .* cut off"),
    "an empty file": (data("vae/diffusion_pytorch_model.safetensors", lambda _: b""), "vae/.* cut off"),
    "a header of 2^60 bytes": (data(UNET, lambda whole: (1 << 60).to_bytes(8, "little") + whole[8:]), "cut off"),
    "offsets beyond the end": (data(UNET, beyond_the_end), "cut off"),
    "a page in place of weights": (data(UNET, lambda _: b"<!doctype html>" + b" " * 100), "no safetensors file"),
    "integers of 8 bits": (weights(UNET, lambda _, value: value.to(torch.int8)), "quantised.*I8"),
    "floats of 8 bits": (weights(UNET, lambda _, value: value.to(torch.float8_e4m3fn)), "quantised.*F8_E4M3"),
    "quantised by its settings": (unet(quantization_config={"quant_method": "bitsandbytes"}), "quantization_config"),
    "latents of 16 channels": (setting("vae/config.json", latent_channels=16), "latent_channels is 16 and unet"),
    "moved latents": (setting("vae/config.json", shift_factor=0.1), "vae.shift_factor"),
    "grey images": (setting("vae/config.json", in_channels=1), "vae.in_channels is 1"),
    "no scale that is a number": (setting("vae/config.json", scaling_factor="big"), "scaling_factor is 'big'"),
    "no blocks of the vae": (setting("vae/config.json", block_out_channels=None), "block_out_channels is missing"),
    "no width of words": (setting("text_encoder/config.json", hidden_size=None), "hidden_size is missing"),
    "more positions than the encoder has": (
        setting("tokenizer/tokenizer_config.json", model_max_length=77),
        "model_max_length is 77.*max_position_embeddings is 16",
    ),
    "no longest caption": (
        setting("tokenizer/tokenizer_config.json", model_max_length=None),
        "model_max_length is miss",
    ),
    "weights of an inpainting model": (
        weights(UNET, lambda key, value: torch.zeros(16, 9, 3, 3) if key == "conv_in.weight" else value),
        r"conv_in.weight has the shape \[16, 9, 3, 3\]",
    ),
    "weights of another text encoder": (
        weights(UNET, lambda key, value: torch.zeros(len(value), 24) if "attn2.to_k" in key else value),
        "attn2.to_k.weight has the shape",
    ),
    "no vocabulary": (file("tokenizer/tokenizer.json", {"model": 1}), "no vocabulary"),
    "a vocabulary of another length": (setting("text_encoder/config.json", vocab_size=7), "token_embedding.weight has"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_base_is_named_when_it_is_pinned(case: str, copy: Path) -> None:
    change, says = UNFIT[case]
    pin(str(copy))
    change(copy)
    with pytest.raises(ModelError, match=says) as refused:
        pin(str(copy))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("case", ["SDXL", "half of the weights", "a list of sizes", "sample prediction"])
def test_plan_and_simulate_refuse_it_before_anything_is_written(case: str, copy: Path, tmp_path: Path) -> None:
    change, _ = UNFIT[case]
    change(copy)
    study = tiny_study(tmp_path / "study.toml", copy)
    write_folder(tmp_path / "data", 36, 32, sites=SITES)
    planned = call("plan", study)
    done = call("simulate", study, "--data", tmp_path / "data", "--split-by", "site", "--out", tmp_path / "run")
    assert (planned.exit_code, done.exit_code) == (2, 2)
    assert "ModelError" in planned.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # diffusers' own, of settings that it finds old
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_scheduler_that_is_taken_can_sample(name: str, prediction: str, copy: Path) -> None:
    made = getattr(diffusers, name)(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction
    )
    made.save_pretrained(copy / "scheduler")
    index(scheduler=["diffusers", name])(copy)
    base = load_base(pin(str(copy)))
    assert base.schedule.config.prediction_type == prediction
    (image,) = base.sample(["a picture"], [0], steps=4, guidance=1.0)
    assert np.asarray(image).std() > 0


# --- tensors that are not there ---------------------------------------------------------------------

WEIGHTS = {
    "unet": UNET,
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
SMALL_UNET = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
SMALL_VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
SMALL_ENCODER = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3}
BUILT: dict[str, tuple[str, dict[str, Any]]] = {
    "version 1": ("unet", SMALL_UNET),
    "version 2": ("unet", SMALL_UNET | {"attention_head_dim": [2, 4], "use_linear_projection": True}),
    "a layer for each": ("unet", SMALL_UNET | {"layers_per_block": [1, 3]}),
    "deep attention": ("unet", SMALL_UNET | {"transformer_layers_per_block": [2, 1]}),
    "only words": ("unet", SMALL_UNET | {"only_cross_attention": True}),
    "two kinds of words": ("unet", SMALL_UNET | {"dual_cross_attention": True}),
    "no middle": ("unet", SMALL_UNET | {"mid_block_type": None}),
    "a plain middle": ("unet", SMALL_UNET | {"mid_block_type": "UNetMidBlock2D"}),
    "other blocks": ("unet", SMALL_UNET | {"down_block_types": ("CrossAttnDownBlock2D", "AttnDownBlock2D")}),
    "other kernels": ("unet", SMALL_UNET | {"conv_in_kernel": 1, "conv_out_kernel": 5}),
    "times by Fourier": ("unet", SMALL_UNET | {"time_embedding_type": "fourier"}),
    "scale and shift": ("unet", SMALL_UNET | {"resnet_time_scale_shift": "scale_shift"}),
    "vae": ("vae", SMALL_VAE),
    "vae of three layers": ("vae", SMALL_VAE | {"layers_per_block": 3, "latent_channels": 8}),
    "vae without extras": (
        "vae",
        SMALL_VAE | {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False},
    ),
    "vae of defaults": ("vae", {}),
    "text encoder": ("text_encoder", SMALL_ENCODER),
    "text encoder of other lengths": ("text_encoder", SMALL_ENCODER | {"vocab_size": 99, "max_position_embeddings": 9}),
}


def built(part: str, values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what the libraries make of settings."""
    with torch.device("meta"):
        if part == "text_encoder":
            made = CLIPTextModel(CLIPTextConfig(**values))
        else:
            made = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[part](**values)
    return {name: tuple(value.shape) for name, value in made.state_dict().items()}


@pytest.mark.parametrize("case", BUILT)
def test_everything_that_is_expected_is_in_what_the_libraries_build(case: str) -> None:
    part, values = BUILT[case]
    shapes = built(part, values)
    for config in (values, json.loads(json.dumps(values))):
        assert first_missing(part, config, shapes) is None
        wanted = list(EXPECTED[part](config))
        assert len(wanted) >= 10
        for names, _ in wanted:
            without = {name: shape for name, shape in shapes.items() if name not in names}
            assert first_missing(part, config, without) == names[0]


def without(name: str, *keys: str) -> Change:
    def change(folder: Path) -> None:
        values = load_file(folder / name)
        for key in keys:
            del values[key]
        save_file(values, folder / name, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_tensor_that_is_missing_is_named_by_plan_with_its_file(part: str, copy: Path, tmp_path: Path) -> None:
    wanted = list(EXPECTED[part](json.loads((copy / part / "config.json").read_text(encoding="utf-8"))))
    there = load_file(copy / WEIGHTS[part]).keys()
    missing = [next(name for name in names if name in there) for names, _ in wanted]
    before = (copy / WEIGHTS[part]).read_bytes()
    for key in missing[::4] + missing[-1:]:
        without(WEIGHTS[part], key)(copy)
        with pytest.raises(ModelError, match=re.escape(WEIGHTS[part]) + ".* lacks .*" + re.escape(key)):
            pin(str(copy))
        (copy / WEIGHTS[part]).write_bytes(before)
    without(WEIGHTS[part], *missing[:1])(copy)
    planned = call("plan", tiny_study(tmp_path / "study.toml", copy))
    assert planned.exit_code == 2
    assert "lacks" in planned.stderr


def test_a_tensor_of_other_settings_is_named(copy: Path) -> None:
    setting("vae/config.json", layers_per_block=4)(copy)
    with pytest.raises(ModelError, match=r"vae/.* lacks encoder\.down_blocks\.0\.resnets\..*conv1\.weight"):
        pin(str(copy))


def test_old_names_of_the_attention_of_an_autoencoder_are_taken(copy: Path) -> None:
    """Diffusers renames them when it loads."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    values = load_file(copy / WEIGHTS["vae"])
    for new, was in old.items():
        values = {name.replace(f".{new}.", f".{was}."): value for name, value in values.items()}
    assert any(".query." in name for name in values)
    save_file(values, copy / WEIGHTS["vae"], metadata={"format": "pt"})
    load_base(pin(str(copy)))


@pytest.mark.parametrize(
    "change",
    [
        unet(layers_per_block=1 << 20),
        unet(block_out_channels=[[1], "x"]),
        unet(down_block_types=[1, {}, None]),
        setting("vae/config.json", layers_per_block=1 << 62),
        setting("vae/config.json", layers_per_block={"a": 1}),
        setting("text_encoder/config.json", num_hidden_layers=1 << 62),
        setting("text_encoder/config.json", intermediate_size="x" * 1000),
    ],
)
def test_settings_of_any_kind_end_in_an_error_or_none(change: Change, copy: Path) -> None:
    change(copy)
    with contextlib.suppress(ModelError):
        pin(str(copy))


# --- a token that the base knows --------------------------------------------------------------------


def added_by_transformers(*tokens: str) -> Change:
    """As an exported release has it: the library's own files."""

    def change(folder: Path) -> None:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        assert tokenizer.add_tokens(list(tokens)) == len(tokens)
        tokenizer.save_pretrained(folder / "tokenizer")

    return change


def vocabulary(word: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / "tokenizer" / "tokenizer.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["model"]["vocab"][word] = 90
        path.write_text(json.dumps(values), encoding="utf-8")

    return change


TOKEN = {"id": 90, "content": "<chest>", "special": False}
KNOWN: dict[str, tuple[Change, int]] = {
    "by the library": (added_by_transformers("<chest>"), 1),
    "of several vectors": (added_by_transformers("<chest>_2"), 3),
    "in capitals": (added_by_transformers("<Chest>"), 1),
    "in added_tokens.json": (file("tokenizer/added_tokens.json", {"<chest>": 90}), 1),
    "by number": (setting("tokenizer/tokenizer_config.json", added_tokens_decoder={"90": TOKEN}), 1),
    "as a special one": (file("tokenizer/special_tokens_map.json", {"additional_special_tokens": ["<chest>"]}), 1),
    "as a special object": (file("tokenizer/special_tokens_map.json", {"pad_token": TOKEN}), 1),
    "in the vocabulary": (vocabulary("<chest>"), 1),
    "in the vocabulary, at a word's end": (vocabulary("<chest></w>"), 1),
    "in the vocabulary of another file": (file("tokenizer/vocab.json", {"<chest>": 90, "picture</w>": 1}), 1),
}


@pytest.mark.parametrize("method", [{"name": "dpagg-ti", "steps": 3}, {"name": "dpsgd-ti"}])
@pytest.mark.parametrize("case", KNOWN)
def test_a_token_that_the_base_knows_is_refused_by_plan(
    case: str, method: dict[str, Any], copy: Path, tmp_path: Path
) -> None:
    change, vectors = KNOWN[case]
    study = tiny_study(tmp_path / "study.toml", copy, method=method | {"token": "<chest>", "vectors": vectors})
    planned = call("plan", study)
    assert planned.exit_code == 0, planned.output
    change(copy)
    refused = call("plan", study)
    assert refused.exit_code == 2
    assert "method.token" in refused.stderr
    assert "knows <chest>" in refused.stderr


@pytest.mark.parametrize("known", ["chest", "<chest>_1", "<chest>x", "<", "x<chest>"])
def test_words_that_only_look_alike_are_no_hindrance(known: str, copy: Path, tmp_path: Path) -> None:
    added_by_transformers(known)(copy)
    study = tiny_study(tmp_path / "study.toml", copy, method={"name": "dpagg-ti", "steps": 3, "token": "<chest>"})
    planned = call("plan", study)
    assert planned.exit_code == 0, planned.output
