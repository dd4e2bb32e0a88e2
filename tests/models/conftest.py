"""Bases that are told a class or nothing, in latents and in pixels."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bases import tiny_class_base, tiny_none_base
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import pin

CLASSES = ("cat", "dog", "eel")
CASES = ("class", "class pixels", "class grey", "none", "none pixels", "none grey")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("bare"), {}
    for case in CASES:
        kind, _, what = case.partition(" ")
        shape: dict[str, Any] = {"pixels": bool(what), "channels": 1 if what == "grey" else 3}
        target = folder / case.replace(" ", "-")
        found[case] = tiny_class_base(target, CLASSES, **shape) if kind == "class" else tiny_none_base(target, **shape)
    return found


@pytest.fixture(scope="module")
def loaded(bases: dict[str, Path]) -> dict[str, LoadedBase]:
    return {case: load_base(pin(str(folder))) for case, folder in bases.items()}


@pytest.fixture
def copy(bases: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda case: Path(shutil.copytree(bases[case], tmp_path / "base"))
