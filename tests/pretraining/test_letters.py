"""Drawings of some kinds alone: a base of letters has seen no digit, and the card says so."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from undertone.errors import InputError, StudyError
from undertone.models.pinned import pin
from undertone.pretraining.config import load_config
from undertone.pretraining.dataset import drawn_set
from undertone.public_images import glyphs, letters, procedural
from undertone.public_images.procedural import KINDS, draw
from undertone_cli.commands.pretrain import pretrain

SIZE = 32


def refuse(*_: object) -> None:
    raise AssertionError("a digit was drawn")


def test_a_series_of_letters_draws_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever draws a digit, by pen or in type, is not even called."""
    monkeypatch.setattr(glyphs, "written_digit", refuse)
    monkeypatch.setattr(glyphs, "_character", refuse)
    shown = []
    whole = glyphs._glyph

    def glyph(font: str, character: str, stroke: int) -> object:
        shown.append(character)
        return whole(font, character, stroke)

    monkeypatch.setattr(glyphs, "_glyph", glyph)
    drawn = [draw(5, index, SIZE, ("letter",)) for index in range(300)]
    assert {image.subject.kind for image in drawn} == {"letter"}
    assert len({image.subject.noun for image in drawn}) == 26
    assert len(shown) > 30
    assert all(character.isascii() and character.isalpha() for character in shown)
    assert set(letters._WAYS) == set(glyphs.LETTERS)
    words = {word for image in drawn for word in image.caption.split()}
    assert words <= set(procedural.WORDS)
    assert not words & set(glyphs.DIGITS)


def test_letters_lie_white_on_black_in_one_box_centred_by_mass() -> None:
    for index in range(100):
        pixels = draw(6, index, SIZE, ("letter",)).pixels
        assert pixels.shape == (SIZE, SIZE, 3)
        assert (pixels == pixels[..., :1]).all()
        ink = pixels[..., 0].astype(float)
        assert ink.max() >= 200
        assert (ink[[0, -1]] == 0).all()
        rows, columns = (np.flatnonzero(ink.max(axis) > 60) for axis in (1, 0))
        assert 15 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 26
        middle = [ink.sum(axis) @ np.arange(SIZE) / ink.sum() - (SIZE - 1) / 2 for axis in (0, 1)]
        assert np.abs(middle).max() < 0.6


def test_a_series_is_a_function_of_its_numbers_and_the_whole_series_stays_what_it_was() -> None:
    np.testing.assert_array_equal(draw(1, 2, SIZE, ["letter"]).pixels, draw(1, 2, SIZE, ("letter",)).pixels)
    mixed = [draw(1, index, SIZE, ["letter", "circle", "head", "stripes", "digit"]) for index in range(60)]
    assert {image.subject.kind for image in mixed} == {"letter", "circle", "head", "stripes", "digit"}
    assert {draw(1, index, SIZE).subject.kind for index in range(300)} > {"letter", "digit", "circle"}
    # The series that embedded:tiny was made of: another would be another base.
    drawn = [draw(1, index, SIZE) for index in range(40)]
    found = b"".join(image.pixels.tobytes() + image.caption.encode() for image in drawn)
    assert sha256(found).hexdigest() == "691ff4955f4faa0f1c0b03f436c314240b669a73c33b24028d36619ae1f69a14"


@pytest.mark.parametrize("kinds", [(), ("lettre",), ("letter", "photograph")])
def test_a_kind_that_is_not_known_is_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="known are digit, letter"):
        draw(1, 1, SIZE, kinds)
    assert "letter" in KINDS


def test_classes_are_the_letters_where_letters_are_drawn_alone() -> None:
    alone = drawn_set(1, 200, 16, kinds=["letter"])
    assert set(alone.class_names()) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert len(alone.class_names()) >= 24
    assert set(drawn_set(1, 60, 16, kinds=["letter", "circle"]).class_names()) == {"letter", "circle"}
    assert set(drawn_set(1, 60, 16, kinds=["digit"]).class_names()) <= set(glyphs.DIGITS)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ('kinds = ["lettre"]', "no drawings of lettre; known are digit, letter"),
        ("kinds = []", "at least 1"),
        ('folder = "images"\nkinds = ["letter"]', "goes without data.folder"),
    ],
)
def test_kinds_that_cannot_be_are_refused(data: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[pretrain]\nname = "x"\n[data]\n{data}\n')
    with pytest.raises(StudyError, match=says):
        load_config(path)


def test_a_base_of_letters_says_which_drawings_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        """[pretrain]
name = "few"
[data]
kinds = ["letter"]
images = 60
size = 16
[unet]
kind = "class"
denoises = "grey"
channels = [8, 16]
steps = 2
batch = 4
"""
    )
    pipeline = pretrain(path, tmp_path / "out", device="cpu", threads=1)
    pinned = pin(str(pipeline))
    assert pinned.drawings == ("letter",)
    assert set(pinned.classes) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    card = (pipeline / "README.md").read_text(encoding="utf-8")
    assert "Drawn were letters alone. No digit was drawn." in card
    assert "phantom" not in card
