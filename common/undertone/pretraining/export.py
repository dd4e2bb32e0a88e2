"""Write the trained parts as stock diffusers folders that old and new libraries can read."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from undertone.models.parts import Parts
from undertone.training.denoisers import TextToImage, build_scheduler

_TEXT_PREFIX = "text_model."


def export_text_to_image(
    vae: AutoencoderKL, model: TextToImage, tokenizer: CLIPTokenizer, card: str, out: Path
) -> None:
    """Write a StableDiffusionPipeline in half precision, with its model card, into `out`.

    Args:
        vae: the whitened autoencoder.
        model: text encoder and UNet.
        tokenizer: as it was trained with.
        card: README.md, Markdown.
        out: folder, made when missing; files of an earlier export are replaced.
    """
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).cpu().half().eval(),
        text_encoder=copy.deepcopy(model.text_encoder).cpu().half().eval(),
        tokenizer=tokenizer,
        unet=copy.deepcopy(model.unet).cpu().half().eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    _write_text_weights(out / "text_encoder" / "model.safetensors")
    _write_tokenizer_tables(out / "tokenizer")
    _finish(out, ("vae", "unet", "text_encoder"), card)


def export_parts(vae: AutoencoderKL | None, unet: UNet2DModel, classes: Sequence[str], card: str, out: Path) -> None:
    """Write a model that is told a class or nothing, in half precision, with its model card, into `out`.

    Told nothing, it is a stock LDMPipeline, or of pixels a DDIMPipeline. No stock pipeline takes a class, so a
    class-conditional model is its stock parts side by side, with the names of its classes in classes.json.

    Args:
        vae: the whitened autoencoder; None for a model of pixels.
        unet: with one class embedding more than there are classes, or with none.
        classes: their names in the order of their numbers; empty for a model that is told nothing.
        card: README.md, Markdown.
        out: folder, made when missing; files of an earlier export are replaced.
    """
    halved = None if vae is None else copy.deepcopy(vae).cpu().half().eval()
    denoiser = copy.deepcopy(unet).cpu().half().eval()
    Parts(denoiser, build_scheduler(), halved, tuple(classes)).save_pretrained(out)
    _finish(out, [path.parent.name for path in out.glob("*/config.json")], card)


def _finish(out: Path, parts: Sequence[str], card: str) -> None:
    for part in parts:
        _mend_config(out / part / "config.json")
    (out / "README.md").write_text(card, encoding="utf-8")
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)  # the writers leave them readable by their owner alone


def _mend_config(path: Path) -> None:
    """Drop the folder that a part was once loaded from, and let every part load as float32 by default.

    transformers 5 loads a model in the precision its config names, diffusers in float32: left alone, the
    text encoder would come up in half precision beside a UNet in single.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    if "dtype" in config:
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_text_weights(path: Path) -> None:
    """Spell the names as Stable Diffusion's own files do; transformers 4 reads no other, 5 reads both."""
    weights = load_file(path)
    named = {name if name.startswith(_TEXT_PREFIX) else _TEXT_PREFIX + name: weights[name] for name in weights}
    save_file(named, path, metadata={"format": "pt"})


def _write_tokenizer_tables(folder: Path) -> None:
    """Write vocab.json and merges.txt, which transformers 4 asks for, from the tokenizer.json of 5."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
