"""Which files of one part of a base are used: its settings and exactly one set of weights.

weights, by preference    <stem>.safetensors                     one file
                          <stem>.safetensors.index.json          an index and every shard it names
                          <stem>.fp16.safetensors                the same two in half precision,
                          <stem>.safetensors.index.fp16.json     where there is nothing else

What would make a stock loader read other weights than these is refused, so that the folder means the same to
everyone: one file *and* an index, an adapter, a setting that names a file or code. Whatever else lies there
(`.bin`, `.ckpt`, `.msgpack`, Python, other precisions) is not used and is never seen by a loader (`staging.py`).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertone.errors import ModelError

STEMS = {
    "vae": "diffusion_pytorch_model",
    "vqvae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
_SETTINGS = (".json", ".txt", ".jinja", ".model")
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
_PLAIN = re.compile(r"[\w.-]{1,200}", re.ASCII)
# Settings by which a loader would read files, or run code, that no pin names.
_POINTERS = ("auto_map", "custom_pipeline", "transformers_weights")
_ADAPTER = "adapter_config.json"
_LONGEST_JSON = 1 << 26  # bytes


@dataclass(frozen=True)
class Weights:
    """The weights of one part: `index` is None where they are one file. Names within the part's folder."""

    index: str | None
    files: tuple[str, ...]


def part_files(folder: Path, part: str, reference: str) -> list[str]:
    """The files of one part that are used, relative to `folder`.

    Raises:
        ModelError: the part has no safetensors, or could be read in two ways; names the file and the way on.
    """
    names = [path.name for path in sorted((folder / part).iterdir()) if path.name.endswith(_SETTINGS)]
    names = [name for name in names if not _INDEX.search(name)]
    for name in names:
        _check_settings(folder, part, name, reference)
    if part in STEMS:
        weights = find_weights(folder, part, reference)
        names += [*weights.files, *([weights.index] if weights.index else [])]
    return [f"{part}/{name}" for name in names]


def find_weights(folder: Path, part: str, reference: str) -> Weights:
    """The one set of weights of a part.

    Raises:
        ModelError: there is none in safetensors, there are two, or an index names what cannot be a shard.
    """
    stem = STEMS[part]
    for single, indices in (
        (f"{stem}.safetensors", [f"{stem}.safetensors.index.json"]),
        (
            f"{stem}.fp16.safetensors",
            [f"{stem}.safetensors.index.fp16.json", f"{stem}.fp16.safetensors.index.json"],
        ),
    ):
        found = [name for name in (single, *indices) if (folder / part / name).exists()]
        if len(found) > 1:
            raise ModelError(
                f"{reference} has two sets of weights for {part}: {part}/{found[0]} and {part}/{found[1]}. Loaders "
                "differ in which of them they read; remove the one that is not meant"
            )
        if found == [single]:
            _regular(folder, part, single, reference)
            return Weights(None, (single,))
        if found:
            return Weights(found[0], _shards(folder, part, found[0], reference))
    raise ModelError(
        f"the {part} of {reference} has no .safetensors weights; other formats can run code and are refused"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a base model.

    Raises:
        ModelError: it is none, or is no file.
    """
    name = f"{path.parent.name}/{path.name} of the base model"
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST_JSON:
            raise ModelError(f"{name} is missing, is no file, or is larger than 64 MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{name} is not a JSON object")
    return value


def _check_settings(folder: Path, part: str, name: str, reference: str) -> None:
    _regular(folder, part, name, reference)
    if name == _ADAPTER:
        raise ModelError(
            f"{reference} holds {part}/{name}: loaders would put an adapter into the {part} that no plan names. "
            "Merge it into the weights, or remove it"
        )
    if name.endswith("config.json"):
        for key in _POINTERS:
            if read_json(folder / part / name).get(key) is not None:
                raise ModelError(
                    f'{part}/{name} of {reference} has the key "{key}", by which a loader would read files or run '
                    "code that no plan names; remove the key"
                )


def _regular(folder: Path, part: str, name: str, reference: str) -> None:
    if not _PLAIN.fullmatch(name):
        raise ModelError(
            f"{part}/{ascii(name)[1:-1][:200]} of {reference}: names of a base's files are letters, digits, dots, - "
            "and _; rename or remove it"
        )
    if not (folder / part / name).is_file():  # a pipe would be waited for
        raise ModelError(f"{part}/{name} of {reference} is not a file, or leads nowhere; restore or remove it")


def _shards(folder: Path, part: str, index: str, reference: str) -> tuple[str, ...]:
    """The files that an index names, each a plain name beside it."""
    _regular(folder, part, index, reference)
    listed = read_json(folder / part / index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ModelError(f"{part}/{index} of {reference} names no shards (weight_map); download it again")
    for name in listed.values():
        if not isinstance(name, str) or not _PLAIN.fullmatch(name) or not name.endswith(".safetensors"):
            raise ModelError(
                f"{part}/{index} of {reference} names the shard {ascii(name)[:200]}; a shard is a .safetensors file "
                "beside its index"
            )
        if not (folder / part / name).is_file():
            raise ModelError(f"{part}/{name} of {reference} is missing: {part}/{index} names it; download it again")
    return tuple(sorted(set(listed.values())))
