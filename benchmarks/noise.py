"""Noise: exact draws a second beside OpenDP's exact discrete Gaussian, in one run; exit 1 below the required rate.

python benchmarks/noise.py --size 1000000 --peer-size 20000
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import numpy as np
import opendp.prelude as dp
from report import Row, parser, publish

from undertone.privacy import noise
from undertone.privacy.entropy import OsEntropy

SHARES = (4, 16)
SIGMAS = (64, 10**3, 10**4, 10**5, 10**6, 10**7, 10**9)
REQUIRED = 2e6
REQUIRED_FOR = range(10**3, 10**7 + 1)
PEER = "opendp make_gaussian"
LAWS = {"rounded": noise.add_rounded_gaussian, "discrete": noise.add_discrete_gaussian}


def best_rate(draw: Callable[[], object], size: int, repeats: int) -> float:
    """Draws a second in the quietest of `repeats` runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        draw()
        seconds.append(time.perf_counter() - start)
    return size / min(seconds)


def our_rate(law: str, sigma: int, size: int, cores: int) -> float:
    """Noise added in place to `size` values."""
    add = partial(LAWS[law], np.zeros(size, dtype=np.int64), sigma, OsEntropy())
    with mock.patch.object(os, "cpu_count", return_value=cores):
        return best_rate(add, size, 5)


def peer_rate(sigma: int, size: int) -> float:
    """OpenDP, as one vector of integers."""
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    return best_rate(partial(dp.m.make_gaussian(*space, scale=float(sigma)), [0] * size), size, 2)


def settled_share(sigma: int, size: int) -> float:
    """The part of `size` rounded draws that integers had to settle."""
    with mock.patch.object(noise, "_exact_magnitude", wraps=noise._exact_magnitude) as exact:
        noise.rounded_gaussian(OsEntropy(), sigma, size)
    return exact.call_count / size


def main() -> int:
    """Print the table; 1 if a required rate is missed."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--size", type=int, default=1_000_000)
    arguments.add_argument("--peer-size", type=int, default=20_000)
    options = arguments.parse_args()
    dp.enable_features("contrib")
    noise.check_quantiles()
    rows, slow = [], []
    for sigma in (*SHARES, *SIGMAS):
        theirs = peer_rate(sigma, options.peer_size)
        for law in LAWS if sigma in SIGMAS else ("discrete",):
            ours = our_rate(law, sigma, options.size, 1)
            rows.append(Row(f"{law}, sigma {sigma:g}, 1 core", "draws/s", ours, theirs, PEER))
            if sigma in REQUIRED_FOR and ours < REQUIRED:
                slow.append(rows[-1].case)
        if sigma in (10**5, 10**9):
            cores = os.cpu_count() or 1
            ours = our_rate("rounded", sigma, options.size, cores)
            rows.append(Row(f"rounded, sigma {sigma:g}, {cores} cores", "draws/s", ours, theirs, PEER))
    publish("Exact noise", rows, options.json)
    shares = ", ".join(f"sigma {sigma:g}: {settled_share(sigma, options.size):.1e}" for sigma in SIGMAS)
    print(f"\nrounded draws settled in integers, of {options.size}: {shares}")
    if slow:
        print(f"below {REQUIRED:g} draws/s: {'; '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
