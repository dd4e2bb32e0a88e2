"""A study's public list of classes, as a person typed it, and which of them a record's text names (PRIVACY 23)."""

import unicodedata
from collections.abc import Mapping, Sequence

FEWEST, MOST, LONGEST = 2, 64, 64


def fault(classes: Sequence[str]) -> str:
    """What is wrong with a list of classes, in words; "" if nothing is.

    Each is one line of 1 to 64 printable characters without spaces around it, and no two are alike but for case.
    """
    if not FEWEST <= len(classes) <= MOST:
        return f"{len(classes)} classes; a study has {FEWEST} to {MOST}"
    seen: dict[str, str] = {}
    for name in classes:
        if not 1 <= len(name) <= LONGEST or not name.isprintable() or name != _plain(name):
            return f"{ascii(name)[:LONGEST]} is not one line of 1 to {LONGEST} characters without spaces around it"
        if name.casefold() in seen:
            return f'"{seen[name.casefold()]}" and "{name}" are one class, or look like one; write each once'
        seen[name.casefold()] = name
    return ""


def place_of(text: str, classes: Sequence[str]) -> int | None:
    """Which class of the list a record's text names; None: none.

    Spaces around it and two ways of composing an accented letter make no other class; case does.
    """
    said = _plain(text)
    return classes.index(said) if said in classes else None


def class_in(columns: Mapping[str, str], column: str, classes: Sequence[str]) -> int | None:
    """Which class of the list a record's columns name; None: none, and the record has no part in the study."""
    return place_of(columns.get(column, ""), classes)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())
