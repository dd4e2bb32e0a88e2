"""Inception features: of a local file of tensors alone, never downloaded, and a clear word where something lacks."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from undertone.errors import InputError, NotInstalled
from undertone.evaluation import inception
from undertone.evaluation.inception import InceptionFeatures


class Network(nn.Module):
    """Stands for torch-fidelity's: it takes a path, loads whatever lies there, and gives 2048 features."""

    def __init__(self, name: str, features: list[str], weights: str) -> None:
        super().__init__()
        assert (name, features) == ("inception-v3-compat", ["2048"])
        self.scale = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.load_state_dict(torch.load(weights, weights_only=False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        return self.scale * images.float().mean((1, 2, 3))[:, None].expand(-1, 2048)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "NoTrainInceptionV3", Network)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"scale": torch.full((1,), 2.0)}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_features_are_those_of_the_network_in_batches(network: None, weights: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    found = InceptionFeatures.from_file(weights)
    assert len(found.sha256) == 64
    features = found.of(images)
    assert features.shape == (70, 2048)
    np.testing.assert_allclose(features[:, 0], 2 * images.mean((1, 2, 3)), rtol=1e-5)


class Evil:
    """A pickle of this touches a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize(
    "kind", ["missing", "text", "pickle that runs", "no dictionary", "no tensors", "other tensors"]
)
def test_what_is_no_file_of_its_tensors_is_refused_and_never_run(
    network: None, weights: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "missing":
        weights.unlink()
    elif kind == "text":
        weights.write_text("weights")
    elif kind == "pickle that runs":
        weights.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    else:
        held: Any = {"no dictionary": [torch.ones(1)], "no tensors": {"scale": "2"}, "other tensors": {}}[kind]
        torch.save(held, weights)
    with pytest.raises(InputError) as found:
        InceptionFeatures.from_file(weights)
    assert str(weights) in str(found.value)
    assert not (tmp_path / "ran").exists()
    if kind == "missing":
        assert "never downloaded" in str(found.value)


def test_without_torch_fidelity_it_says_what_to_install(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> None:
        raise ModuleNotFoundError("NoTrainInceptionV3 module requires that `Torch-fidelity` is installed.")

    monkeypatch.setattr(inception, "NoTrainInceptionV3", lacking)
    with pytest.raises(NotInstalled, match="pip install torch-fidelity"):
        InceptionFeatures.from_file(weights)


def test_a_library_that_cannot_be_imported_is_not_taken_for_a_bad_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torchvision that was built for another torch raises this while it is imported."""

    def broken(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(inception, "NoTrainInceptionV3", broken)
    with pytest.raises(NotInstalled, match="torchvision::nms") as found:
        InceptionFeatures.from_file(weights)
    assert "the torchvision that fits your torch" in str(found.value)
    assert str(weights) not in str(found.value)
