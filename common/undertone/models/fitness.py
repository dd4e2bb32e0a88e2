"""Whether Undertone can work with a base: from its settings and the headers of its weights, before anything is charged.

What is asked here is what loading, training and sampling take for granted: a Stable Diffusion 1.x or 2.x pipeline whose
parts fit each other, noise that is predicted as epsilon or velocity, a scheduler of that noise, whole weights in
floating point. No torch: planning, nodes and coordinators ask alike, whenever they `pin` a base.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from undertone.core.text import shown
from undertone.errors import ModelError
from undertone.models.added_tokens import vocabulary
from undertone.models.expected import first_missing
from undertone.models.part_files import read_json

Config = Mapping[str, Any]
Shape = tuple[int, ...]

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
# Each was sampled with (tests); what follows other paths than noise at discrete times cannot be.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
PREDICTIONS = ("epsilon", "v_prediction")
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

# A key that a UNet of Stable Diffusion 1.x/2.x leaves empty, and what it makes of the UNet where it is not.
_FURTHER_INPUTS = {
    "addition_embed_type": "it wants sizes and pooled text besides the words, as Stable Diffusion XL does",
    "class_embed_type": "it is conditioned on classes",
    "num_class_embeds": "it is conditioned on classes",
    "time_cond_proj_dim": "it is a latent consistency model, distilled to take the guidance as an input",
    "encoder_hid_dim": "it projects another encoder's states",
    "encoder_hid_dim_type": "it projects another encoder's states",
}
_VAE_EXTRAS = ("shift_factor", "latents_mean", "latents_std")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_FLOATS = ("F32", "F16", "BF16", "F64")
_POSITIONS = "position_ids"  # integers 0, 1, 2, ... that old files keep beside the weights


def check_pipeline(index: Config, reference: str) -> None:
    """The pipeline that model_index.json names is one whose parts and inputs Undertone knows.

    Raises:
        ModelError: says which it is.
    """
    named = index.get("_class_name", PIPELINES[0])
    if not isinstance(named, str):
        raise ModelError(f"model_index.json of {reference} names a pipeline with code of its own, which is never run")
    if named.removeprefix("Flax") not in PIPELINES:
        raise unfit(reference, f"it is a {shown(named, 80)}", f"Undertone works with a {PIPELINES[0]} (1.x/2.x)")


def check_fitness(folder: Path, files: list[str], reference: str) -> None:
    """Every part can do what it is needed for, and fits the others.

    Args:
        folder: the base.
        files: the files that are used, as `part_files` found them.
        reference: the base's name, for messages.

    Raises:
        ModelError: what does not fit, why, and what would.
    """
    unet, vae, encoder = (read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    for part, config in (("unet", unet), ("vae", vae), ("text_encoder", encoder)):
        if config.get("quantization_config") is not None:
            raise unfit(reference, f"the {part} is quantised (quantization_config)", "take the float weights")
    _check_unet(unet, reference)
    check_vae(vae, unet, reference)
    _check_words(folder, unet, encoder, reference)
    check_scheduler(read_json(folder / "scheduler" / "scheduler_config.json"), reference)
    shapes = tensor_shapes(folder, files, reference)
    _check_shapes(shapes, unet, encoder, reference)
    for part, config in (("unet", unet), ("vae", vae), ("text_encoder", encoder)):
        check_whole(part, part, config, shapes, files, reference)


def tensor_shapes(folder: Path, files: list[str], reference: str) -> dict[str, Shape]:
    """`<part>.<name>` -> shape of every tensor of the weights, all of them in floating point.

    Raises:
        ModelError: a file is cut off, no safetensors, or quantised.
    """
    shapes: dict[str, Shape] = {}
    for name in files:
        if name.endswith(".safetensors"):
            shapes |= {f"{name.partition('/')[0]}.{key}": shape for key, shape in _header(folder, name, reference)}
    return shapes


def check_whole(
    part: str, model: str, config: Config, shapes: Mapping[str, Shape], files: list[str], reference: str
) -> None:
    """The weights of a part have what its settings want.

    Args:
        part: its folder.
        model: which tensors are expected, a key of `EXPECTED`.
        config: its settings.
        shapes: of all tensors, as `tensor_shapes` found them.
        files: all files that are used.
        reference: the base's name, for messages.

    Raises:
        ModelError: names the tensor and its file.
    """
    within = {key.partition(".")[2]: shape for key, shape in shapes.items() if key.startswith(f"{part}.")}
    missing = first_missing(model, config, within)
    if missing is not None:
        file = next(name for name in files if name.startswith(f"{part}/") and ".safetensors" in name)
        raise ModelError(
            f"{file} of {reference} lacks {shown(missing, 200)}, which {part}/config.json wants; download "
            "both again, or put weights and settings of one model together"
        )


def _check_unet(unet: Config, reference: str) -> None:
    channels, out = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if channels == 9:
        raise unfit(reference, "unet.in_channels is 9: it is an inpainting model, which wants a mask and an image")
    if channels == 8:
        raise unfit(reference, "unet.in_channels is 8: it edits or enlarges an image that it is given")
    if channels != out:
        raise unfit(reference, f"unet.in_channels is {said(channels)} and unet.out_channels is {said(out)}")
    for key, why in _FURTHER_INPUTS.items():
        if unet.get(key) is not None:
            raise unfit(reference, f"unet.{key} is {said(unet[key])}: {why}")
    size = unet.get("sample_size")
    if not is_size(size):
        raise unfit(
            reference,
            f"unet.sample_size is {'missing' if size is None else said(size)}",
            "write the side of a square latent as one number into unet/config.json",
        )
    blocks = [unet.get("mid_block_type", "UNetMidBlock2DCrossAttn"), *_list(unet.get("down_block_types"))]
    if "down_block_types" in unet and not any("CrossAttn" in str(block) for block in blocks):
        raise unfit(reference, "no block of the unet attends to the words (cross-attention)")


def check_vae(vae: Config, unet: Config, reference: str, unet_channels: int = 4) -> None:
    """The autoencoder's latents are what the UNet takes; `unet_channels` where its settings do not say how many.

    Raises:
        ModelError: says what does not fit.
    """
    blocks = vae.get("block_out_channels")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 8 or not all(map(is_size, blocks)):
        raise unfit(reference, f"vae.block_out_channels is {'missing' if blocks is None else said(blocks)}")
    latent, wanted = vae.get("latent_channels", 4), unet.get("in_channels", unet_channels)
    if latent != wanted:
        raise unfit(reference, f"vae.latent_channels is {said(latent)} and unet.in_channels is {said(wanted)}")
    for key, channels in ((key, vae.get(key, 3)) for key in ("in_channels", "out_channels")):
        if channels != 3:
            raise unfit(reference, f"vae.{key} is {said(channels)}", "images are red, green and blue")
    for key in _VAE_EXTRAS:
        if vae.get(key) is not None:
            raise unfit(reference, f"vae.{key} is set: its latents are moved, as those of flow models are")
    factor = vae.get("scaling_factor", 0.18215)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e6:
        raise unfit(reference, f"vae.scaling_factor is {said(factor)}")


def _check_words(folder: Path, unet: Config, encoder: Config, reference: str) -> None:
    """The tokenizer's ids and positions are the encoder's, and its states are as wide as the UNet takes them."""
    width = encoder.get("hidden_size")
    if not is_size(width):
        raise unfit(reference, f"text_encoder.hidden_size is {'missing' if width is None else said(width)}")
    vocabulary(folder / "tokenizer", reference)
    taken = unet.get("cross_attention_dim", 1280)
    if any(one != width for one in (taken if isinstance(taken, list) and taken else [taken])):
        raise unfit(
            reference,
            f"unet.cross_attention_dim is {said(taken)} and text_encoder.hidden_size is {width}",
            "unet and text encoder of one model belong together",
        )
    settings = folder / "tokenizer" / "tokenizer_config.json"
    longest = read_json(settings).get("model_max_length") if settings.is_file() else None
    positions = encoder.get("max_position_embeddings", 77)
    if not is_size(longest) or not is_size(positions) or longest > positions:
        raise unfit(
            reference,
            f"tokenizer.model_max_length is {'missing' if longest is None else said(longest)} and "
            f"text_encoder.max_position_embeddings is {said(positions)}",
            "write a length that the encoder has positions for into tokenizer/tokenizer_config.json",
        )


def check_scheduler(scheduler: Config, reference: str) -> None:
    """The scheduler's settings are of noise at discrete times, predicted as epsilon or velocity.

    Raises:
        ModelError: says which setting is not.
    """
    named = scheduler.get("_class_name")
    if named is not None and named not in SCHEDULERS:
        raise unfit(reference, f"its scheduler is a {said(named)}", _other_scheduler())
    if any(scheduler.get(key) not in (None, False) for key in ("use_flow_sigmas",)):
        raise unfit(reference, "its scheduler follows a flow (use_flow_sigmas)", _other_scheduler())
    prediction = scheduler.get("prediction_type", PREDICTIONS[0])
    if prediction not in PREDICTIONS:
        raise unfit(
            reference,
            f"scheduler.prediction_type is {said(prediction)}",
            f"Undertone trains {' and '.join(PREDICTIONS)}",
        )
    betas = scheduler.get("beta_schedule", _BETA_SCHEDULES[0])
    if betas not in _BETA_SCHEDULES and scheduler.get("trained_betas") is None:
        raise unfit(reference, f"scheduler.beta_schedule is {said(betas)}", f"known are {', '.join(_BETA_SCHEDULES)}")
    steps = scheduler.get("num_train_timesteps", 1000)
    if not is_size(steps) or steps > 100_000:
        raise unfit(reference, f"scheduler.num_train_timesteps is {said(steps)}")


def check_scheduler_class(named: str, reference: str) -> None:
    """The scheduler that model_index.json names is one that can sample.

    Raises:
        ModelError: says which do.
    """
    if named not in SCHEDULERS:
        raise unfit(reference, f"its scheduler is a {said(named)}", _other_scheduler())


def _header(folder: Path, name: str, reference: str) -> list[tuple[str, Shape]]:
    """Names and shapes of one file's tensors, all of them in floating point and within the file."""
    path = folder / name
    try:
        with path.open("rb") as stream:
            pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
        if pointer:
            raise ModelError(f"{name} of {reference} is a git-lfs pointer in place of the weights: run `git lfs pull`")
        with safe_open(path, framework="np") as tensors:
            slices = [(key, tensors.get_slice(key)) for key in tensors.keys()]  # noqa: SIM118 - safe_open is no mapping
            kinds = {key: one.get_dtype() for key, one in slices}
            shapes = [(key, tuple(one.get_shape())) for key, one in slices]
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{name} of {reference} is cut off or no safetensors file ({shown(str(error))}); download it again"
        ) from None
    for key, kind in kinds.items():
        if kind not in _FLOATS and not key.endswith(_POSITIONS):
            raise unfit(
                reference,
                f"{name} is quantised: {shown(key, 80)} is of type {shown(str(kind), 20)}",
                f"weights are {', '.join(_FLOATS[:3])}",
            )
    return shapes


def _check_shapes(shapes: Mapping[str, Shape], unet: Config, encoder: Config, reference: str) -> None:
    """Weights are those of the settings, where one tensor shows it."""
    width = encoder["hidden_size"]
    for name, shape in shapes.items():
        wanted: Shape | None = None
        if name == "unet.conv_in.weight":
            wanted = (*shape[:1], unet.get("in_channels", 4), *shape[2:])
        elif name.startswith("unet.") and name.endswith("attn2.to_k.weight"):
            wanted = (*shape[:1], width)
        elif name.startswith("text_encoder.") and name.endswith("token_embedding.weight"):
            wanted = (encoder.get("vocab_size", shape[0] if shape else 0), width)
        if wanted is not None and shape != wanted:
            raise unfit(reference, f"{shown(name, 120)} has the shape {list(shape)}, its settings say {list(wanted)}")


def unfit(reference: str, what: str, instead: str = "choose a base of Stable Diffusion 1.x/2.x") -> ModelError:
    """What does not fit, and what to do instead."""
    return ModelError(f"{reference} cannot be adapted: {what}; {instead}")


def _other_scheduler() -> str:
    return f"known are {', '.join(SCHEDULERS)}"


def is_size(value: object) -> bool:
    """Whether it is a whole number from 1 to 2^20."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 20


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def said(value: object) -> str:
    """A setting as a message may hold it."""
    return shown(repr(value), 80)
