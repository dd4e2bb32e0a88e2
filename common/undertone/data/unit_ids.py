"""Who a line means: words that stand for nobody, and ids that one person may have been written with.

A patient whose id is spelled in two ways would be two units, each with a guarantee of its own; lines with "nan" would
be a unit each, or one unit of many people. Neither can be guessed, so both are asked about (PRIVACY 1).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

from undertone.core.text import shown

# What pandas and R read as missing, what spreadsheets, databases and DICOM tools write for it, what people type.
# Compared folded and without the signs around it.
_WORDS = """
nan -nan na n/a n.a nat nil none null \\n void undefined unknown unk unspecified missing empty blank anonymous
anonymised anonymized anon redacted removed deidentified de-identified tbd 1.#ind -1.#ind 1.#qnan -1.#qnan
1.#inf -1.#inf
"""
_NOBODY = frozenset((*_WORDS.split(), "n/a n/a", "not available", "not applicable", "not known", "no id"))
# Spreadsheet errors count with their signs alone: "ref" may be somebody.
_ERRORS = frozenset(("#ref!", "#value!", "#name?", "#num!", "#div/0!", "#null!"))
_AROUND = "#<>()[]{}'\"=!?.*"
_QUOTES = "'\"=`"
# Not to be seen, though Unicode counts them as letters, marks or symbols.
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800}
_BLANK |= {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
_MINUS, _APOSTROPHES = "\u2212", "\u2018\u2019\u02bc"
_NUMBERED = re.compile(r"([^0-9]*)0*([0-9]+?)(?:\.0*)?")


def names_nobody(unit: str) -> bool:
    """Whether an id is a word for a missing value, or has nothing in it but signs and spaces."""
    text = plain(unit)
    if text in _ERRORS or text.strip(_AROUND) in _NOBODY:
        return True
    return all(unicodedata.category(letter)[0] in "PZCM" or _is_sign(letter) for letter in text)


def folded(unit: str) -> str:
    """What is left of an id without case, invisible characters and ways of writing: equal for ids that look alike.

    Compatibility forms are one (NFKC), so are all dashes and all apostrophes; runs of spaces are one space, and the
    quotes of spreadsheets are gone. In an id with one number in it that number has no leading zeros and no ".0".
    """
    text = plain(unit).strip(_QUOTES)
    number = _NUMBERED.fullmatch(text)
    return number[1] + number[2] if number else text


def plain(unit: str) -> str:
    """A text without case, invisible characters and compatibility forms; dashes, apostrophes and spaces are one."""
    folded_case = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", unit).casefold())
    return " ".join("".join(map(_letter, folded_case)).split())


def alike(units: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) of each spelling of an id that looks like an earlier one.

    Args:
        units: (where a unit stands first, its id), each id once, in the order of their lines.
    """
    first: dict[str, tuple[str, str]] = {}
    for where, unit in units:
        there, other = first.setdefault(folded(unit), (where, unit))
        if other != unit:
            yield (
                where,
                f'"{_escaped(other)}" and "{_escaped(unit)}" look alike ({there} has the first): one patient needs one '
                "spelling; where they are two people, say --ids-as-written",
            )


def _letter(letter: str) -> str:
    """One character as it is compared; nothing for one that cannot be seen."""
    category = unicodedata.category(letter)
    if letter.isspace():
        return " "
    if category in ("Cc", "Cf") or ord(letter) in _BLANK:
        return ""
    if category == "Pd" or letter == _MINUS:
        return "-"
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    return "'" if letter in _APOSTROPHES else letter


def _is_sign(letter: str) -> bool:
    return unicodedata.category(letter) in ("Sm", "Sc", "Sk")


def _escaped(unit: str) -> str:
    """An id in ASCII: what cannot be seen, or looks like another character, is an escape."""
    return shown(ascii(unit)[1:-1])
