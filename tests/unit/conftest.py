"""Fixtures of the unit tests."""

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
