"""Finding and pinning a base model: a reference becomes a folder and the SHA-256 of every file used.

No torch here: planning and the coordinator's round loop only need configurations and one embedding.
Safetensors alone are read, and no code from a model folder ever runs (DESIGN 6).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from undertone.canonical import file_sha256
from undertone.errors import ModelError, PlanChanged

EMBEDDED = {"embedded:tiny": Path(__file__).parent / "embedded" / "tiny"}

PARTS = {
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
    "scheduler": None,
}
_OPTIONAL_PARTS = ("safety_checker", "feature_extractor")
_WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor")
_HUB_FILES = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors", "README.md", "LICENSE*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class PinnedBase:
    """A base model on disk: `files` maps each path used, relative to `folder`, to its SHA-256."""

    reference: str
    revision: str | None
    folder: Path
    files: Mapping[str, str]

    def config(self, part: str) -> dict[str, Any]:
        """The JSON configuration of `unet`, `vae`, `text_encoder` or `scheduler`.

        Raises:
            ModelError: the file is not a JSON object.
        """
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return _read_json(self.folder / part / name)

    @property
    def embedding_width(self) -> int:
        """Width of a token embedding."""
        return int(self.config("text_encoder")["hidden_size"])

    @property
    def image_size(self) -> int:
        """Side of the images in pixels: the latent side times the autoencoder's factor."""
        factor: int = 2 ** (len(self.config("vae")["block_out_channels"]) - 1)
        return int(self.config("unet")["sample_size"]) * factor

    @property
    def licence(self) -> str:
        """The licence that the base model's card names, or "unknown"."""
        card = self.folder / "README.md"
        found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8"), re.M) if card.is_file() else None
        return found.group(1) if found else "unknown"

    def embedding_of(self, word: str) -> NDArray[np.float32]:
        """The token embedding [width] of a word that is a single token.

        Raises:
            ModelError: the word is not one token of this model.
        """
        vocabulary = self._vocabulary()
        token = f"{word.lower()}</w>"
        if token not in vocabulary:
            raise ModelError(
                f'"{word}" is not a single word of {self.reference}; choose a word that is, such as "picture"'
            )
        weights = self.folder / self._weights_of("text_encoder")
        try:
            with safe_open(weights, framework="np") as tensors:
                key = next(name for name in tensors.keys() if name.endswith("token_embedding.weight"))  # noqa: SIM118 - safe_open is no mapping
                row: NDArray[np.float32] = tensors.get_slice(key)[vocabulary[token]].astype(np.float32)
        except (SafetensorError, StopIteration, TypeError) as error:
            raise ModelError(f"{weights.name} of {self.reference} has no readable token embeddings: {error}") from None
        return row

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor of `unet` or `text_encoder`, by names as the loaded module has them.

        Raises:
            ModelError: the weights cannot be read.
        """
        weights = self.folder / self._weights_of(part)
        try:
            with safe_open(weights, framework="np") as tensors:
                found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - as above
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{weights.name} of {self.reference} cannot be read: {error}") from None
        return {short_name(name): shape for name, shape in sorted(found.items())}

    def _vocabulary(self) -> dict[str, int]:
        listed = self.folder / "tokenizer" / "vocab.json"
        if listed.is_file():
            return _read_json(listed)
        vocabulary: dict[str, int] = _read_json(self.folder / "tokenizer" / "tokenizer.json")["model"]["vocab"]
        return vocabulary

    def _weights_of(self, part: str) -> str:
        return next(name for name in self.files if name.startswith(f"{part}/") and name.endswith(".safetensors"))

    @property
    def variant(self) -> str | None:
        """`fp16` where the folder holds only half-precision weights under that name."""
        return "fp16" if ".fp16." in self._weights_of("unet") else None


def short_name(name: str) -> str:
    """A tensor's name without the level `text_model`, which transformers 5 no longer has and files do."""
    return name.removeprefix("text_model.")


def pin(reference: str, revision: str | None = None) -> PinnedBase:
    """Find a base model and hash the files Undertone uses.

    Args:
        reference: `embedded:tiny`, a folder, or a hub id such as `org/name`.
        revision: the commit of a hub id; required there.

    Raises:
        ModelError: it is not there, or lacks a part; the message says which and what to do.
    """
    folder = _folder_of(reference, revision)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{reference} has no model_index.json: a base model is a folder in the diffusers layout")
    listed = _read_json(index)
    names = ["model_index.json"]
    for part, needed in PARTS.items():
        class_name = (listed.get(part) or [None, None])[1]
        if class_name is None or not (folder / part).is_dir():
            raise ModelError(f"{reference} has no {part}; Undertone needs the parts {', '.join(PARTS)}")
        if needed is not None and class_name.removesuffix("Fast") != needed:
            raise ModelError(
                f"the {part} of {reference} is a {class_name}; Undertone needs a {needed} (Stable Diffusion 1.x/2.x)"
            )
        names += _files_of(folder, part, reference)
    for part in _OPTIONAL_PARTS:
        if (listed.get(part) or [None])[0] is not None and (folder / part).is_dir():
            names += _files_of(folder, part, reference)
    return PinnedBase(reference, revision, folder, {name: file_sha256(folder / name) for name in sorted(names)})


def check_pins(base: PinnedBase, files: Mapping[str, str]) -> None:
    """Raise unless the base model here is, byte for byte, the one that the plan names.

    Raises:
        PlanChanged: names the first file that differs.
    """
    for name in sorted(set(files) | set(base.files)):
        if files.get(name) != base.files.get(name):
            raise PlanChanged(f"{name} of {base.reference} is not the file that the plan names; restore that version")


def _folder_of(reference: str, revision: str | None) -> Path:
    if reference in EMBEDDED:
        return EMBEDDED[reference]
    if reference.startswith("embedded:"):
        raise ModelError(f'there is no "{reference}"; shipped with Undertone: {", ".join(EMBEDDED)}')
    if Path(reference).is_dir():
        return Path(reference)
    if not _HUB_ID.fullmatch(reference):
        raise ModelError(
            f'model.base = "{reference}" is neither a folder here, nor a hub id, nor one of {", ".join(EMBEDDED)}'
        )
    if revision is None:
        raise ModelError(
            f'model.base = "{reference}": there is no such folder here; if it is a hub id, add model.revision, the '
            "commit to use"
        )
    from huggingface_hub import snapshot_download  # slow to import: only for a hub id
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{reference} at {revision} could not be fetched and is not in the local cache "
            f"({type(error).__name__}); download it where there is a network, or give its folder"
        ) from None


def _files_of(folder: Path, part: str, reference: str) -> list[str]:
    """The files of one part: JSON and text, and exactly one weights file, full precision first."""
    small = [path for path in (folder / part).iterdir() if path.suffix in (".json", ".txt")]
    names = [f"{part}/{path.name}" for path in small if not path.name.endswith(".index.json")]
    if part in _WEIGHTLESS:
        return names
    for stem in ("diffusion_pytorch_model", "model"):
        for ending in (".safetensors", ".fp16.safetensors"):
            if (folder / part / (stem + ending)).is_file():
                return [*names, f"{part}/{stem}{ending}"]
    raise ModelError(
        f"the {part} of {reference} has no .safetensors weights; other formats can run code and are refused"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.parent.name}/{path.name} of the base model cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path.parent.name}/{path.name} of the base model is not a JSON object")
    return value
