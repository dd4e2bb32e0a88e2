"""Public pre-training from the images to a pipeline folder: autoencoder, latents, UNet (DP-LDM's first two steps)."""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from undertone.core.durable import read_array, write_array
from undertone.core.progress import reporter
from undertone.errors import FolderError, ModelError, StudyError
from undertone.models.pinned import pin
from undertone.models.staging import staged
from undertone.pretraining.alignment import Alignment, public_targets
from undertone.pretraining.card import model_card
from undertone.pretraining.config import Config, Precision, StageTable
from undertone.pretraining.dataset import PublicSet
from undertone.pretraining.export import export_parts, export_text_to_image
from undertone.pretraining.tokenizer import build_tokenizer, common_words
from undertone.pretraining.vae import VaeShape, VaeWeights, encode, to_unit_range, train_vae
from undertone.public_images.wording import words_of
from undertone.training.denoisers import ClassToImage, Conditioned, TextToImage, tokenize, train_denoiser
from undertone.training.initial_weights import initialise
from undertone.training.loop import Course

_STAGES = {"vae": 11, "encode": 12, "unet": 13}  # each stage has a random stream of its own
_LONGEST_PROMPT = 77


def pretrain(config: Config, data: PublicSet, folder: Path, device: str = "cpu") -> Path:
    """Train, from the checkpoints in the folder where there are some, and write the model.

    Args:
        config: the settings.
        data: public images.
        folder: gets `checkpoints`, `events` and `pipeline`.
        device: a torch device.

    Returns:
        The pipeline folder.

    Raises:
        UndertoneError: the data do not fit the settings, or a checkpoint is damaged.
    """
    checkpoints = folder / "checkpoints"
    favoured(data.captions, config.unet.favour)  # what cannot be shows before hours of training
    if config.unet.kind == "class":
        data.class_names()
    vae = _autoencoder(config, data, checkpoints, device) if config.unet.denoises == "latents" else None
    latents = _pixels(data, config.unet.denoises) if vae is None else _latents(config, data, vae, checkpoints)
    pipeline = folder / "pipeline"
    if config.unet.kind == "text" and vae is not None:
        _text(config, data, vae, latents, checkpoints, pipeline, device)
    else:
        _classes(config, data, vae, latents, checkpoints, pipeline, device)
    return pipeline


def _autoencoder(config: Config, data: PublicSet, checkpoints: Path, device: str) -> AutoencoderKL:
    table = config.autoencoder
    if table.base is not None:
        base = pin(table.base)
        if "vae" not in base.parts:
            raise ModelError(f'autoencoder.base = "{table.base}" denoises pixels, and has no autoencoder; take another')
        reporter().line(f"the autoencoder of {table.base}, as it is")
        with staged(base) as view:
            vae = AutoencoderKL.from_pretrained(
                view / base.folder_of("vae"), use_safetensors=True, local_files_only=True
            )
        return vae.eval().requires_grad_(False).to(device)
    shape = VaeShape(config.data.size, tuple(table.channels), table.layers, table.latent_channels)
    return train_vae(
        torch.from_numpy(data.pixels),
        shape,
        VaeWeights(table.l1, table.kl, table.chroma),
        _course(config, table, device),
        checkpoints,
        _stream(config, "vae"),
        device,
    )


def _latents(config: Config, data: PublicSet, vae: AutoencoderKL, checkpoints: Path) -> Tensor:
    """The images' latents, encoded once: a run that is resumed finds them beside the checkpoints."""
    weights = sha256(b"".join(weight.cpu().numpy().tobytes() for weight in vae.state_dict().values())).hexdigest()
    kept = checkpoints / f"latents-{weights[:16]}.npy"  # another autoencoder has others
    if kept.is_file():
        try:
            return torch.from_numpy(read_array(kept).astype(np.float32))
        except FolderError:
            reporter().line(f"{kept} is damaged: encoding anew")
    latents = encode(vae, torch.from_numpy(data.pixels), _stream(config, "encode"))
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_array(kept, latents.numpy())
    return latents


def _pixels(data: PublicSet, denoised: str) -> Tensor:
    """The images in -1..1, float32 [N, 3, S, S], or the mean of their colours [N, 1, S, S]."""
    whole = to_unit_range(torch.from_numpy(data.pixels))
    return whole.mean(1, keepdim=True) if denoised == "grey" else whole


def _text(
    config: Config, data: PublicSet, vae: AutoencoderKL, latents: Tensor, checkpoints: Path, out: Path, device: str
) -> None:
    words, length = _vocabulary(data)
    tokenizer = build_tokenizer(words, length)
    table, stream = config.unet, _stream(config, "unet")
    model = TextToImage(
        tokenizer,
        latents.shape[-1],
        channels=tuple(table.channels),
        layers=table.layers,
        width=table.width,
        text_layers=table.text_layers,
        latent_channels=latents.shape[1],
    )
    initialise(model, stream)
    model.to(device)
    told = tokenize(tokenizer, [*data.captions, ""])
    trained = cast(TextToImage, _denoiser(config, data, latents, told, model, checkpoints, stream))
    card = model_card(config, len(data.captions), words=len(words), length=length)
    # A fresh tokenizer: the one that is in use would be written with its last padding.
    export_text_to_image(vae, trained, build_tokenizer(words, length), card, out)


def _classes(
    config: Config,
    data: PublicSet,
    vae: AutoencoderKL | None,
    latents: Tensor,
    checkpoints: Path,
    out: Path,
    device: str,
) -> None:
    table, stream = config.unet, _stream(config, "unet")
    names = data.class_names() if table.kind == "class" else ()
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[name] for name in data.classes or ()] if names else [0] * len(latents)
    model = ClassToImage(
        len(names),
        latents.shape[-1],
        channels=tuple(table.channels),
        layers=table.layers,
        latent_channels=latents.shape[1],
    )
    initialise(model, stream)
    model.to(device)
    told = torch.tensor([*labels, len(names)])[:, None]
    trained = cast(ClassToImage, _denoiser(config, data, latents, told, model, checkpoints, stream))
    export_parts(vae, trained.unet, names, model_card(config, len(latents), classes=names), out)


def _denoiser(
    config: Config,
    data: PublicSet,
    latents: Tensor,
    told: Tensor,
    model: Conditioned,
    checkpoints: Path,
    stream: torch.Generator,
) -> Conditioned:
    table, device = config.unet, next(model.parameters()).device
    return train_denoiser(
        latents,
        told,
        model,
        table.drop,
        _course(config, table, device.type),
        checkpoints,
        stream,
        time_power=table.time_power,
        side_task=Alignment(public_targets(data), table.align) if table.align else None,
        compiled=table.compile,
        weights=favoured(data.captions, table.favour) if table.favour else None,
    )


def favoured(captions: Sequence[str], favour: Mapping[str, float]) -> Tensor:
    """How likely each image is picked, float64 [N]: the largest factor of its caption's words, 1 for other words.

    Raises:
        StudyError: a word that no caption holds.
    """
    words = [set(words_of(caption)) for caption in captions]
    strangers = favour.keys() - set().union(*words)
    if strangers:
        raise StudyError(f"unet.favour: no caption holds {', '.join(sorted(strangers))}")
    return torch.tensor([max((favour.get(word, 1.0) for word in told), default=1.0) for told in words]).double()


def _vocabulary(data: PublicSet) -> tuple[list[str], int]:
    """The words of the captions, and the prompt length: the longest caption and room for four words more."""
    words = common_words(data.captions)
    tokenizer = cast(CLIPTokenizer, build_tokenizer(words, _LONGEST_PROMPT))
    longest = max(len(tokenizer.tokenize(caption)) for caption in set(data.captions))
    return words, min(_LONGEST_PROMPT, 8 * math.ceil((longest + 2 + 4) / 8))


def _course(config: Config, table: StageTable, device: str) -> Course:
    return Course(
        steps=table.steps,
        batch=table.batch,
        learning_rate=table.learning_rate,
        average=table.average,
        warm_up=table.warm_up,
        weight_decay=table.weight_decay,
        precision=chosen_precision(table.precision, device),
        checkpoint_minutes=config.run.checkpoint_minutes,
    )


def chosen_precision(wanted: Precision, device: str) -> str:
    """What `auto` stands for: bfloat16 on a GPU that computes in it, else float32.

    Raises:
        ModelError: bfloat16 was asked for where there is none.
    """
    on_gpu = torch.device(device).type == "cuda"
    has = torch.cuda.is_bf16_supported(False) if on_gpu else torch.amp.is_autocast_available(torch.device(device).type)
    if wanted == "bfloat16" and not has:
        raise ModelError(f'{device} does not compute in bfloat16; say precision = "float32"')
    return "bfloat16" if wanted == "bfloat16" or (wanted == "auto" and on_gpu and has) else "float32"


def _stream(config: Config, stage: str) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * (config.pretrain.seed - 1) + _STAGES[stage])
