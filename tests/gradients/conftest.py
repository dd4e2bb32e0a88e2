"""The models here are small: their gradients are made as a large model's are, unless a test says otherwise."""

import pytest

from undertone.gradients import engine


@pytest.fixture(autouse=True)
def as_a_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW", 0)
