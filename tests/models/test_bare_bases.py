"""Bases that are told a class or nothing, in latents or in pixels: what they say, what is pinned, whose row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.conftest import CASES, CLASSES
from undertone.errors import ModelError, PlanChanged
from undertone.methods.public import public_units
from undertone.models.base import LoadedBase, load_base
from undertone.models.class_names import labels_for
from undertone.models.pinned import check_pins, pin
from undertone.public_images.procedural import draw


@pytest.mark.parametrize("case", CASES)
def test_a_base_says_what_it_is(case: str, bases: dict[str, Path], loaded: dict[str, LoadedBase]) -> None:
    kind, _, what = case.partition(" ")
    pinned, base = pin(str(bases[case])), loaded[case]
    assert pinned.kind == kind
    assert pinned.classes == (CLASSES if kind == "class" else ())
    assert pinned.parts == {"unet", "scheduler"} | (set() if what else {"vae"})
    assert pinned.image_size == base.image_size == 16
    assert base.latent_shape == {"": (4, 4, 4), "pixels": (3, 16, 16), "grey": (1, 16, 16)}[what]
    assert base.labels == ({"cat": 0, "dog": 1, "eel": 2} if kind == "class" else {})
    assert pinned.licence == "apache-2.0"
    used = {str(path.relative_to(bases[case])) for path in bases[case].rglob("*") if path.is_file()}
    assert set(pinned.files) == used - {"README.md"}
    assert not any(parameter.requires_grad for parameter in base.pipeline.unet.parameters())
    assert str(bases[case]) in base.pipeline.unet.config._name_or_path


def test_a_text_base_is_of_kind_text(tiny_base: Path) -> None:
    pinned = pin(str(tiny_base))
    base = load_base(pinned)
    assert (pinned.kind, pinned.classes, base.labels) == ("text", (), {})
    assert base.conditions(["a picture"]).shape == (1, 16, 16)
    base.name_classes(["x", "y"])
    assert base.labels == {}


def test_classes_that_changed_are_another_base(copy: Callable[[str], Path]) -> None:
    folder = copy("class")
    before = pin(str(folder))
    (folder / "classes.json").write_text('["dog", "cat", "eel"]')
    with pytest.raises(PlanChanged, match=r"classes\.json"):
        check_pins(pin(str(folder)), before.files)
    with pytest.raises(PlanChanged, match=r"classes\.json .* changed"):
        load_base(before)


def test_drawings_that_a_base_was_made_of_are_pinned_and_no_others_go_with_it(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public rows of a letters base are of letters: what could draw a digit is not called."""
    folder = copy("class")
    assert pin(str(folder)).drawings is None
    (folder / "drawings.json").write_text('["letter"]')
    pinned = pin(str(folder))
    assert pinned.drawings == ("letter",)
    assert "drawings.json" in pinned.files

    def refuse(*_: object) -> None:
        raise AssertionError("a digit may be drawn")

    monkeypatch.setattr("undertone.public_images.procedural._pick_kind", refuse)
    base = load_base(pinned)
    found = public_units(base, 5, 2, "")
    letters = np.stack([draw(5, number, 16, ["letter"]).pixels for number in range(2)])
    np.testing.assert_array_equal(np.concatenate([one.inputs for one in found]), base.encode(letters))
    for wrong, says in (("{}", "no JSON list"), ('["Letter x"]', "no kind of drawings"), ("[" * 9999, "no JSON list")):
        (folder / "drawings.json").write_text(wrong)
        with pytest.raises(ModelError, match=says):
            pin(str(folder))
    (folder / "drawings.json").write_text(" " * (1 << 17))
    with pytest.raises(ModelError, match="longer than 64 KiB"):
        pin(str(folder))


# --- labels -----------------------------------------------------------------------------------------


def test_names_that_the_base_has_keep_their_rows_and_others_take_what_is_left() -> None:
    base = ("A", "B", "C", "D")
    assert labels_for(["7", "C", "1"], base) == {"7": 1, "C": 2, "1": 0}
    assert labels_for(["D", "A"], base) == {"D": 3, "A": 0}
    assert labels_for([], base) == {}
    with pytest.raises(ModelError, match="5 classes do not fit a base that is told one of 4"):
        labels_for(["A", "1", "2", "3", "4"], base)


names = st.lists(st.sampled_from("ABCDEFGHabcdefgh"), unique=True, max_size=8)


@given(names.filter(bool), names, st.randoms())
def test_labels_are_one_row_each_and_do_not_depend_on_the_order_of_a_study(
    base: list[str], study: list[str], random: Any
) -> None:
    study = study[: len(base)]
    found = labels_for(study, base)
    assert sorted(set(found.values())) == sorted(found.values())
    assert all(0 <= row < len(base) for row in found.values())
    assert list(found) == study
    assert all(base[found[name]] == name for name in study if name in base)
    shuffled = random.sample(study, len(study))
    assert labels_for(shuffled, base) == found
