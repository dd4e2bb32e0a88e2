"""Whether Undertone can work with a base that is told a class or nothing: a UNet2DModel on latents or on pixels.

Asked whenever such a base is pinned, as `fitness.py` asks of a text base, and as strictly. No torch.
"""

from pathlib import Path
from typing import Literal

from undertone.models.class_names import FILE as CLASSES
from undertone.models.class_names import parse_classes, read_classes
from undertone.models.expected import BARE_DOWN, BARE_UP
from undertone.models.fitness import (
    Config,
    check_scheduler,
    check_vae,
    check_whole,
    is_size,
    said,
    tensor_shapes,
    unfit,
)
from undertone.models.part_files import read_json

_OURS = "take a base that undertone pretrain wrote, or a DDPM of diffusers"
_CLIPPING = ("DDIMScheduler", "DDPMScheduler")  # they cut what is foretold at 1, unless they are told not to
_TIMES = ("default", "scale_shift")


def check_bare_fitness(
    folder: Path, files: list[str], reference: str, kind: Literal["class", "none"], autoencoder: str
) -> None:
    """Every part can do what it is needed for, and fits the others.

    Args:
        folder: the base.
        files: the files of its parts that are used, as `part_files` found them.
        reference: the base's name, for messages.
        kind: whether it is told a class.
        autoencoder: the folder of its autoencoder; "" where the UNet denoises pixels.

    Raises:
        ModelError: what does not fit, why, and what would.
    """
    unet = read_json(folder / "unet" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    vae = read_json(folder / autoencoder / "config.json") if autoencoder else None
    for part, config in (("unet", unet), (autoencoder, vae)):
        if config is not None and config.get("quantization_config") is not None:
            raise unfit(reference, f"the {part} is quantised (quantization_config)", "take the float weights")
    _check_unet(unet, reference)
    _check_told(folder, unet, reference, kind)
    check_scheduler(scheduler, reference)
    if vae is not None:
        check_vae(vae, unet, reference, 3)
        if scheduler.get("_class_name") in _CLIPPING and scheduler.get("clip_sample", True) is not False:
            raise unfit(
                reference,
                f"scheduler.clip_sample is {said(scheduler.get('clip_sample', True))}, which cuts latents at 1",
                "write false into scheduler/scheduler_config.json",
            )
    elif unet.get("in_channels", 3) not in (1, 3):
        raise unfit(
            reference,
            f"unet.in_channels is {said(unet.get('in_channels', 3))} and there is no autoencoder",
            "a UNet of pixels takes 1 channel, grey, or 3",
        )
    shapes = tensor_shapes(folder, files, reference)
    check_whole("unet", "bare_unet", unet, shapes, files, reference)
    if vae is not None:
        check_whole(autoencoder, "vae", vae, shapes, files, reference)


def _check_unet(unet: Config, reference: str) -> None:
    channels, out, size = unet.get("in_channels", 3), unet.get("out_channels", 3), unet.get("sample_size")
    if not is_size(channels) or channels != out:
        raise unfit(reference, f"unet.in_channels is {said(channels)} and unet.out_channels is {said(out)}", _OURS)
    if not is_size(size):
        raise unfit(
            reference,
            f"unet.sample_size is {'missing' if size is None else said(size)}",
            "write the side of a square image or latent as one number into unet/config.json",
        )
    levels = _check_blocks(unet, reference)
    if size % 2 ** (levels - 1):
        raise unfit(reference, f"unet.sample_size is {size}, which cannot be halved {levels - 1} times", _OURS)
    if unet.get("time_embedding_type", "positional") != "positional":
        raise unfit(
            reference,
            f"unet.time_embedding_type is {said(unet['time_embedding_type'])}: it is not told discrete times",
            _OURS,
        )
    if unet.get("resnet_time_scale_shift", "default") not in _TIMES:
        raise unfit(reference, f"unet.resnet_time_scale_shift is {said(unet['resnet_time_scale_shift'])}", _OURS)


def _check_blocks(unet: Config, reference: str) -> int:
    """How many levels it has, each of a known kind."""
    wide = unet.get("block_out_channels", (224, 448, 672, 896))
    if not isinstance(wide, list | tuple) or not 1 <= len(wide) <= 8 or not all(map(is_size, wide)):
        raise unfit(reference, f"unet.block_out_channels is {said(wide)}", _OURS)
    for key, standard in (("down_block_types", BARE_DOWN), ("up_block_types", BARE_UP)):
        kinds, known = unet.get(key, standard), sorted(set(standard))
        if not isinstance(kinds, list | tuple) or len(kinds) != len(wide) or any(kind not in known for kind in kinds):
            raise unfit(
                reference, f"unet.{key} is {said(kinds)}", f"known are {' and '.join(known)}, one for each level"
            )
    if unet.get("mid_block_type", "UNetMidBlock2D") not in (None, "UNetMidBlock2D"):
        raise unfit(reference, f"unet.mid_block_type is {said(unet['mid_block_type'])}", _OURS)
    layers = unet.get("layers_per_block", 2)
    if not is_size(layers) or layers > 100:
        raise unfit(reference, f"unet.layers_per_block is {said(layers)}", _OURS)
    return len(wide)


def _check_told(folder: Path, unet: Config, reference: str, kind: Literal["class", "none"]) -> None:
    if unet.get("class_embed_type") is not None:
        raise unfit(
            reference,
            f"unet.class_embed_type is {said(unet['class_embed_type'])}: it has no row for each class",
            "a class base has a class embedding (num_class_embeds)",
        )
    rows = unet.get("num_class_embeds")
    if kind == "none":
        if rows is not None:
            raise unfit(
                reference,
                f"unet.num_class_embeds is {said(rows)}: it is told a class, and nothing says which classes",
                f"put {CLASSES} in place of model_index.json",
            )
        return
    names = parse_classes(read_classes(folder, reference), reference)
    if not is_size(rows) or rows != len(names) + 1:
        raise unfit(
            reference,
            f"unet.num_class_embeds is {'missing' if rows is None else said(rows)}, {CLASSES} has {len(names)} names",
            "a class base has a row for each class and one, the last, that says nothing",
        )
