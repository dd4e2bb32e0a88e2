"""Caption templates: how a record is described in words, with `{token}` where the word stands that a method learns."""

import string
from collections.abc import Mapping

# The one field that the method fills; every other one is a column of a site's table.
TOKEN = "token"


def caption_fields(caption: str) -> list[str]:
    """The names in braces of a caption template, in order.

    Raises:
        ValueError: not a template: unbalanced braces, or anything but a plain name between them.
    """
    try:
        parts = list(string.Formatter().parse(caption))
    except ValueError as error:
        raise ValueError(f'data.caption = "{caption}" is not a template: {error}') from None
    fields = [name for _, name, _, _ in parts if name is not None]
    for _, name, spec, conversion in parts:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(f'data.caption: "{{{name}}}" is not a column name; write for example {{finding}}')
    return fields


def caption_columns(caption: str) -> list[str]:
    """The fields of a caption template that are columns of a site's table, in order.

    Raises:
        ValueError: as `caption_fields`.
    """
    return [name for name in caption_fields(caption) if name != TOKEN]


def fill_caption(caption: str, token: str, columns: Mapping[str, str]) -> str:
    """The caption: its template filled in with the token and a record's columns; absent columns are empty."""
    fields = {name: columns.get(name, "") for name in caption_fields(caption)}
    return caption.format(**(fields | {TOKEN: token})).strip(" ,;")


def placeholders(token: str, vectors: int) -> list[str]:
    """`<x>`, `<x>_1`, ...: the names diffusers gives a token of several vectors."""
    return [token] + [f"{token}_{index}" for index in range(1, vectors)]
