"""Fixtures that several folders of tests share."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undertone_origin import let_waiting_threads_sleep

let_waiting_threads_sleep()  # before numpy and torch load


@pytest.fixture(scope="session", autouse=True)
def public_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public numbers are kept for this session alone, for its own processes too."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["UNDERTONE_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def dummy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model that needs no torch."""
    from tests.support.dummy import make_dummy_base

    return make_dummy_base(tmp_path_factory.mktemp("dummy-base"))


@pytest.fixture
def dummy_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Method `dummy` is registered, and nodes load the dummy base in place of a pipeline."""
    from tests.support.dummy import DummyBase, DummyMethod
    from tests.support.sharded import ShardedDummy
    from undertone.methods.registry import METHODS
    from undertone_client.compute import preparing

    monkeypatch.setitem(METHODS, DummyMethod.name, DummyMethod)
    monkeypatch.setitem(METHODS, ShardedDummy.name, ShardedDummy)
    monkeypatch.setattr(preparing, "_loaded", lambda *_: DummyBase())


@pytest.fixture
def make_world(tmp_path: Path, dummy_base: Path, dummy_method: None) -> Callable[..., Any]:
    """Build a study with dummy sites; see `tests.support.world.build_world`."""
    from tests.support.world import build_world

    del dummy_method
    return lambda sizes=None, **options: build_world(
        tmp_path / "world", dummy_base, sizes or {"north": 6, "east": 4, "south": 4}, **options
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genuine, very small StableDiffusionPipeline with random weights that predicts v (DDIM)."""
    from tests.support.bases import make_base

    return make_base(tmp_path_factory.mktemp("base") / "velocity")


@pytest.fixture(scope="session")
def epsilon_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the scheduler of Stable Diffusion 1: PNDM, which predicts the noise."""
    from tests.support.bases import make_base

    return make_base(tmp_path_factory.mktemp("base") / "noise", velocity=False)


@pytest.fixture(scope="session")
def class_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Told one of three classes, in latents of the size that `tiny_base` has; random weights, v (DDIM)."""
    from tests.support.bases import tiny_class_base

    return tiny_class_base(tmp_path_factory.mktemp("base") / "class", ("clear", "mass", "other"), side=32)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Any:
    """One finished simulation, for tests that look at it or at a copy; see `tests.support.runs.FinishedRun`."""
    from tests.support.runs import finish_run

    return finish_run(tmp_path_factory.mktemp("finished"), tiny_base)


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
