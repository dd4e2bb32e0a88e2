"""Each kind of release: simulated, verified, drawn from, exported, and loaded by stock diffusers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.support.gradient_studies import gradient_study
from tests.support.images import write_folder
from tests.support.runs import SITES, call, coordinator_of
from undertone.methods.weights import attach, read_weights
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import pin
from undertone.study.plan import Plan
from undertone_cli.commands.export import export, export_file

PROMPT = "a picture, mass"


@pytest.fixture(scope="module", params=["dp-lora", "dp-ldm", "dpsgd-ti"])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    study = gradient_study(folder, tiny_base, request.param, SITES, 2)
    result = call("simulate", study, "--data", folder / "data", "--split-by", "site", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run" / "release"


def method_of(release: Path) -> str:
    (name,) = {path.name for path in release.glob("*.safetensors")}
    return {"pytorch_lora_weights.safetensors": "dp-lora", "delta.safetensors": "dp-ldm"}.get(name, "dpsgd-ti")


@torch.no_grad()
def predicted(pipeline: Any, prompt: str) -> torch.Tensor:
    text = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    x_t = torch.from_numpy(np.random.Generator(np.random.Philox(key=8)).standard_normal((1, 4, 8, 8), dtype=np.float32))
    found: torch.Tensor = pipeline.unet(x_t, 600, encoder_hidden_states=text).sample
    return found


def adapted(base: Path, release: Path) -> LoadedBase:
    loaded = load_base(pin(str(base)))
    attach(loaded, read_weights(release))
    return loaded


def stock(base: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(base, safety_checker=None).to("cpu")


def prompt_for(release: Path) -> str:
    return "a <private>, mass" if method_of(release) == "dpsgd-ti" else PROMPT


def test_stock_diffusers_loads_the_release(release: Path, tiny_base: Path) -> None:
    kind, pipeline = method_of(release), stock(tiny_base)
    before = predicted(pipeline, PROMPT)
    if kind == "dp-lora":
        pipeline.load_lora_weights(release, weight_name="pytorch_lora_weights.safetensors")
    elif kind == "dpsgd-ti":
        pipeline.load_textual_inversion(release / "learned_embeds.safetensors")
    else:
        for name, delta in load_file(release / "delta.safetensors").items():
            part, _, tensor = name.partition(".")
            getattr(pipeline, part).state_dict()[tensor] += torch.from_numpy(delta)  # the model's own storage
    after = predicted(pipeline, prompt_for(release))
    torch.testing.assert_close(after, predicted(adapted(tiny_base, release).pipeline, prompt_for(release)))
    assert not torch.allclose(after, before, atol=1e-4)


def test_an_exported_pipeline_is_base_and_release_together(release: Path, tiny_base: Path, tmp_path: Path) -> None:
    export(release, tmp_path / "pipeline")
    assert (tmp_path / "pipeline" / "privacy.json").is_file()
    found = predicted(stock(tmp_path / "pipeline"), prompt_for(release))
    expected = predicted(adapted(tiny_base, release).pipeline, prompt_for(release))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert call("export", release, "--out", tmp_path / "pipeline").exit_code == 2  # it exists
    assert call("export", tmp_path, "--out", tmp_path / "other").exit_code == 2  # no release


@pytest.mark.parametrize("release", ["dp-lora"], indirect=True)
def test_diffusers_own_converter_reads_the_kohya_file_back(release: Path, tiny_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "adapters.safetensors"
    result = call("export", release, "--format", "kohya", "--out", file)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    pipeline, expected = stock(tiny_base), stock(tiny_base)
    before = predicted(pipeline, PROMPT)
    pipeline.load_lora_weights(file)
    expected.load_lora_weights(release, weight_name="pytorch_lora_weights.safetensors")
    found = adapters_in(pipeline)
    assert found.keys() == adapters_in(expected).keys()
    assert {name.split(".")[0] for name in found} == {"unet", "text_encoder"}
    for name, tensor in adapters_in(expected).items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0)
    torch.testing.assert_close(predicted(pipeline, PROMPT), predicted(expected, PROMPT), atol=0, rtol=0)
    assert not torch.allclose(predicted(pipeline, PROMPT), before, atol=1e-4)


@pytest.mark.parametrize("release", ["dp-ldm", "dpsgd-ti"], indirect=True)
def test_a_release_without_adapters_makes_no_kohya_file(release: Path, tmp_path: Path) -> None:
    result = call("export", release, "--format", "kohya", "--out", tmp_path / "x.safetensors")
    assert result.exit_code == 2
    assert "which no file of kohya holds: leave --format out" in result.stderr
    assert not list(tmp_path.iterdir())


def adapters_in(pipeline: Any) -> dict[str, torch.Tensor]:
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    named = {f"{part}.{name}": one for part, module in parts.items() for name, one in module.named_parameters()}
    return {name: one for name, one in named.items() if ".lora_" in name}


@pytest.mark.parametrize("release", ["dp-lora"], indirect=True)
def test_the_kohya_file_says_whose_it_is_and_carries_the_statement(
    release: Path, tiny_base: Path, tmp_path: Path
) -> None:
    export_file(release, tmp_path / "x.safetensors", "kohya")
    with safe_open(tmp_path / "x.safetensors", framework="np") as stream:
        said, held = stream.metadata(), sorted(stream.keys())
        alphas = {float(stream.get_tensor(name)) for name in held if name.endswith(".alpha")}
    assert said["undertone_privacy"].encode() == (release / "privacy.json").read_bytes()
    assert said["undertone_plan"] == Plan.from_bytes((release / "plan.json").read_bytes()).digest
    assert (said["base_model"], said["ss_network_module"]) == (str(tiny_base), "networks.lora")
    assert (said["ss_network_dim"], said["ss_network_alpha"], alphas) == ("2", "2", {2.0})
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert {f"{one}.{end}" for one in (layer, text) for end in ("lora_down.weight", "lora_up.weight", "alpha")} <= {
        *held
    }
    export_file(release, tmp_path / "y.safetensors", "kohya")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


@pytest.mark.parametrize("release", ["dp-lora"], indirect=True)
@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--out", "folder"], "ends in .safetensors"),
        (["--out", "there.safetensors"], "exists already"),
        (["--out", "x.safetensors", "--base", "."], "needs no base model"),
    ],
)
def test_a_kohya_file_that_cannot_be_written_is_refused(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    result = call("export", release, "--format", "kohya", *more)
    assert result.exit_code == 2
    assert why in result.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("there.safetensors", b"mine")]


def test_the_release_verifies_and_its_card_says_how_to_load_it(release: Path) -> None:
    assert call("verify", release, *coordinator_of(release.parent)).exit_code == 0
    card = (release / "README.md").read_text(encoding="utf-8")
    words = {"dp-lora": "load_lora_weights", "dp-ldm": "undertone export", "dpsgd-ti": "load_textual_inversion"}
    assert words[method_of(release)] in card


def test_generate_makes_a_labelled_folder(release: Path, tmp_path: Path) -> None:
    classes = ["--class", "clear", "a picture, clear", "--class", "mass", "a picture, mass"]
    result = call("generate", release, *classes, "-n", 2, "--steps", 2, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    with (tmp_path / "images" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["clear", "clear", "mass", "mass"]
    assert {path.parent.name for path in (tmp_path / "images").rglob("*.png")} == {"clear", "mass"}
    for row in rows:
        picture = Image.open(tmp_path / "images" / row["file_name"])
        assert picture.info["Synthetic"].startswith("yes")
        assert (row["file_name"].split("/")[0], row["synthetic"]) == (row["label"], "yes")
    assert len({row["seed"] for row in rows}) == 4


@pytest.mark.parametrize("wanted", [[], ["--prompt", "a", "--class", "x", "a"], ["--class", "../x", "a"]])
def test_generate_refuses_what_it_cannot_label(release: Path, tmp_path: Path, wanted: list[str]) -> None:
    result = call("generate", release, *wanted, "--out", tmp_path / "images")
    assert result.exit_code == 2
    assert not (tmp_path / "images").exists()


@pytest.mark.slow
def test_evaluate_takes_each_kind(release: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "real", 8, 32, first=900)
    found = tmp_path / "found.json"
    options = ("-n", 8, "--steps", 1, "--random-directions", 1, "--json", found)
    result = call("evaluate", release, "--real", tmp_path / "real", *options)
    assert result.exit_code == 0, result.output
    (rows,) = json.loads(found.read_text(encoding="utf-8"))["distances"].values()
    assert list(rows) == ["real images", "before", "after", "random direction 1"]
    assert len({row["fid"] for row in rows.values()}) == 4
