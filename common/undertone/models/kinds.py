"""What kind of base a folder is, which parts it has, and which of their files are used.

    text     a StableDiffusionPipeline: tokenizer, text encoder, autoencoder, UNet2DConditionModel
    class    classes.json and no model_index.json: a UNet2DModel with a class embedding, and perhaps an autoencoder
    none     an LDMPipeline (with an autoencoder), or a DDIMPipeline or DDPMPipeline (of pixels): a UNet2DModel alone

No stock pipeline takes a class on latents, so a class base is stock parts side by side: what each is, its own settings
say. A folder that could be read as two kinds is refused. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from undertone.errors import ModelError
from undertone.models.class_names import FILE as CLASSES
from undertone.models.fitness import check_fitness, check_pipeline, check_scheduler_class
from undertone.models.part_files import part_files, read_json
from undertone.models.unet_fitness import check_bare_fitness

Kind = Literal["text", "class", "none"]
TEXT: Literal["text"] = "text"
INDEX = "model_index.json"
STATEMENT = "privacy.json"  # what `undertone export` puts beside weights that hold a release

PARTS = {
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
    "scheduler": None,
}
_OPTIONAL_PARTS = ("safety_checker", "feature_extractor")
# Where a part's class may come from; any other name would be a module of the folder's own.
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
# Pipelines of a base that is told nothing: the folder of the autoencoder, "" where pixels are denoised.
_UNTOLD = {"LDMPipeline": "vqvae", "DDIMPipeline": "", "DDPMPipeline": ""}
_BARE = {"vae": "AutoencoderKL", "vqvae": "AutoencoderKL", "unet": "UNet2DModel", "scheduler": None}


@dataclass(frozen=True)
class FoundBase:
    """A folder's kind and the files that are used, relative to it."""

    kind: Kind
    files: tuple[str, ...]


def find_base(folder: Path, reference: str) -> FoundBase:
    """The kind of a base and its files.

    Raises:
        ModelError: it is none that Undertone can adapt, or could be read in two ways; says what and what to do.
    """
    index, classes = folder / INDEX, folder / CLASSES
    if (folder / STATEMENT).exists():
        raise ModelError(
            f"{reference} has a {STATEMENT}: its weights hold a release, and a study of it as a base would not say "
            "what it reveals of that release's units; start from the release ([model] start) or from the base it is of"
        )
    if not index.is_file():
        if classes.is_file():
            return FoundBase("class", (CLASSES, *_class_parts(folder, reference)))
        raise ModelError(
            f"{reference} has no {INDEX}: a base model is a folder in the diffusers layout, or the parts and the "
            f"{CLASSES} that undertone pretrain writes"
        )
    listed = read_json(index)
    if str(listed.get("_class_name")) not in _UNTOLD:
        return FoundBase(TEXT, (INDEX, *_parts_of(folder, listed, reference)))
    if classes.exists():
        raise ModelError(
            f"{reference} has {INDEX} of a {listed['_class_name']}, which is told nothing, and {CLASSES} beside it; "
            "remove the one that is not meant"
        )
    return FoundBase("none", (INDEX, *_untold_parts(folder, listed, reference)))


def _parts_of(folder: Path, listed: Mapping[str, Any], reference: str) -> list[str]:
    """The files of every part that model_index.json lists, of a text base."""
    check_pipeline(listed, reference)
    classes = _listed_parts(listed)
    names: list[str] = []
    for part, needed in PARTS.items():
        class_name = _class_of(classes, part)
        if class_name is None or not (folder / part).is_dir():
            raise ModelError(f"{reference} has no {part}; Undertone needs the parts {', '.join(PARTS)}")
        if needed is not None and class_name.removesuffix("Fast") != needed:
            raise ModelError(
                f"the {part} of {reference} is a {class_name}; Undertone needs a {needed} (Stable Diffusion 1.x/2.x)"
            )
        if part == "scheduler":
            check_scheduler_class(class_name, reference)
        names += part_files(folder, part, reference)
    for part, value in classes.items():
        if part not in PARTS and part not in _OPTIONAL_PARTS:
            raise ModelError(
                f"{reference} has a part {ascii(part)[1:-1][:60]}, which Undertone does not know: Stable Diffusion 1.x "
                f"and 2.x have {', '.join(PARTS)}. Where it is not needed, write [null, null] in model_index.json"
            )
        _check_library(part, value, reference)
        if part in _OPTIONAL_PARTS and (folder / part).is_dir():
            names += part_files(folder, part, reference)
    check_fitness(folder, names, reference)
    return names


def _class_parts(folder: Path, reference: str) -> list[str]:
    """The files of a class base: whatever part lies there is meant, and each part's settings name its class."""
    known = ("vae", "unet", "scheduler")
    for path in sorted(folder.iterdir()):
        if path.name not in known and path.is_dir() and any(path.glob("*config.json")):
            raise ModelError(
                f"{reference} has a part {ascii(path.name)[1:-1][:60]}, which a base with {CLASSES} does not have: it "
                f"has {', '.join(known)}; remove it"
            )
    autoencoder = "vae" if (folder / "vae").exists() else ""
    return _bare_parts(folder, reference, "class", autoencoder)


def _untold_parts(folder: Path, listed: Mapping[str, Any], reference: str) -> list[str]:
    """The files of a base that is told nothing: the parts of its stock pipeline."""
    autoencoder, classes = _UNTOLD[listed["_class_name"]], _listed_parts(listed)
    wanted = _bare_names(autoencoder)
    for part, value in classes.items():
        if part not in wanted:
            raise ModelError(
                f"{reference} has a part {ascii(part)[1:-1][:60]}, which Undertone does not know: a "
                f"{listed['_class_name']} has {', '.join(wanted)}"
            )
        _check_library(part, value, reference)
        class_name = _class_of(classes, part)
        if _BARE[part] is not None and class_name != _BARE[part]:
            raise _another(part, class_name, reference)
        if part == "scheduler":
            check_scheduler_class(str(class_name), reference)
    lacking = [part for part in wanted if part not in classes]
    if lacking:
        raise ModelError(f"{reference} has no {lacking[0]}; a {listed['_class_name']} has {', '.join(wanted)}")
    return _bare_parts(folder, reference, "none", autoencoder)


def _bare_parts(folder: Path, reference: str, kind: Literal["class", "none"], autoencoder: str) -> list[str]:
    """The files of UNet, scheduler and autoencoder, once each says that it is what Undertone loads it as."""
    names: list[str] = []
    for part in _bare_names(autoencoder):
        if not (folder / part).is_dir():
            raise ModelError(f"{reference} has no {part}; it needs the parts {', '.join(_bare_names(autoencoder))}")
        settings = "scheduler_config.json" if part == "scheduler" else "config.json"
        named = read_json(folder / part / settings).get("_class_name")
        if part == "scheduler":
            check_scheduler_class(str(named), reference)
        elif named != _BARE[part]:
            raise _another(part, named, reference)
        names += part_files(folder, part, reference)
    check_bare_fitness(folder, names, reference, kind, autoencoder)
    return names


def _another(part: str, named: object, reference: str) -> ModelError:
    return ModelError(f"the {part} of {reference} is a {ascii(named)[:60]}; Undertone needs a {_BARE[part]}")


def _bare_names(autoencoder: str) -> tuple[str, ...]:
    return (autoencoder, "unet", "scheduler") if autoencoder else ("unet", "scheduler")


def _listed_parts(listed: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {part: value for part, value in listed.items() if isinstance(value, list) and any(value)}


def _check_library(part: str, value: list[Any], reference: str) -> None:
    if value[0] not in _LIBRARIES:
        raise ModelError(
            f"model_index.json of {reference} takes its {part} from {ascii(value[0])[:60]}; classes of "
            f"{', '.join(_LIBRARIES)} are used, and code from a model's folder never runs"
        )


def _class_of(classes: Mapping[str, list[Any]], part: str) -> str | None:
    value = classes.get(part, [None, None])
    return value[1] if len(value) == 2 and isinstance(value[1], str) else None
