"""Settings as TOML that explains itself: above each key stands what its model says of it."""

import json
from collections.abc import Mapping, Sequence
from textwrap import wrap

from undertone.core.config import Section
from undertone.core.quoting import toml_text
from undertone.core.text import shown
from undertone.errors import FolderError

Value = str | int | float | bool | Sequence["Value"] | Mapping[str, "Value"]
_WIDTH = 100


def settings_toml(section: Section) -> bytes:
    """Settings with their descriptions as comments; a key without a value is a comment too.

    Raises:
        FolderError: names the setting that holds what is not UTF-8 text.
    """
    parts: list[str] = []
    values = section.model_dump(mode="python")
    for key, field in type(section).model_fields.items():
        lines = [f"# {line}" for line in wrap(field.description or "", _WIDTH - 2)]
        try:
            lines.append(f"# {key} is not set" if values[key] is None else f"{key} = {_toml_value(values[key])}")
        except ValueError:
            raise FolderError(
                f"{key} = {shown(str(values[key]))} is not UTF-8 text, which a settings file cannot hold; rename the "
                "file or folder, or put a link with a plain name beside it"
            ) from None
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts).encode()


def _toml_value(value: Value) -> str:
    if isinstance(value, str):
        return toml_text(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{toml_text(key)} = {_toml_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)
