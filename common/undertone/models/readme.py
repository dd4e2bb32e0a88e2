"""The licence that a base model's card names: what a stranger wrote, read with bounds."""

import re
from pathlib import Path

UNKNOWN = "unknown"
_LONGEST_CARD = 1 << 16  # bytes; the front matter stands at the beginning
_LICENCE = re.compile(r"[A-Za-z0-9 .+-]{1,60}")
_MOST = 5


def licence_of(card: Path) -> str:
    """The licence in a card's front matter, a word or a list of words, or "unknown".

    A value over several lines, or with other characters than licences have, is unknown: it would be copied into plans,
    statements and cards.
    """
    try:
        if not card.is_file():
            return UNKNOWN
        with card.open("rb") as stream:
            text = stream.read(_LONGEST_CARD).decode("utf-8", errors="replace")
    except OSError:
        return UNKNOWN
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return UNKNOWN
    end = next(number for number, line in enumerate(lines[1:], 1) if line.strip() == "---")
    return _licence_in(lines[1:end])


def _licence_in(lines: list[str]) -> str:
    places = [number for number, line in enumerate(lines) if re.match(r"licen[sc]e\s*:", line)]
    if len(places) != 1:
        return UNKNOWN
    value, rest = lines[places[0]].split(":", 1)[1], lines[places[0] + 1 :]
    value = re.sub(r"\s#.*$", "", value).strip()
    below = []
    for line in rest:
        if not re.match(r"\s|-(\s|$)", line):
            break
        below.append(line.strip())
    if value and below:
        return UNKNOWN  # goes on over several lines
    if value.startswith("[") and value.endswith("]"):
        words = value[1:-1].split(",")
    elif value:
        words = [value]
    else:
        words = [line[1:] for line in below if line.startswith("-")] if all(b.startswith("-") for b in below) else []
    words = [_unquoted(word.strip()) for word in words]
    if not 1 <= len(words) <= _MOST or not all(_LICENCE.fullmatch(word) for word in words):
        return UNKNOWN
    return ", ".join(words)


def _unquoted(word: str) -> str:
    quoted = len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'"
    return word[1:-1] if quoted else word
