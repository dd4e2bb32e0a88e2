"""A public list of classes, and which of it a record's text names."""

import pytest

from undertone.core.classes import LONGEST, MOST, class_in, fault, place_of

CLASSES = ["none", "pneumonia", "\u00c9panchement"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("none", 0),
        (" pneumonia ", 1),
        ("E\u0301panchement", 2),  # composed otherwise
        ("Pneumonia", None),  # case makes another word: nothing is guessed
        ("pneumonias", None),
        ("", None),
        ("none\npneumonia", None),
    ],
)
def test_a_text_names_one_class_of_the_list_or_none(text: str, place: int | None) -> None:
    assert place_of(text, CLASSES) == place
    assert class_in({"finding": text, "other": "none"}, "finding", CLASSES) == place
    assert class_in({"other": "none"}, "finding", CLASSES) is None


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        (["one"], "1 classes"),
        ([str(number) for number in range(MOST + 1)], "65 classes"),
        (["none", ""], "not one line"),
        (["none", " none"], "not one line"),
        (["none", "a\nb"], "not one line"),
        (["none", "\x1b[31mred"], "not one line"),
        (["none", "E\u0301"], "not one line"),  # would never be equal to what a record says
        (["none", "x" * (LONGEST + 1)], "not one line"),
        (["none", "mass", "none"], "one class"),
        (["none", "None"], "one class"),
    ],
)
def test_what_is_no_list_is_named(classes: list[str], why: str) -> None:
    assert why in fault(classes)


@pytest.mark.parametrize("classes", [CLASSES, ["0", "1"], ["a, b", "c {d}"], [str(n) for n in range(MOST)]])
def test_a_list_is_a_list(classes: list[str]) -> None:
    assert fault(classes) == ""
