"""The budget filter: what it keeps of a cap beside plans that were all fixed beforehand; exit 1 below 92 %.

python benchmarks/filter.py
"""

import sys
import time

from report import Row, parser, publish

from undertone.privacy.accounting import GaussianEvent, epsilon_pld, epsilon_rdp
from undertone.privacy.cap import Cap, suggested
from undertone.privacy.filter import Filter
from undertone.privacy.renyi import NOTHING, spend

GRID = 1 << 20
EPSILONS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
DELTAS = (1e-5, 1e-6)
REQUIRED = 0.92
SMALL = GaussianEvent(1000 * GRID, GRID, 1.0, 1)
FIXED = "RDP, all plans fixed"
# (z, p, T): the first claims 1 by PLD, the others 4; the last three have little noise.
PLANS = (
    (3.7304, 1.0, 1),
    (1.0814, 1.0, 1),
    (3.968, 0.5, 50),
    (1.7618, 0.1, 200),
    (0.7349, 0.01, 1000),
    (0.5343, 0.001, 10_000),
)


def rounds_that_rdp_allows(epsilon: float, delta: float) -> int:
    """How many charges of `SMALL` claim `epsilon` by RDP at the same orders."""
    low, high = 0, 10**9
    while high - low > 1:
        middle = (low + high) // 2
        claim = epsilon_rdp([GaussianEvent(SMALL.sigma, GRID, 1.0, middle)], delta)
        low, high = (middle, high) if claim <= epsilon else (low, middle)
    return low


def retained() -> list[Row]:
    """Rounds of an unsampled Gaussian, and the largest claim of one such plan."""
    rows = []
    for delta in DELTAS:
        for epsilon in EPSILONS:
            cap = Cap.register(epsilon, delta)
            fixed = rounds_that_rdp_allows(epsilon, delta)
            case = f"cap {epsilon:g} at {delta:g}"
            rows.append(Row(case, "rounds", cap.room(NOTHING, SMALL), fixed, FIXED))
            rows.append(Row(case, "largest claim by RDP", cap.left(NOTHING), epsilon, "the cap"))
    return rows


def drawn() -> list[Row]:
    """What plans take from a cap beside what they claim, at delta 1e-5."""
    rows = []
    for z, p, rounds in PLANS:
        plan = GaussianEvent(int(z * GRID) + 1, GRID, p, rounds)
        takes = suggested(spend([plan]), DELTAS[0]).epsilon
        case = f"z {z:g}, p {p:g}, T {rounds}"
        rows.append(Row(case, "cap it needs", takes, epsilon_pld([plan], DELTAS[0]), "its claim by PLD"))
        rows.append(Row(case, "cap it needs", takes, epsilon_rdp([plan], DELTAS[0]), "its claim by RDP"))
    return rows


def seconds() -> str:
    """One new event, one charge."""
    start = time.perf_counter()
    budget = Filter(Cap.register(4.0, 1e-5)).approve("a" * 64, [GaussianEvent(3000 * GRID, GRID, 0.99, 10**6)])
    approved = time.perf_counter()
    for _ in range(1000):
        budget = budget.spend("a" * 64, GaussianEvent(3000 * GRID, GRID, 0.99, 1))
    charged = time.perf_counter()
    return (
        f"registration and approval {1e3 * (approved - start):.0f} ms, one charge {1e3 * (charged - approved):.0f} us"
    )


def main() -> int:
    """Print the table; 1 if less than the required share is kept."""
    options = parser(__doc__.splitlines()[0]).parse_args()
    kept = retained()
    publish("The budget filter", [*kept, *drawn()], options.json)
    print(f"\n{seconds()}")
    low = [row.case for row in kept if row.ratio < REQUIRED]
    if low:
        print(f"less than {REQUIRED:.0%} of the budget is kept: {'; '.join(low)}", file=sys.stderr)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
