"""Finding and pinning a base model: a reference becomes a folder and the SHA-256 of every file used.

No torch here: planning and the coordinator's round loop only need configurations and one embedding.
Safetensors alone are read, and no code from a model folder ever runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from undertone.core.canonical import digest_of, file_sha256
from undertone.errors import ModelError, PlanChanged
from undertone.models.added_tokens import known_tokens, vocabulary
from undertone.models.fitness import check_fitness, check_pipeline, check_scheduler_class
from undertone.models.part_files import Weights, part_files, read_json
from undertone.models.readme import licence_of

EMBEDDED = {"embedded:tiny": Path(__file__).parent / "embedded" / "tiny"}

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
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class PinnedBase:
    """A base model on disk: `files` maps each path used, relative to `folder`, to its SHA-256.

    `stamps` says of each file which one was hashed (inode, length, times).
    """

    reference: str
    revision: str | None
    folder: Path
    files: Mapping[str, str]
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False, repr=False)

    def config(self, part: str) -> dict[str, Any]:
        """The JSON configuration of `unet`, `vae`, `text_encoder` or `scheduler`.

        Raises:
            ModelError: the file is not a JSON object.
        """
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.folder / part / name)

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
        return licence_of(self.folder / "README.md")

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
        files = self.weights_of("text_encoder").files
        for file in files:
            try:
                with safe_open(self.folder / "text_encoder" / file, framework="np") as tensors:
                    key = next((name for name in tensors.keys() if name.endswith("token_embedding.weight")), None)  # noqa: SIM118 - safe_open is no mapping
                    if key is None:
                        continue
                    row: NDArray[np.float32] = tensors.get_slice(key)[vocabulary[token]].astype(np.float32)
                    return row
            except (SafetensorError, OSError, TypeError) as error:
                raise ModelError(f"{file} of {self.reference} has no readable token embeddings: {error}") from None
        raise ModelError(f"{files[0]} of {self.reference} has no readable token embeddings: there is no such tensor")

    def known_tokens(self) -> frozenset[str]:
        """Every text that the tokenizer takes as one token as it stands: its vocabulary and what was added to it.

        Raises:
            ModelError: the tokenizer's files cannot be read.
        """
        return known_tokens(self.folder / "tokenizer")

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor of `unet` or `text_encoder`, by names as the loaded module has them.

        Raises:
            ModelError: the weights cannot be read, or two shards hold one tensor.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file in self.weights_of(part).files:
            try:
                with safe_open(self.folder / part / file, framework="np") as tensors:
                    shapes = {short_name(name): tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - as above
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file} of {self.reference} cannot be read: {error}") from None
            if shapes.keys() & found.keys():
                raise ModelError(
                    f"{part}/{file} of {self.reference} holds {min(shapes.keys() & found.keys())}, which another "
                    "shard holds too; download it again"
                )
            found |= shapes
        return dict(sorted(found.items()))

    def weights_of(self, part: str) -> Weights:
        """The weights of a part, as they were pinned."""
        names = [name.removeprefix(f"{part}/") for name in self.files if name.startswith(f"{part}/")]
        index = next((name for name in names if ".safetensors.index." in name), None)
        return Weights(index, tuple(sorted(name for name in names if name.endswith(".safetensors"))))

    def _vocabulary(self) -> dict[str, int]:
        return vocabulary(self.folder / "tokenizer", self.reference)


def short_name(name: str) -> str:
    """A tensor's name without the level `text_model`, which transformers 5 no longer has and files do."""
    return name.removeprefix("text_model.")


def pin(reference: str, revision: str | None = None) -> PinnedBase:
    """Find a base model and hash the files Undertone uses.

    Args:
        reference: `embedded:tiny`, a folder, or a hub id such as `org/name`.
        revision: the commit of a hub id; required there.

    Raises:
        ModelError: it is not there, lacks a part, or is none that Undertone can adapt (`fitness.py`); the message says
            what and what to do.
    """
    folder = _folder_of(reference, revision)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{reference} has no model_index.json: a base model is a folder in the diffusers layout")
    names = ["model_index.json", *_parts_of(folder, read_json(index), reference)]
    hashed = {name: _hashed(folder, name, reference) for name in sorted(names)}
    return PinnedBase(
        reference,
        revision,
        folder,
        {name: digest for name, (digest, _) in hashed.items()},
        {name: stamp for name, (_, stamp) in hashed.items()},
    )


def is_hub_id(reference: str) -> bool:
    """Whether a reference is spelled as `org/name`."""
    return _HUB_ID.fullmatch(reference) is not None


def files_digest(files: Mapping[str, str]) -> str:
    """One digest for all the pinned files of a base: what a site's policy lists."""
    return digest_of(dict(files))


def stamp_of(path: Path) -> Stamp:
    """Which file it is and when it last changed; another stamp is another file."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
    if not is_hub_id(reference):
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
        # A node, a coordinator or a plan never goes online: `undertone model pin` alone does (fetching.py).
        return Path(snapshot_download(reference, revision=revision, local_files_only=True))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{reference} at {revision} is not in this machine's Hugging Face cache ({type(error).__name__}), and "
            f"nothing is fetched while a study is planned or runs. Where there is a network: undertone model pin "
            f"{reference} --revision {revision}; or copy the model here and give its folder"
        ) from None


def _parts_of(folder: Path, listed: Mapping[str, Any], reference: str) -> list[str]:
    """The files of every part that model_index.json lists."""
    check_pipeline(listed, reference)
    classes = {part: value for part, value in listed.items() if isinstance(value, list) and any(value)}
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
        if value[0] not in _LIBRARIES:
            raise ModelError(
                f"model_index.json of {reference} takes its {part} from {ascii(value[0])[:60]}; classes of "
                f"{', '.join(_LIBRARIES)} are used, and code from a model's folder never runs"
            )
        if part in _OPTIONAL_PARTS and (folder / part).is_dir():
            names += part_files(folder, part, reference)
    check_fitness(folder, names, reference)
    return names


def _class_of(classes: Mapping[str, list[Any]], part: str) -> str | None:
    value = classes.get(part, [None, None])
    return value[1] if len(value) == 2 and isinstance(value[1], str) else None


def _hashed(folder: Path, name: str, reference: str) -> tuple[str, Stamp]:
    """SHA-256 of a file, and which file it was."""
    try:
        before = stamp_of(folder / name)
        digest = file_sha256(folder / name)
        after = stamp_of(folder / name)
    except OSError as error:
        raise ModelError(f"{name} of {reference} cannot be read: {error.strerror or error}") from None
    if before != after:
        raise ModelError(f"{name} of {reference} changed while it was being hashed; wait until it is whole")
    return digest, after
