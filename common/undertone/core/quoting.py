"""Text from others, quoted for each language: it stays a value there and never becomes syntax.

Prompts, captions, names of bases and licences reach model cards, which hold YAML, Markdown, Python and shell. All but
`toml_text`, which is exact, give bounded text on one line, without control characters (`text.py`).
"""

import json
import re
import shlex

from undertone.core.text import shown

LONGEST = 300
_PLAIN = re.compile(r"[A-Za-z0-9 .+-]*")
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def yaml_text(text: str, most: int = LONGEST) -> str:
    """A double-quoted YAML scalar; JSON spells printable text the same way."""
    return json.dumps(shown(text, most), ensure_ascii=False)


def toml_text(text: str) -> str:
    """A TOML basic string, exactly `text`.

    Raises:
        ValueError: it holds a lone surrogate, such as a file name that is not UTF-8; TOML has no spelling for it.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it is not UTF-8 text")
    # JSON escapes what TOML forbids, except DEL. Beyond the BMP it would write surrogates, so those stay as they are.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def python_text(text: str, most: int = LONGEST) -> str:
    """A Python string literal, printable and on one line; a text beyond `most` characters is cut."""
    return repr(text if len(text) <= most else f"{text[:most]}...")


def shell_text(text: str, most: int = LONGEST) -> str:
    """One word of a POSIX shell."""
    return shlex.quote(shown(text, most))


def markdown_code(text: str, most: int = LONGEST) -> str:
    """A code span: fenced by more backticks than it holds."""
    plain = shown(text, most)
    longest = max(map(len, re.findall("`+", plain)), default=0)
    if not longest:
        return f"`{plain}`"
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}"


def markdown_text(text: str, most: int = LONGEST) -> str:
    """Prose in which no character is markup, in a table too."""
    plain = shown(text, most)
    if _PLAIN.fullmatch(plain) and "www." not in plain:
        return plain
    return _PUNCTUATION.sub(r"\\\1", plain)
