"""Textual inversion of 16 units at once beside one unit after the other, on embedded:tiny and one core.

python benchmarks/inversion.py --units 16 --steps 20 --runs 3
"""

import sys
import time

import numpy as np
import torch
from report import Row, parser, publish

from undertone.methods.protocol import UnitRecords
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI, DPAggTIOptions
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin

WANTED = 1.3


def make_units(base: LoadedBase, count: int) -> list[UnitRecords]:
    """`count` units of three images each, the same every time."""
    rng = np.random.Generator(np.random.Philox(key=1))
    return [
        UnitRecords(
            rng.standard_normal((3, *base.latent_shape), dtype=np.float32),
            ("a <private>", "a <private>, left", "a <private>, right"),
            np.random.Generator(np.random.Philox(key=number)),
        )
        for number in range(count)
    ]


def seconds(method: DPAggTI, base: LoadedBase, pinned: PinnedBase, units: list[UnitRecords], at_once: int) -> float:
    """Processor time of this process: other programs on the machine do not count."""
    start, began = method.initial_state(pinned), time.process_time()
    for first in range(0, len(units), at_once):
        method.rows(base, start, units[first : first + at_once], lambda _steps: None)
    return time.process_time() - began


def main() -> None:
    """Measure in turn, tabulate, and fail below the ratio that was promised."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--units", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--runs", type=int, default=3)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    pinned = pin("embedded:tiny")
    base, method = load_base(pinned), DPAggTI(DPAggTIOptions(steps=chosen.steps))
    seconds(method, base, pinned, make_units(base, 1), 1)  # warm
    batched, single = [], []
    for _ in range(chosen.runs):
        batched.append(seconds(method, base, pinned, make_units(base, chosen.units), chosen.units))
        single.append(seconds(method, base, pinned, make_units(base, chosen.units), 1))
    work = chosen.units * chosen.steps
    row = Row(
        f"{chosen.units} units, {chosen.steps} steps, one core",
        "unit-steps per second",
        work / float(np.median(batched)),
        work / float(np.median(single)),
        "the same, one unit at a time",
    )
    publish("textual inversion, batched", [row], chosen.json)
    if row.ratio < WANTED:
        sys.exit(f"the ratio is below {WANTED}")


if __name__ == "__main__":
    main()
