"""Finding and pinning a base model: a reference becomes a folder and the SHA-256 of every file used.

No torch here: planning and the coordinator's round loop only need configurations and one embedding.
Safetensors alone are read, and no code from a model folder ever runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from undertone.core.canonical import digest_of, file_sha256, sha256_hex
from undertone.errors import ModelError, PlanChanged
from undertone.models.added_tokens import known_tokens, vocabulary
from undertone.models.class_names import FILE as CLASSES
from undertone.models.class_names import parse_classes, read_classes
from undertone.models.drawn_kinds import FILE as DRAWINGS
from undertone.models.drawn_kinds import parse_kinds, read_kinds
from undertone.models.kinds import INDEX, TEXT, Kind, find_base
from undertone.models.part_files import Weights, read_json
from undertone.models.readme import licence_of

EMBEDDED = {"embedded:tiny": Path(__file__).parent / "embedded" / "tiny"}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_OTHER_VAE = "vqvae"
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(rf"(.*attentions\.\d+\.)({'|'.join(_NEW_ATTENTION)})(\.\w+)")
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class PinnedBase:
    """A base model on disk: `files` maps each path used, relative to `folder`, to its SHA-256.

    `stamps` says of each file which one was hashed (inode, length, times). `kind` is what the UNet is told: "text", a
    "class", or "none". `classes` are the names of a class base in the order of their labels, () elsewhere. `drawings`
    are the kinds of public drawings that it was made of alone (`drawn_kinds.py`), None where nothing says so.
    """

    reference: str
    revision: str | None
    folder: Path
    files: Mapping[str, str]
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False, repr=False)
    kind: Kind = TEXT
    classes: tuple[str, ...] = ()
    drawings: tuple[str, ...] | None = None

    @property
    def parts(self) -> frozenset[str]:
        """The parts it has, as methods name them: an LDMPipeline calls its autoencoder "vqvae", here it is "vae"."""
        folders = {name.partition("/")[0] for name in self.files if "/" in name}
        return frozenset("vae" if folder == _OTHER_VAE else folder for folder in folders)

    def folder_of(self, part: str) -> str:
        """The name of a part's folder: the part's own, or that of an LDMPipeline's autoencoder."""
        other = part == "vae" and any(name.startswith(f"{_OTHER_VAE}/") for name in self.files)
        return _OTHER_VAE if other else part

    def config(self, part: str) -> dict[str, Any]:
        """The JSON configuration of `unet`, `vae`, `text_encoder` or `scheduler`.

        Raises:
            ModelError: the file is not a JSON object.
        """
        if part not in self._configs:
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            self._configs[part] = read_json(self.folder / self.folder_of(part) / name)
        return self._configs[part]

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        """Those that were read, by part: methods ask for each row."""
        return {}

    @property
    def pipeline(self) -> str:
        """The stock pipeline that model_index.json names; "" of a class base, which is parts alone."""
        return "" if self.kind == "class" else str(read_json(self.folder / INDEX).get("_class_name", ""))

    @property
    def embedding_width(self) -> int:
        """Width of a token embedding."""
        return int(self.config("text_encoder")["hidden_size"])

    @property
    def image_size(self) -> int:
        """Side of the images in pixels: the latent side times the autoencoder's factor; of a base of pixels its own."""
        factor: int = 2 ** (len(self.config("vae")["block_out_channels"]) - 1) if "vae" in self.parts else 1
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
        """Name -> shape of every tensor of `unet`, `vae` or `text_encoder`, by names as the loaded module has them.

        Raises:
            ModelError: the weights cannot be read, or two shards hold one tensor.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file in self.weights_of(part).files:
            try:
                with safe_open(self.folder / self.folder_of(part) / file, framework="np") as tensors:
                    shapes = {_loaded_name(name): tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - as above
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
        folder = f"{self.folder_of(part)}/"
        names = [name.removeprefix(folder) for name in self.files if name.startswith(folder)]
        index = next((name for name in names if ".safetensors.index." in name), None)
        return Weights(index, tuple(sorted(name for name in names if name.endswith(".safetensors"))))

    def _vocabulary(self) -> dict[str, int]:
        return vocabulary(self.folder / "tokenizer", self.reference)


def short_name(name: str) -> str:
    """A tensor's name without the level `text_model`, which transformers 5 no longer has and files do."""
    return name.removeprefix("text_model.")


def _loaded_name(name: str) -> str:
    """A tensor's name as the loaded module has it: files of before 2023 have other names for parts of attention."""
    found = _OLD_ATTENTION.fullmatch(name)
    return short_name(name) if found is None else f"{found[1]}{_NEW_ATTENTION[found[2]]}{found[3]}"


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
    found = find_base(folder, reference)
    drawn = (folder / DRAWINGS).exists()
    names = sorted((*found.files, DRAWINGS) if drawn else found.files)
    hashed = {name: _hashed(folder, name, reference) for name in names}
    digests = {name: digest for name, (digest, _) in hashed.items()}
    return PinnedBase(
        reference,
        revision,
        folder,
        digests,
        {name: stamp for name, (_, stamp) in hashed.items()},
        found.kind,
        _classes(folder, digests, reference) if found.kind == "class" else (),
        _drawings(folder, digests, reference) if drawn else None,
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


def _classes(folder: Path, digests: Mapping[str, str], reference: str) -> tuple[str, ...]:
    """The names in classes.json, from the very bytes that were hashed."""
    data = read_classes(folder, reference)
    if sha256_hex(data) != digests[CLASSES]:
        raise ModelError(f"{CLASSES} of {reference} changed while it was being hashed; wait until it is whole")
    return parse_classes(data, reference)


def _drawings(folder: Path, digests: Mapping[str, str], reference: str) -> tuple[str, ...]:
    """The kinds in drawings.json, likewise."""
    data = read_kinds(folder, reference)
    if sha256_hex(data) != digests[DRAWINGS]:
        raise ModelError(f"{DRAWINGS} of {reference} changed while it was being hashed; wait until it is whole")
    return parse_kinds(data, reference)


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
