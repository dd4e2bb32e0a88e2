"""Changing tables of policy.toml by a program: a person's own words in the file stay as they are."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from undertone.core.durable import read_bytes
from undertone.core.settings_file import settings_toml
from undertone.errors import FolderError
from undertone_client.site.policy import Policy


def with_tables(path: Path, policy: Policy, keys: Iterable[str]) -> bytes:
    """policy.toml with the lines of some keys replaced, so that it says `policy`.

    Args:
        path: policy.toml as it is.
        policy: what it should say.
        keys: those that may have changed.

    Raises:
        FolderError: the file cannot be changed line by line; names the lines that a person should write.
    """
    text = read_bytes(path).decode("utf-8-sig")
    written = settings_toml(policy).decode()
    lines = {key: _line(key).search(written) for key in keys}
    wanted = {key: found.group() for key, found in lines.items() if found is not None}
    for key, line in wanted.items():
        there = _line(key).search(text)
        text = f"{line}\n{text}" if there is None else f"{text[: there.start()]}{line}{text[there.end() :]}"
    try:
        says = Policy.model_validate(tomllib.loads(text))
    except ValueError:
        says = None
    if says != policy:
        raise FolderError(
            f"{path} cannot be changed by a program as it is written; write there, each in one line and in place of "
            f"what there is: {' and '.join(wanted.values())}. Then give the same command again"
        )
    return text.encode()


def _line(key: str) -> re.Pattern[str]:
    """The line of a key, or the comment that stands for it."""
    return re.compile(rf"^(?:{key} *=.*|# {key} is not set)$", re.MULTILINE)
