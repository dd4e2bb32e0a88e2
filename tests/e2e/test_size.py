"""A study as large as Flower is asked to carry: ten million values under secure aggregation."""

import resource
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.support.dummy import DummyMethod, DummyOptions
from tests.support.hand_session import plain_sum
from tests.support.world import World, secure
from undertone.models.layout import Layout
from undertone.release.manifest import check_manifest
from undertone_cli.engines.inprocess import run_inprocess
from undertone_client.app import app as client_app
from undertone_server import gate, release
from undertone_server.app import app as server_app

WIDE = 10_000_000
SITES = {"east": 2, "north": 2, "south": 2}


def wide_rows(_self: Any, _base: Any, _state: Any, units: Sequence[Any], progress: Any) -> NDArray[np.float32]:
    """Rows of length 3 or so, below C = 4."""
    progress(len(units))
    return np.stack([unit.generator.standard_normal(WIDE, dtype=np.float32) * 1e-3 for unit in units])


@pytest.mark.slow
@pytest.mark.parametrize("wire_bits", [32, 24])
def test_ten_million_values_go_through_flower(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, wire_bits: int
) -> None:
    monkeypatch.setattr(DummyMethod, "layout", lambda *_: Layout((("wide", (WIDE,)),)))
    monkeypatch.setattr(DummyMethod, "initial_state", lambda *_: np.zeros(WIDE, dtype=np.float32))
    monkeypatch.setattr(DummyMethod, "rows", wide_rows)
    monkeypatch.setattr(DummyMethod, "released", lambda _self, state: state)
    monkeypatch.setattr(DummyMethod, "weights", lambda _self, _base, w: {"dummy.safetensors": {"wide": w}})
    monkeypatch.setattr(
        release, "_draw_samples", lambda _plan, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    drawn, sampler = [], gate.rounded_gaussian

    def recorded(*arguments: Any) -> NDArray[np.int64]:
        drawn.append(sampler(*arguments))
        return drawn[-1]

    monkeypatch.setattr(gate, "rounded_gaussian", recorded)
    # The grid must be fine enough for so many values, and so much noise is one Delta.
    fine = {"clip_units": 1 << 18, "sigma": 1 << 18}
    world = make_world(SITES, aggregation=secure(3), wire_bits=wire_bits, **fine)
    run_inprocess(server_app, client_app, world.run.folder, world.sites.values())
    check_manifest(world.run.release)
    noised = plain_sum(world, SITES) + drawn[0]
    expected = DummyMethod(DummyOptions()).step(
        np.zeros(WIDE, dtype=np.float32), noised / world.plan.denominator(1, sorted(SITES))
    )
    np.testing.assert_array_equal(load_file(world.run.release / "dummy.safetensors")["wide"], expected)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
