"""Finding, pinning and loading a base model: what lacks a part is refused by name, and nothing else is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from undertone.core.captions import placeholders
from undertone.errors import ModelError, PlanChanged
from undertone.methods.weights import attach, read_weights
from undertone.models.base import _refuse_batch_mixing, load_base
from undertone.models.kinds import PARTS
from undertone.models.pinned import check_pins, pin
from undertone.models.tokens import RowTokens


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def index(folder: Path, **changes: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_pinned_base_knows_what_planning_asks(tiny_base: Path) -> None:
    base = pin(str(tiny_base))
    assert (base.embedding_width, base.image_size, base.licence) == (16, 32, "apache-2.0")
    assert "README.md" not in base.files
    assert all((tiny_base / name).is_file() for name in base.files)


def test_an_embedding_read_without_torch_is_the_encoders(tiny_base: Path) -> None:
    base = pin(str(tiny_base))
    loaded = load_base(base)
    number = loaded.pipeline.tokenizer("picture").input_ids[1]
    weight = loaded.pipeline.text_encoder.get_input_embeddings().weight[number]
    np.testing.assert_array_equal(base.embedding_of("Picture"), weight.detach().numpy())
    with pytest.raises(ModelError, match="not a single word"):
        base.embedding_of("elephant")


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        pin(str(tmp_path))


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ModelError, match=f"has no {part}"):
        pin(str(copy))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_the_index_does_not_name(copy: Path, part: str) -> None:
    index(copy, **{part: None})
    with pytest.raises(ModelError, match=f"has no {part}"):
        pin(str(copy))


@pytest.mark.parametrize(("part", "other"), [("unet", "UNet3DConditionModel"), ("text_encoder", "T5EncoderModel")])
def test_a_part_of_another_class_is_named(copy: Path, part: str, other: str) -> None:
    index(copy, **{part: ["library", other]})
    with pytest.raises(ModelError, match=f"the {part} of .* is a {other}"):
        pin(str(copy))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_can_run_code_are_refused(copy: Path, part: str) -> None:
    (weights,) = (copy / part).glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=f"the {part} of .* no .safetensors"):
        pin(str(copy))


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_an_unreadable_index_is_named(copy: Path, text: str) -> None:
    (copy / "model_index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"model_index\.json"):
        pin(str(copy))


@pytest.mark.parametrize("name", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_a_changed_file_is_not_the_plans(copy: Path, name: str) -> None:
    planned = pin(str(copy))
    check_pins(pin(str(copy)), planned.files)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(PlanChanged, match=name):
        check_pins(pin(str(copy)), planned.files)


def test_an_added_file_is_not_the_plans(copy: Path) -> None:
    planned = pin(str(copy))
    (copy / "tokenizer" / "added_tokens.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PlanChanged, match=r"added_tokens\.json"):
        check_pins(pin(str(copy)), planned.files)


def test_half_precision_weights_are_loaded_as_floats(copy: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        (path,) = (copy / part).glob("*.safetensors")
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path.with_name(path.stem + ".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    base = pin(str(copy))
    assert all(".fp16." in name for name in base.files if name.endswith(".safetensors"))
    assert base.embedding_of("picture").dtype == np.float32
    loaded = load_base(base)
    assert {parameter.dtype for parameter in loaded.pipeline.unet.parameters()} == {torch.float32}


def test_a_base_that_cannot_be_loaded_is_a_model_error(copy: Path) -> None:
    settings = copy / "unet" / "config.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace("DownBlock2D", "NoBlock2D"), encoding="utf-8")
    settings.write_text(settings.read_text(encoding="utf-8").replace("CrossAttnNo", "CrossAttnDown"), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(pin(str(copy)))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("unet/diffusion_pytorch_model", "conv_out.bias"),
        ("vae/diffusion_pytorch_model", "decoder.conv_out.bias"),
        ("text_encoder/model", "final_layer_norm.bias"),
    ],
)
def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(copy: Path, file: str, name: str) -> None:
    """Those that `plan` does not look for: see test_base_fitness."""
    path = copy / f"{file}.safetensors"
    values = load_file(path)
    save_file({key: value for key, value in values.items() if not key.endswith(name)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lack .*{name}"):
        load_base(pin(str(copy)))


def test_a_layer_that_mixes_a_batch_is_refused() -> None:
    mixing = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    with pytest.raises(ModelError, match="batch normalisation"):
        _refuse_batch_mixing(mixing, "a base")
    _refuse_batch_mixing(torch.nn.Sequential(torch.nn.GroupNorm(1, 1)), "a base")


def test_a_loaded_base_is_frozen_and_in_eval_mode(tiny_base: Path) -> None:
    loaded = load_base(pin(str(tiny_base)))
    for part in (loaded.pipeline.unet, loaded.pipeline.vae, loaded.pipeline.text_encoder):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_an_image_has_the_same_latents_in_any_batch(tiny_base: Path) -> None:
    loaded = load_base(pin(str(tiny_base)))
    images = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    together = loaded.encode(images)
    assert together.shape == (5, *loaded.latent_shape)
    for number in range(5):
        np.testing.assert_allclose(loaded.encode(images[number : number + 1])[0], together[number], atol=1e-5)


def test_a_sample_depends_on_its_seed_alone(tiny_base: Path) -> None:
    loaded = load_base(pin(str(tiny_base)))
    together = loaded.sample(["a picture"] * 3, [5, 6, 7], steps=2, guidance=1.0)
    alone = loaded.sample(["a picture"], [6], steps=2, guidance=1.0)
    difference = np.abs(np.asarray(together[1], dtype=int) - np.asarray(alone[0], dtype=int))
    assert difference.max() <= 1
    assert np.asarray(together[0]).tobytes() != np.asarray(together[1]).tobytes()


def test_weights_of_another_kind_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    loaded = load_base(pin(str(tiny_base)))
    with pytest.raises(ModelError, match="learned_embeds"):
        attach(loaded, {"other.safetensors": {}})
    with pytest.raises(ModelError, match="holds no weights"):
        read_weights(tmp_path)
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path)


def test_placeholders_of_two_studies_live_in_one_base(tiny_base: Path) -> None:
    """One token, then two of the same name: each caption still becomes the tokens it should."""
    loaded = load_base(pin(str(tiny_base)))
    one = RowTokens(loaded, ["<x>"], 1)
    two = RowTokens(loaded, ["<x>"], 2)
    other = RowTokens(loaded, ["<y>"], 1)
    assert placeholders("<x>", 3) == ["<x>", "<x>_1", "<x>_2"]
    assert one.ids[0] == two.ids[0]
    ids = two.tokenise(["a <x>, mass"])[0].tolist()
    assert [token for token in ids if token in two.ids] == two.ids
    assert other.ids[0] in other.tokenise(["a <y>"])[0].tolist()
    assert [token for token in one.tokenise(["a <x>"])[0].tolist() if token in two.ids] == one.ids
