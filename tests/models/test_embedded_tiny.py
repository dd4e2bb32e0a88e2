"""embedded:tiny is a stock pipeline that knows its words, and the public images behind it are reproducible."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from undertone import models
from undertone.errors import InputError
from undertone.models.pinned import pin
from undertone.pretraining.tokenizer import build_tokenizer
from undertone.pretraining.vae import VaeShape, build_vae, to_unit_range, whiten
from undertone.public_images.procedural import NEUTRAL_CAPTION, NEUTRAL_SHARE, WORDS, captions, draw
from undertone.public_images.wording import words_of

FOLDER = Path(models.__file__).parent / "embedded" / "tiny"
FRESH = 2026  # a series that training did not see
SIZE = pin("embedded:tiny").image_size


def load() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is too small for more, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load()


def sample(pipeline: StableDiffusionPipeline, prompt: str, count: int, guidance: float = 2.0) -> NDArray[np.float32]:
    """Images [count, SIZE, SIZE, 3] in 0..255."""
    images = pipeline(
        prompt,
        height=SIZE,
        width=SIZE,
        num_inference_steps=10,
        guidance_scale=guidance,
        num_images_per_prompt=count,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    return 255 * images


def tint(images: NDArray[np.float32]) -> float:
    """Mean distance of the strongest from the weakest channel, levels of 256."""
    return float((images.max(axis=-1) - images.min(axis=-1)).mean())


# --- the files


def test_folder_is_small_and_holds_no_pickle() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert "apache-2.0" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_weights_are_stored_in_half_precision_and_are_finite() -> None:
    for path in FOLDER.rglob("*.safetensors"):
        for name, weight in load_file(path).items():
            assert weight.dtype == torch.float16, (path, name)
            assert torch.isfinite(weight).all(), (path, name)


def test_no_file_names_the_machine_that_made_it() -> None:
    for path in FOLDER.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


def test_all_parts_load_in_one_precision_without_asking(pipeline: StableDiffusionPipeline) -> None:
    parts = (pipeline.vae, pipeline.text_encoder, pipeline.unet)
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float32}
    assert pipeline.safety_checker is None


# --- words


def test_every_caption_word_is_one_token(pipeline: StableDiffusionPipeline) -> None:
    assert len(WORDS) < 120
    for word in WORDS:
        assert pipeline.tokenizer.tokenize(word) == [word + "</w>"]
    for caption in captions(FRESH, range(300), 16):
        assert set(words_of(caption)) <= set(WORDS)
        assert len(pipeline.tokenizer.tokenize(caption)) == len(words_of(caption))


def test_shipped_tokenizer_is_the_one_the_words_build(pipeline: StableDiffusionPipeline) -> None:
    built = build_tokenizer(WORDS, pipeline.tokenizer.model_max_length)
    assert built.get_vocab() == pipeline.tokenizer.get_vocab()


def test_unknown_words_fall_back_to_bytes(pipeline: StableDiffusionPipeline) -> None:
    tokens = pipeline.tokenizer.tokenize("Pneumothorax, no\u00efve")
    assert len(tokens) > 3
    assert pipeline.tokenizer.unk_token not in tokens


def test_placeholder_bound_to_a_word_draws_what_the_word_draws(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    chest = pipeline.tokenizer.convert_tokens_to_ids("chest</w>")
    vector = pipeline.text_encoder.get_input_embeddings().weight[chest].detach().clone()
    save_file({"<organ>": vector[None]}, tmp_path / "learned_embeds.safetensors")
    bound = load()
    bound.load_textual_inversion(tmp_path, weight_name="learned_embeds.safetensors")
    by_word = sample(pipeline, "a picture of a bright phantom of a chest", 2)
    by_placeholder = sample(bound, "a picture of a bright phantom of a <organ>", 2)
    np.testing.assert_array_equal(by_placeholder, by_word)


# --- what it draws


@pytest.mark.parametrize("organ", ["chest", "knee"])
def test_phantoms_are_grey(pipeline: StableDiffusionPipeline, organ: str) -> None:
    assert tint(sample(pipeline, f"a picture of a phantom of a {organ}", 8)) < 12


def test_tone_words_change_the_brightness(pipeline: StableDiffusionPipeline) -> None:
    bright = sample(pipeline, "a picture of a bright phantom of a chest", 8).mean()
    dark = sample(pipeline, "a picture of a dark phantom of a chest", 8).mean()
    assert bright > dark + 30


def test_colour_words_change_the_colour(pipeline: StableDiffusionPipeline) -> None:
    red, _, blue = sample(pipeline, "a picture of a black digit one on red", 8).mean(axis=(0, 1, 2))
    assert red > blue + 50


@pytest.mark.parametrize(("word", "bound"), [("phantom", 28.0), ("soft", 28.0)])
def test_autoencoder_keeps_fresh_public_images(pipeline: StableDiffusionPipeline, word: str, bound: float) -> None:
    x = to_unit_range(torch.from_numpy(_fresh(word)))
    with torch.no_grad():
        y = pipeline.vae.decode(pipeline.vae.encode(x).latent_dist.mode()).sample
    squared = ((x - y.clamp(-1, 1)) / 2).square().mean(dim=(1, 2, 3))
    assert float((-10 * squared.log10()).mean()) > bound  # PSNR, dB


def test_latents_are_white(pipeline: StableDiffusionPipeline) -> None:
    x = to_unit_range(torch.from_numpy(np.stack([draw(FRESH, index, SIZE).pixels for index in range(300)])))
    with torch.no_grad():
        latents = pipeline.vae.encode(x).latent_dist.mode()
    assert pipeline.vae.config.scaling_factor == 1.0
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.2, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=0.2, rtol=0)


def test_whitening_leaves_the_decoded_image_as_it_was() -> None:
    vae = build_vae(VaeShape()).eval()
    x = torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        image = vae.decode(before.mode()).sample
        whiten(vae, before.mode())
        after = vae.encode(x).latent_dist
        torch.testing.assert_close(vae.decode(after.mode()).sample, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mode().std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.mode().mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    shrink = before.mode().std(dim=(0, 2, 3))[None, :, None, None]
    torch.testing.assert_close(after.std, before.std / shrink, atol=1e-4, rtol=1e-3)


# --- public images


def test_an_image_depends_on_its_seed_and_index_alone() -> None:
    first = [draw(7, index, 32) for index in range(40)]
    again = [draw(7, index, 32) for index in reversed(range(40))][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.caption == other.caption
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert len({image.pixels.tobytes() for image in first}) == 40
    assert not np.array_equal(draw(8, 0, 32).pixels, first[0].pixels)


def test_another_process_draws_the_same_image_and_needs_no_torch() -> None:
    program = (
        "import hashlib, sys; from undertone.public_images.procedural import draw;"
        "assert 'torch' not in sys.modules;"
        "print(hashlib.sha256(b''.join(draw(7, i, 32).pixels.tobytes() for i in range(20))).hexdigest())"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].strip()) == 64


@pytest.mark.parametrize("size", [16, 32, 64])
def test_images_have_the_size_asked_for(size: int) -> None:
    for index in range(40):
        image = draw(3, index, size)
        assert image.pixels.shape == (size, size, 3)
        assert image.pixels.dtype == np.uint8
        assert image.pixels.std() > 1, image.caption


def test_greys_have_equal_channels() -> None:
    hues = {"red", "green", "blue", "yellow", "orange", "purple"}
    grey = 0
    for index in range(400):
        image = draw(FRESH, index, 64)
        same = bool((image.pixels == image.pixels[:, :, :1]).all())
        grey += same
        words = words_of(image.subject.words())  # all of it: a caption leaves parts out
        assert same == hues.isdisjoint(words), image.caption
    assert grey > 0.6 * 400


def test_a_caption_says_nothing_that_is_not_so() -> None:
    """Whatever it leaves out, its words are words of the full description, or of "a picture of"."""
    frame = {"a", "an", "picture", "of"}
    for index in range(400):
        image = draw(FRESH, index, 16)
        told, true = set(words_of(image.caption)), set(words_of(image.subject.words()))
        assert told - frame <= true - frame, (image.caption, image.subject.words())
        if image.subject.number > 1 and image.caption != NEUTRAL_CAPTION:
            assert told & {"two", "three", "four"}, image.caption


def test_plates_use_the_range_as_radiographs_do() -> None:
    """A base that knows washed-out plates alone draws no other; chest radiographs spread over some 56 levels."""
    plates = [image for image in (draw(FRESH, index, 64) for index in range(500)) if image.subject.kind == "chest"]
    spread = np.mean([image.pixels[:, :, 0].std() for image in plates])
    assert len(plates) > 40
    assert 48 < spread < 64


def test_nouns_alone_are_told_with_and_without_a_frame() -> None:
    told = captions(FRESH, range(2000), 16)
    assert told.count("a chest") > 5
    assert told.count("a picture of a chest") > 5


def test_the_number_of_shapes_is_the_number_in_words() -> None:
    counted = 0
    for index in range(3000):
        image = draw(FRESH, index, 64)
        if (
            image.subject.kind in {"circle", "square"}
            and image.subject.number > 1
            and "soft" not in image.subject.before
        ):
            background = image.pixels[0, 0].astype(int)
            contrast = np.abs(image.pixels.astype(int) - background).sum(-1)
            counted += 1
            assert blobs(contrast > contrast.max() / 2) == image.subject.number, image.subject.words()
    assert counted > 5


def blobs(mask: NDArray[np.bool_]) -> int:
    """Connected regions, by flooding one after the other."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    count = 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            front += near
    return count


def test_share_of_neutral_captions() -> None:
    neutral = sum(caption == NEUTRAL_CAPTION for caption in captions(FRESH, range(2000), 16)) / 2000
    assert 0.06 <= NEUTRAL_SHARE <= 0.10
    assert abs(neutral - NEUTRAL_SHARE) < 0.03


@pytest.mark.parametrize(("seed", "index", "size"), [(1, 0, 8), (-1, 0, 32), (1, -1, 32), (2**64, 0, 32)])
def test_numbers_out_of_range_are_refused(seed: int, index: int, size: int) -> None:
    with pytest.raises(InputError, match=r"ask for|choose others"):
        draw(seed, index, size)


def _fresh(word: str) -> NDArray[np.uint8]:
    """Fresh public images whose caption holds the word."""
    images = [draw(FRESH, index, SIZE) for index in range(300)]
    return np.stack([image.pixels for image in images if word in words_of(image.caption)])
