"""What methods are given and what they declare: a unit's records, blanks, the parts of a base, kinds of release."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DummyMethod, DummyOptions
from undertone.errors import MechanismViolation, ModelError, UnfitWeights
from undertone.methods.protocol import TEXT_TO_IMAGE, UnitRecords, blank_like, blank_unit, check_needs
from undertone.methods.registry import METHODS, format_of, method_for, release_formats
from undertone.methods.weights import attach, read_weights
from undertone.models.base import LoadedBase
from undertone.models.interface import Base
from undertone.models.pinned import pin
from undertone_client.compute.padding import padded

LATENTS = np.zeros((2, 4, 8, 8), dtype=np.float32)
PIXELS = np.zeros((2, 64, 64, 3), dtype=np.uint8)
CLASSES = np.array([0, 3], dtype=np.int64)
WORDS = ("a", "b")


def unit(latents: Any = None, captions: Any = WORDS, **more: Any) -> UnitRecords:
    return UnitRecords(latents, captions, np.random.Generator(np.random.Philox(key=1)), **more)


@pytest.mark.parametrize(
    "held",
    [
        {"latents": LATENTS},
        {"pixels": PIXELS},
        {"latents": LATENTS, "pixels": PIXELS, "classes": CLASSES},
        {"pixels": PIXELS, "classes": CLASSES},
    ],
    ids=lambda held: "+".join(held),
)
def test_records_are_latents_or_pixels_or_both(held: dict[str, Any]) -> None:
    whole = unit(**held)
    blank = blank_like(whole)
    for name in ("latents", "pixels", "classes"):
        one, other = getattr(whole, name), getattr(blank, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert (other.shape, other.dtype) == ((1, *one.shape[1:]), one.dtype)
            assert not other.any()
    assert blank.captions == ("",)
    assert [sorted(vars(one)) for one in padded([whole], 3)] == [sorted(vars(whole))] * 3


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({}, "neither latents nor pixels"),
        ({"classes": CLASSES}, "neither latents nor pixels"),
        ({"latents": LATENTS[:1]}, "not as many"),
        ({"latents": LATENTS, "captions": ("a",)}, "not as many"),
        ({"latents": LATENTS, "pixels": PIXELS[:1]}, "not as many"),
        ({"pixels": PIXELS, "classes": CLASSES[:1]}, "not as many"),
        ({"latents": LATENTS[:0], "captions": ()}, "not as many"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(held: dict[str, Any], why: str) -> None:
    with pytest.raises(MechanismViolation, match=why):
        unit(**held)


def test_a_method_of_latents_refuses_a_unit_of_pixels() -> None:
    np.testing.assert_array_equal(unit(LATENTS).inputs, LATENTS)
    with pytest.raises(MechanismViolation, match="came without"):
        _ = unit(pixels=PIXELS).inputs


def test_blanks_are_the_same_every_time() -> None:
    first, second = (blank_unit((4, 8, 8), (64, 64, 3), classes=True) for _ in range(2))
    assert first.generator.random() == second.generator.random()


@pytest.mark.parametrize("part", sorted(TEXT_TO_IMAGE))
def test_a_base_without_a_part_that_a_method_needs_is_refused(dummy_base: Path, part: str) -> None:
    pinned = pin(str(dummy_base))
    lacking = replace(pinned, files={name: sha for name, sha in pinned.files.items() if not name.startswith(part)})
    for method in (method_for(name, {}) for name in METHODS):
        check_needs(method, pinned)
        if part not in method.needs:
            check_needs(method, lacking)
            continue
        with pytest.raises(ModelError, match=f"{method.name} needs a base with {part}"):
            check_needs(method, lacking)
    check_needs(DummyMethod(DummyOptions()), lacking)


def test_a_loaded_base_is_what_methods_use() -> None:
    """mypy holds the types against the protocol; this, that no name of it is missing."""
    wanted = {name for name in (*vars(Base), *Base.__annotations__) if not name.startswith("_")}
    parts = {"pinned", "pipeline", "schedule", "device", "image_size", "latent_shape", "labels", "drawer"}
    assert parts | {"encode", "decode", "predict", "conditions", "name_classes"} == wanted
    assert wanted <= {*vars(LoadedBase), *LoadedBase.__dataclass_fields__}


def test_kinds_of_release_are_told_apart_by_their_files() -> None:
    formats = release_formats()
    files = [file for one in formats for file in one.files]
    assert len(files) == len(set(files)) >= 3
    for method in METHODS.values():
        assert all(format_of(one.files) is one for one in method.formats)
    assert format_of([]) is None
    assert format_of(files[:2]) is None
    assert len({one.describe() for one in formats}) == len(formats)


def test_weights_of_two_kinds_and_of_none_are_refused(tmp_path: Path) -> None:
    first, second = release_formats()[:2]
    nothing: Any = None
    with pytest.raises(ModelError, match="not of a kind"):
        attach(nothing, {file: {} for file in (*first.files, *second.files)})
    for file in (*first.files, *second.files):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(UnfitWeights, match="one of them"):
        read_weights(tmp_path)


@pytest.mark.parametrize("value", [np.float32(np.nan), np.float32(np.inf), np.float64(0)])
def test_no_format_sees_a_value_that_is_not_finite_or_not_float32(value: Any) -> None:
    nothing: Any = None
    for one in release_formats():
        with pytest.raises(UnfitWeights, match="not float32, or holds a value"):
            attach(nothing, {file: {"x": np.array([value])} for file in one.files})
