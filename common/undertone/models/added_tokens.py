"""The texts that a tokenizer knows as one token: its vocabulary, and what was added to it later. No torch.

Added tokens stand in one of four files, by the age of the library that wrote them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undertone.errors import ModelError
from undertone.models.part_files import read_json

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def vocabulary(folder: Path, reference: str) -> dict[str, int]:
    """Word -> number, of a tokenizer's folder.

    Raises:
        ModelError: there is none.
    """
    listed = folder / "vocab.json"
    found = read_json(listed) if listed.is_file() else _model(read_json(folder / "tokenizer.json"))
    if not found or not all(isinstance(number, int) for number in found.values()):
        raise ModelError(f"the tokenizer of {reference} has no vocabulary (vocab.json or tokenizer.json)")
    return found


def known_tokens(folder: Path) -> frozenset[str]:
    """Every text that any of a tokenizer's files lists.

    Raises:
        ModelError: a file is no JSON object.
    """
    files = {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}
    settings, whole = files.get("tokenizer_config.json", {}), files.get("tokenizer.json", {})
    found = [
        *files.get("vocab.json", {}),
        *_model(whole),
        *files.get("added_tokens.json", {}),
        *_contents(whole.get("added_tokens")),
        *_contents(settings.get("added_tokens_decoder")),
    ]
    for listed in (settings, files.get("special_tokens_map.json", {})):
        found += _contents([listed.get(key) for key in _SPECIAL])
        found += [*_contents(listed.get("additional_special_tokens")), *_contents(listed.get("extra_special_tokens"))]
    return frozenset(found)


def _model(whole: dict[str, Any]) -> dict[str, Any]:
    """The vocabulary within tokenizer.json."""
    model = whole.get("model")
    found = model.get("vocab") if isinstance(model, dict) else None
    return found if isinstance(found, dict) else {}


def _contents(tokens: Any) -> Iterator[str]:  # noqa: ANN401 - as a file has it
    """Tokens spelled as text, or as an object with `content`; in a list or by number."""
    listed = tokens.values() if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else ()
    for one in listed:
        text = one.get("content") if isinstance(one, dict) else one
        if isinstance(text, str):
            yield text
