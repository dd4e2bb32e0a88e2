"""TOML files read strictly: studies, a site's own files, configurations of pre-training.

Unknown keys are errors that name the closest known one; every message is one line that says which
key, what is wrong with it and what would do.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from undertone.core.encodings import HEAD, other_than_utf8
from undertone.core.text import shown
from undertone.errors import StudyError

ModelT = TypeVar("ModelT", bound=BaseModel)


class Section(BaseModel):
    """A frozen table of a file; keys it does not know are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        StudyError: the file is missing or is not TOML.
    """
    try:
        data = path.read_bytes()
        other = other_than_utf8(data[:HEAD])
        text = "" if other else data.decode("utf-8-sig")  # Windows editors write a mark of byte order
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {_reason(error)}") from None
    if other:
        raise StudyError(f"{path}: cannot be read: it is {other}")
    try:
        return tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except RecursionError:
        raise StudyError(f"{path.name}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        raise StudyError(f"{path.name}: not valid TOML: {shown(str(error))}") from None


def parse_options(model: type[ModelT], options: dict[str, Any]) -> ModelT:
    """Validate a method's own keys.

    Raises:
        StudyError: an unknown key (names the closest) or a bad value.
    """
    return parse_tables(model, options, "[method]")


def parse_tables(model: type[ModelT], tables: dict[str, Any], source: str) -> ModelT:
    """Validate any tables by a model; `source` names them in messages.

    Raises:
        StudyError: an unknown key (names the closest) or a bad value.
    """
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        raise StudyError(f"{source}: {shown(' '.join(_first_line(error, model).split()), 500)}") from None


def _first_line(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first thing that is wrong: an unknown key before anything else."""
    errors = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    found, where = errors[0], _where(errors[0]["loc"])
    if found["type"] == "extra_forbidden":
        known = _known_keys(model, found["loc"][:-1])
        near = difflib.get_close_matches(str(found["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key {where}; did you mean {near[0]}?" if near else f"unknown key {where}"
    if found["type"] == "missing":
        return f"{where} is missing; add it"
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "value_error":
        return message
    either = [item["msg"] for item in errors if _where(item["loc"]) == where]
    return f"{where} = {found['input']!r}: {' or '.join(either)}"


def _where(path: tuple[int | str, ...]) -> str:
    """The key's place, without pydantic's names for the members of a union."""
    return ".".join(str(part) for part in path if not str(part).startswith(("constrained-", "literal[")))


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
