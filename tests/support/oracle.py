"""What a study with the dummy method and pinned randomness must come to, worked out slowly from its files."""

import csv
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.crashes import coordinator_stream, node_stream
from tests.support.dummy import SIZE, DummyBase, DummyMethod
from tests.support.entropy import KeyedEntropy
from undertone.data.images import load_image
from undertone.methods.protocol import UnitRecords
from undertone.privacy.entropy import poisson_sample
from undertone.privacy.noise import rounded_gaussian
from undertone.privacy.unit_randomness import row_generator, row_key
from undertone.study.plan import Plan


def opened(world: Path) -> dict[int, tuple[int, tuple[str, ...]]]:
    """Round -> (attempt, sites) of the sums that were opened."""
    found = {}
    for path in sorted((world / "run" / "checkpoints").glob("round-*/noised-*.npy")):
        attempt = int(path.stem.split("-")[1])
        sites = json.loads((path.parent / f"sites-{attempt:03d}.json").read_bytes())
        found[int(path.parent.name.split("-")[1])] = (attempt, tuple(sites))
    return found


def expected_states(
    world: Path, seed: int, sums: Mapping[int, tuple[int, tuple[str, ...]]]
) -> list[NDArray[np.float32]]:
    """The public state after each round, where `sums` says which attempt was opened, over which sites."""
    plan = Plan.from_bytes((world / "run" / "plan.json").read_bytes())
    state, states = np.zeros(plan.method.dimension, dtype=np.float32), []
    for round_, (attempt, sites) in sorted(sums.items()):
        total = np.zeros(plan.method.dimension, dtype=np.int64)
        for name in sites:
            coins = keyed(seed, node_stream(name, round_, attempt))
            total += site_total(world / "sites" / name, plan, coins, state, round_, attempt)
        noise = keyed(seed, coordinator_stream(round_, attempt))
        total += rounded_gaussian(noise, plan.privacy.sigma, total.size)
        state = (state + total / plan.denominator(1, sites)).astype(np.float32)
        states.append(state)
    return states


def keyed(seed: int, stream: str) -> KeyedEntropy:
    return KeyedEntropy(seed, lambda: stream)


def site_total(
    folder: Path, plan: Plan, coins: KeyedEntropy, state: NDArray[np.float32], round_: int, attempt: int
) -> NDArray[np.int64]:
    """One site's sum of clipped integer rows, one image and one patient at a time."""
    data = Path(tomllib.loads((folder / "datasets" / "data.toml").read_text("utf-8"))["folder"])
    with (data / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        files: dict[str, list[str]] = {}
        for row in sorted(csv.DictReader(stream), key=lambda row: row["file_name"]):
            files.setdefault(row["patient_id"], []).append(row["file_name"])
    grid, secret = plan.grid.as_grid(), (folder / "secret.key").read_bytes()
    total = np.zeros(plan.method.dimension, dtype=np.int64)

    def row(unit: str, bound: float) -> NDArray[np.float64]:
        images = np.stack([load_image(data / name, SIZE) for name in files[unit]])
        generator = row_generator(row_key(secret, plan.digest, round_, attempt, unit))
        found = DummyMethod.row(state, UnitRecords(DummyBase().encode(images), ("",) * len(images), generator))
        vector = found.astype(np.float64)
        return np.asarray(vector * min(1.0, bound / np.linalg.norm(vector)))

    units = sorted(files)
    fallen = zip(units, poisson_sample(coins, len(units), plan.privacy.sampling_rate), strict=True)
    chosen = [unit for unit, coin in fallen if coin]
    for unit in chosen:
        total += np.trunc(row(unit, grid.clip_norm * (1 - 2**-10)) * grid.scale).astype(np.int64)
    return total
