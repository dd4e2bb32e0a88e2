"""Fixtures of the unit tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every noise vector that the gate draws."""
    from undertone_server import gate

    drawn: list[np.ndarray] = []
    sampler = gate.rounded_gaussian

    def recorded(*args: Any) -> np.ndarray:
        drawn.append(sampler(*args))
        return drawn[-1]

    monkeypatch.setattr(gate, "rounded_gaussian", recorded)
    return drawn


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing of what it wrote, there or on a disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path_factory.mktemp("crashes")
        return
    path = Path(tempfile.mkdtemp(dir=memory))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def begin(dummy_base: Path, memory_folder: Path) -> Iterator[Callable[..., Any]]:
    """Begin a story of a study whose processes can be killed; see `tests.support.crashes.Library`."""
    from tests.support.crashes import Forks, Library

    forks = Forks(dummy_base)
    yield Library(forks, memory_folder).begin
    forks.close()
