"""`undertone pretrain`: the same curve after any stop, stock folders at the end, one-line errors before the start."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDIMScheduler, LDMPipeline, StableDiffusionPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from tests.support.pretraining import Fatal, Stopped, stop, write_config
from tests.support.runs import call
from undertone.core.progress import reporting
from undertone.errors import DataError, FolderError, InputError, ModelError, PlanChanged, StudyError
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.pretraining.alignment import Aligned, Alignment, public_targets
from undertone.pretraining.card import model_card
from undertone.pretraining.config import load_config
from undertone.pretraining.dataset import PublicSet
from undertone.pretraining.pretrain import favoured
from undertone.pretraining.tokenizer import build_tokenizer, common_words
from undertone.public_images.procedural import SHARES, draw
from undertone.training.denoisers import ClassToImage, build_scheduler, v_loss
from undertone.training.initial_weights import initialise
from undertone.training.loop import Course, _pick, rate
from undertone_cli.commands.pretrain import pretrain

ROOT = Path(__file__).parents[2]
CURVES = ("vae.losses.csv", "unet.losses.csv")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """A run that nothing stopped."""
    out = config.parent / "out"
    pretrain(config, out, device="cpu")
    return out


def curves(out: Path) -> dict[str, bytes]:
    return {name: (out / "checkpoints" / name).read_bytes() for name in CURVES}


def weights(out: Path) -> dict[str, bytes]:
    pipeline = out / "pipeline"
    return {str(path.relative_to(pipeline)): path.read_bytes() for path in sorted(pipeline.rglob("*.safetensors"))}


@pytest.mark.parametrize(("label", "after"), [("vae", 4), ("encoding", 20), ("unet", 3)])
def test_a_run_stopped_anywhere_has_the_curve_of_one_that_was_not(
    config: Path, finished: Path, tmp_path: Path, label: str, after: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped), reporting(Fatal(label, after, stop)):
        pretrain(config, out, device="cpu")
    assert not (out / "pipeline").exists()
    pretrain(config, out, resume=True, device="cpu")
    assert curves(out) == curves(finished)
    assert weights(out) == weights(finished)


def test_a_curve_has_every_step_and_depends_on_the_seed(config: Path, finished: Path, tmp_path: Path) -> None:
    lines = (finished / "checkpoints" / "unet.losses.csv").read_text().splitlines()
    assert lines[0] == "step,loss"
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 7))
    other = write_config(tmp_path)
    other.write_text(other.read_text().replace('name = "small"', 'name = "small"\nseed = 2'))
    with pytest.raises(Stopped), reporting(Fatal("encoding", 1, stop)):
        pretrain(other, tmp_path / "out", device="cpu")
    first = (tmp_path / "out" / "checkpoints" / "vae.losses.csv").read_bytes()
    assert first.count(b"\n") == 7
    assert first != curves(finished)["vae.losses.csv"]


@pytest.mark.slow
def test_processes_killed_at_three_points_leave_the_curve_as_it_is(config: Path, finished: Path) -> None:
    out = config.parent / "killed"
    for label, after in (("vae", 4), ("encoding", 1), ("unet", 3), ("none", 1)):
        command = [sys.executable, "-m", "tests.support.pretraining", str(config), str(out), label, str(after)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == (0 if label == "none" else -signal.SIGKILL), ended.stderr
    assert curves(out) == curves(finished)
    assert weights(out) == weights(finished)


def test_latents_are_encoded_once_for_one_autoencoder(config: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "checkpoints" / "unet.checkpoint").unlink()
    (kept,) = (out / "checkpoints").glob("latents-*.npy")
    with reporting(Fatal("encoding", 1, stop)):
        pretrain(config, out, resume=True, device="cpu")  # would be stopped where it encodes
    assert weights(out) == weights(finished)
    kept.write_bytes(kept.read_bytes()[:-40] + bytes(40))
    with pytest.raises(Stopped), reporting(Fatal("encoding", 1, stop)):
        pretrain(config, out, resume=True, device="cpu")
    # Another autoencoder, of fewer steps, has latents of its own.
    (out / "checkpoints" / "vae.checkpoint").unlink()
    for path in (config, out / "config.toml"):
        assert "steps = 6" in path.read_text()
    fewer = write_config(tmp_path)
    fewer.write_text(config.read_text().replace("steps = 6", "steps = 5", 1))
    shutil.copyfile(fewer, out / "config.toml")
    with pytest.raises(Stopped), reporting(Fatal("encoding", 1, stop)):
        pretrain(fewer, out, resume=True, device="cpu")


# --- what is picked how often


def test_images_of_favoured_words_are_picked_more_often() -> None:
    captions = ["a red star", "a star at the left", "a circle"]
    assert favoured(captions, {"left": 6, "star": 2}).tolist() == [2, 6, 1]
    with pytest.raises(StudyError, match="no caption holds stair"):
        favoured(captions, {"stair": 2})


def test_picking_follows_the_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    picked = torch.cat([_pick(3, 500, torch.tensor([1.0, 6.0, 1.0]), generator) for _ in range(20)])
    shares = torch.bincount(picked, minlength=3) / len(picked)
    assert torch.allclose(shares, torch.tensor([0.125, 0.75, 0.125]), atol=0.015)
    alike = torch.bincount(_pick(3, 10_000, None, generator), minlength=3) / 10_000
    assert torch.allclose(alike, torch.full((3,), 1 / 3), atol=0.02)


# --- alignment


@pytest.fixture(scope="module")
def aligned(config: Path) -> Path:
    """The same configuration with an aligned UNet."""
    path = config.with_name("aligned.toml")
    path.write_text(config.read_text().replace('kind = "text"', 'kind = "text"\nalign = 0.5\nfavour = { bar = 2 }'))
    return path


def test_an_aligned_run_leaves_a_stock_model_and_resumes_to_the_bit(
    aligned: Path, finished: Path, tmp_path: Path
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain(aligned, whole, device="cpu")
    with pytest.raises(Stopped), reporting(Fatal("unet", 3, stop)):
        pretrain(aligned, halves, device="cpu")
    pretrain(aligned, halves, resume=True, device="cpu")
    assert curves(halves) == curves(whole) != curves(finished)
    assert weights(halves) == weights(whole) != weights(finished)
    for name in weights(finished):
        assert load_file(whole / "pipeline" / name).keys() == load_file(finished / "pipeline" / name).keys()


def test_the_card_of_drawn_images_has_their_shares_and_the_alignment() -> None:
    card = model_card(load_config(ROOT / "examples" / "pretrain-tiny.toml"), 40_000)
    assert sum(SHARES.values()) == pytest.approx(1)
    for words in ("24% are grey drawings", "32% digits", "26% shapes", "18% textures", "8% carry", "20% one noun"):
        assert words in card
    assert "aligned with Undertone's public encoder, weight 0.5" in card
    assert "steps t = T u^1.5" in card


def test_the_distance_of_features_is_that_of_their_angle() -> None:
    maps = torch.randn(5, 7, 4, 4, generator=torch.Generator().manual_seed(2))
    alignment = Alignment(maps.half(), 0.5)
    chosen = torch.tensor([3, 1])
    assert float(alignment.distance(7 * maps[chosen], chosen)) == pytest.approx(0, abs=1e-4)
    assert float(alignment.distance(-maps[chosen], chosen)) == pytest.approx(2, abs=1e-4)
    assert float(alignment.distance(maps[[1, 3]], chosen)) > 0.5
    pooled = torch.nn.functional.avg_pool2d(maps[chosen], 2)  # a middle of fewer places
    assert float(alignment.distance(pooled, chosen)) == pytest.approx(0, abs=1e-3)


def test_the_middle_of_an_aligned_unet_learns_to_foretell_the_features() -> None:
    """Without the alignment's share of the gradient it does not."""
    generator = torch.Generator().manual_seed(4)
    targets = torch.randn(6, 12, 2, 2, generator=generator).half()
    latents, told = torch.randn(6, 4, 4, 4, generator=generator), torch.zeros(6, 1, dtype=torch.int64)
    ends = {}
    for weight in (0.0, 1.0):
        model = ClassToImage(0, 4, channels=(16, 32))
        initialise(model, torch.Generator().manual_seed(5))
        whole = Aligned(model, alignment := Alignment(targets, weight), torch.Generator().manual_seed(6))
        optimiser = torch.optim.Adam(whole.parameters(), 3e-3)
        for _ in range(80):
            v, found = whole(latents, torch.zeros(6), told)
            far = alignment.distance(found, torch.arange(6))
            torch.autograd.backward(v.square().mean() + weight * far)
            optimiser.step()
            optimiser.zero_grad()
        ends[weight] = float(far.detach())
    assert ends[1.0] < 0.3 < 0.7 < ends[0.0]


def test_targets_are_standardised_features_of_each_image() -> None:
    images = [draw(12, index, 64) for index in range(30)]
    data = PublicSet(np.stack([image.pixels for image in images]), [image.caption for image in images])
    found = public_targets(data).float()
    assert found.shape == (30, 112, 4, 4)
    alive = found.std(dim=(0, 2, 3)) > 0.5  # a channel may never fire on thirty images
    assert alive.float().mean() > 0.8
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(112), atol=0.01, rtol=0)
    alone = public_targets(PublicSet(data.pixels[:15], data.captions[:15])).float()
    torch.testing.assert_close(  # one affine map apart: each image's are its own
        torch.corrcoef(torch.stack([alone[:, 3].flatten(), found[:15, 3].flatten()]))[0, 1],
        torch.tensor(1.0),
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.slow
def test_a_compiled_unet_learns_what_a_plain_one_learns(config: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(config.parent / "images", tmp_path / "images")
    compiled = tmp_path / "config.toml"
    compiled.write_text(config.read_text().replace('kind = "text"', 'kind = "text"\ncompile = true'))
    pretrain(compiled, tmp_path / "out", device="cpu")
    plain, fused = (_losses(out, "unet") for out in (finished, tmp_path / "out"))
    np.testing.assert_allclose(fused, plain, rtol=1e-3)
    assert weights(tmp_path / "out").keys() == weights(finished).keys()


@pytest.mark.parametrize("time_power", [1.0, 1.5])
def test_the_steps_that_a_denoiser_learns_at_crowd_as_told(time_power: float) -> None:
    """u^p with u uniform lies below x with probability x^(1/p)."""
    asked: list[torch.Tensor] = []

    def denoiser(z_t: torch.Tensor, t: torch.Tensor, _told: torch.Tensor) -> torch.Tensor:
        asked.append(t)
        return z_t

    z, told = torch.zeros(40_000, 1, 1, 1), torch.zeros(40_000, 1, dtype=torch.int64)
    v_loss(denoiser, build_scheduler(), z, told, torch.Generator().manual_seed(1), time_power)
    (t,) = asked
    assert 0 <= int(t.min()) <= int(t.max()) <= 999
    for share in (0.1, 0.4, 0.8):
        below = float((t < 1000 * share).float().mean())
        assert abs(below - share ** (1 / time_power)) < 0.01
        assert abs(below - share ** (1 / (2.5 - time_power))) > 0.01  # the other power's law


def _losses(out: Path, stage: str) -> list[float]:
    lines = (out / "checkpoints" / f"{stage}.losses.csv").read_text().splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


def test_a_text_model_is_a_stock_pipeline_and_a_base(finished: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(finished / "pipeline", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a white bar", height=16, width=16, num_inference_steps=2).images[0]
    assert image.size == (16, 16)
    assert pipeline.tokenizer.tokenize("a white bar , number 2") == [
        word + "</w>" for word in ("a", "white", "bar", ",", "number", "2")
    ]
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pin(str(finished / "pipeline")).image_size == 16
    card = (finished / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert 'license: "unknown"' in card
    assert "6 steps of 4" in card
    assert (finished / "samples.png").is_file()
    assert any((finished / "checkpoints" / "events").iterdir())


def test_a_model_that_is_told_nothing_is_a_stock_pipeline(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pretrain(write_config(tmp_path, kind="none"), out, device="cpu")
    pipeline = LDMPipeline.from_pretrained(out / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2).images[0].size == (16, 16)
    base = load_base(pin(str(out / "pipeline")))
    assert (base.pinned.kind, base.latent_shape) == ("none", (4, 8, 8))
    assert (out / "samples.png").is_file()
    path = write_config(tmp_path / "again", kind="class")  # its autoencoder is as good as that of a text base
    path.write_text(path.read_text().replace("[autoencoder]", f'[autoencoder]\nbase = "{out / "pipeline"}"'))
    pretrain(path, tmp_path / "taken", device="cpu")
    held = weights(tmp_path / "taken")["vae/diffusion_pytorch_model.safetensors"]
    assert held == weights(out)["vqvae/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
    ("kind", "denoises", "shape"), [("class", "grey", (1, 16, 16)), ("none", "pixels", (3, 16, 16))]
)
def test_a_model_of_pixels_is_a_base_without_an_autoencoder(
    tmp_path: Path, kind: str, denoises: str, shape: tuple[int, ...]
) -> None:
    out, path = tmp_path / "out", write_config(tmp_path, kind=kind)
    whole = path.read_text()
    start, end = whole.index("[autoencoder]"), whole.index("[unet]")
    path.write_text(whole[:start] + whole[end:].replace("[unet]", f'[unet]\ndenoises = "{denoises}"'))
    pretrain(path, out, device="cpu")
    base = load_base(pin(str(out / "pipeline")))
    assert (base.pinned.kind, base.latent_shape, base.image_size) == (kind, shape, 16)
    assert base.pinned.parts == {"unet", "scheduler"}
    assert base.labels == ({"bar": 0, "box": 1} if kind == "class" else {})
    card = (out / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "autoencoder" not in card
    assert "vae" not in card
    assert ("one channel" in card) == (denoises == "grey")
    if kind == "none":
        pipeline = DDIMPipeline.from_pretrained(out / "pipeline")
        pipeline.set_progress_bar_config(disable=True)
        x = pipeline(num_inference_steps=2, output_type="np").images
        assert x.shape == (1, 16, 16, shape[0])
    taken = write_config(tmp_path / "taken")
    taken.write_text(taken.read_text().replace("[autoencoder]", f'[autoencoder]\nbase = "{out / "pipeline"}"'))
    with pytest.raises(ModelError, match="and has no autoencoder"):
        pretrain(taken, tmp_path / "no", device="cpu")


def test_a_model_that_is_told_a_class_is_its_stock_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pretrain(write_config(tmp_path, kind="class"), out, device="cpu")
    folder = out / "pipeline"
    assert json.loads((folder / "classes.json").read_text()) == ["bar", "box"]
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert AutoencoderKL.from_pretrained(folder, subfolder="vae").config.latent_channels == 4
    assert DDIMScheduler.from_pretrained(folder, subfolder="scheduler").config.rescale_betas_zero_snr
    z = torch.zeros(1, 4, 8, 8)
    with torch.no_grad():
        said = [unet(z, 500, class_labels=torch.tensor([number])).sample for number in range(3)]
    assert not torch.equal(said[0], said[1])
    assert not torch.equal(said[1], said[2])
    base = load_base(pin(str(folder)))
    assert (base.pinned.kind, base.labels) == ("class", {"bar": 0, "box": 1})
    (image,) = base.sample(["box"], [1], steps=2, guidance=2.0)
    assert image.size == (16, 16)
    assert (out / "samples.png").is_file()


def test_a_finished_autoencoder_can_be_taken_over(finished: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    base = finished / "pipeline"
    path.write_text(path.read_text().replace("[autoencoder]", f'[autoencoder]\nbase = "{base}"'))
    out = tmp_path / "out"
    pretrain(path, out, device="cpu")
    assert (
        weights(out)["vae/diffusion_pytorch_model.safetensors"]
        == weights(finished)["vae/diffusion_pytorch_model.safetensors"]
    )
    assert not (out / "checkpoints" / "vae.checkpoint").exists()


def test_the_rate_rises_and_falls_to_nothing() -> None:
    course = Course(steps=100, batch=1, learning_rate=2.0, warm_up=10)
    rates = [rate(course, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_every_word_of_the_captions_is_one_token() -> None:
    captions = ["A chest x-ray, 2 views", "Pleural effusion (left)"]
    tokenizer = build_tokenizer(common_words(captions), 24)
    words = ["a", "chest", "x", "-", "ray", ",", "2", "views", "pleural", "effusion", "(", "left", ")"]
    assert [piece for caption in captions for piece in tokenizer.tokenize(caption)] == [f"{w}</w>" for w in words]


# --- errors


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 6", "step = 6", "did you mean steps"),
        ('kind = "text"', 'kind = "words"', "unet.kind"),
        ("[data]", "[dat]", "did you mean data"),
        ("size = 16", "size = 18\n", "cannot be halved|too small"),
        ("channels = [8, 16]", "channels = [8, 16, 16, 16, 16]", "too small"),
        ("channels = [8, 16]", "channels = [10, 16]", "autoencoder.channels"),
        ('caption = "{text}"', 'caption = "{text"', "not a template"),
        ('name = "small"', "", "pretrain.name is missing"),
        ('folder = "images"', "", "class_column goes with data.folder"),
        ("[pretrain]", "[[pretrain]", "not valid TOML"),
        ('kind = "text"', 'kind = "text"\ndenoises = "pixels"', 'go with unet.kind = "class" or "none"'),
        ('kind = "text"', 'kind = "none"\ndenoises = "grey"', r"leave \[autoencoder\] out"),
        ('kind = "text"', 'kind = "text"\ndenoises = "noise"', "unet.denoises"),
    ],
)
def test_a_bad_configuration_says_what_is_wrong(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = write_config(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StudyError, match=words):
        load_config(path)


def test_classes_need_a_column(tmp_path: Path) -> None:
    path = write_config(tmp_path, kind="class")
    path.write_text(path.read_text().replace('class_column = "shape"', ""))
    with pytest.raises(StudyError, match=r"needs data\.class_column"):
        load_config(path)
    path.write_text(path.read_text().replace("[data]", '[data]\nclass_column = "form"'))
    with pytest.raises(DataError, match='no column "form"'):
        pretrain(path, tmp_path / "out", device="cpu")


def test_one_class_is_too_few(tmp_path: Path) -> None:
    path = write_config(tmp_path, kind="class")
    metadata = path.parent / "images" / "metadata.csv"
    metadata.write_text(metadata.read_text().replace(",box", ",bar"))
    with pytest.raises(DataError, match="1 classes in the data"):
        pretrain(path, tmp_path / "out", device="cpu")
    metadata.write_text(metadata.read_text().replace(",bar", f",{'x' * 65}", 1))
    with pytest.raises(DataError, match="is not one line of 1 to 64"):
        pretrain(path, tmp_path / "named", device="cpu")


def test_bad_pictures_are_named_before_anything_is_written(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    (path.parent / "images" / "003.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"003\.png"):
        pretrain(path, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_caption_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace('caption = "{text}"', 'caption = "{words}"'))
    with pytest.raises(DataError, match='no column "words"'):
        pretrain(path, tmp_path / "out", device="cpu")


def test_a_folder_is_neither_overwritten_nor_resumed_with_something_else(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(FolderError, match="--resume"):
        pretrain(config, finished, device="cpu")
    with pytest.raises(FolderError, match=r"cannot|not a folder"):
        pretrain(config, tmp_path / "nothing", resume=True, device="cpu")
    other = write_config(tmp_path / "other")
    other.write_text(other.read_text() + "\n# changed\n")
    with pytest.raises(PlanChanged, match="restore it"):
        pretrain(other, finished, resume=True, device="cpu")


def test_other_images_cannot_resume_a_run(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(Stopped), reporting(Fatal("vae", 3, stop)):
        pretrain(path, out, device="cpu")
    (path.parent / "images" / "000.png").write_bytes((path.parent / "images" / "001.png").read_bytes())
    with pytest.raises(PlanChanged, match="images or captions"):
        pretrain(path, out, resume=True, device="cpu")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(Stopped), reporting(Fatal("vae", 3, stop)):
        pretrain(path, out, device="cpu")
    checkpoint = out / "checkpoints" / "vae.checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"vae\.checkpoint cannot be resumed"):
        pretrain(path, out, resume=True, device="cpu")


def test_the_command_says_bad_input_in_one_line(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("steps = 6", "step = 6", 1))
    ended = call("pretrain", str(path), "--out", str(tmp_path / "out"))
    assert ended.exit_code == 2
    assert "did you mean steps" in ended.stderr


# --- the documentation


def test_the_examples_are_configurations_and_the_page_shows_the_folder_one() -> None:
    names = [load_config(path).pretrain.name for path in sorted((ROOT / "examples").glob("pretrain-*.toml"))]
    assert names == ["kinds", "my-base", "letters", "embedded:tiny"]
    page = (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")
    example = ROOT / "examples" / "pretrain-folder.toml"
    assert example.read_text(encoding="utf-8") in page
    # Its autoencoder is that of the base that ships, so its pictures must be of that base's size.
    assert load_config(example).data.size == pin("embedded:tiny").image_size


@pytest.mark.slow
def test_two_hundred_images_as_the_page_says(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    lines = ["file_name,text"]
    for number in range(200):
        drawn = draw(77, number, pin("embedded:tiny").image_size)
        Image.fromarray(drawn.pixels).save(images / f"{number:04d}.png")
        lines.append(f"{number:04d}.png,{drawn.caption}")
    (images / "metadata.csv").write_text("\n".join(lines) + "\n")
    shutil.copyfile(ROOT / "examples" / "pretrain-folder.toml", tmp_path / "pretrain.toml")
    out = tmp_path / "runs" / "my-base"
    ended = call("pretrain", tmp_path / "pretrain.toml", "--out", out, "--device", "cpu")
    assert ended.exit_code == 0, ended.output
    losses = _losses(out, "unet")
    assert len(losses) == 250
    assert sum(losses[-50:]) < 0.7 * sum(losses[:50])
    base = load_base(pin(str(out / "pipeline")))
    assert base.image_size == pin("embedded:tiny").image_size
    assert pin(str(out / "pipeline")).licence == "cc0-1.0"
    samples = np.stack(
        [np.asarray(image) for image in base.sample(["a chest", "a digit"], [1, 2], steps=5, guidance=2)]
    )
    assert samples.std() > 10
