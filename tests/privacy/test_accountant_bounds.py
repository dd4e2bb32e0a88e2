"""What an accountant may take of time and memory, for any plan that its schema lets pass; and never too low for it."""

import math
import subprocess
import sys

import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st

from undertone.errors import LedgerCorrupt, MechanismViolation
from undertone.privacy import accounting, losses
from undertone.privacy.accounting import GaussianEvent, calibrate, epsilon_pld, epsilon_rdp, read_event
from undertone.privacy.chain import Entry
from undertone.privacy.distributed import DistributedEvent
from undertone.privacy.ledger import _receipt
from undertone.privacy.losses import widths

UNIT = 1 << 20
DELTA = 1e-5
MEBIBYTES = 1024
SECONDS = 10
SCRIPT = """
import sys, time
from pathlib import Path
from undertone.privacy.accounting import GaussianEvent, epsilon_pld, epsilon_rdp
sigma, sensitivity, count = (int(word) for word in sys.argv[1:4])
event = GaussianEvent(sigma, sensitivity, float(sys.argv[4]), count)
start = time.process_time()
print(epsilon_pld([event], 1e-5), epsilon_rdp([event], 1e-5), end=" ")
# Of this program alone: getrusage still counts what the process held before it became this one.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(time.process_time() - start, int(status["VmHWM"].split()[0]) >> 10)
"""
# (z, p, T): tiny rates, tiny noise, a million attempts, and the corners where the losses are spread widest.
CORNERS = [
    (1 / 16, 1.0, 1),
    (1 / 16, 1e-9, 10**6),
    (1 / 16, 1e-300, 10**6),
    (1 / 16, 1e-3, 10**6),
    (1 / 16, 1 - 2**-53, 10**6),
    (64 / (1 << 24), 1e-9, 1),
    (0.3, 0.01, 21),
    (0.5, 0.5, 10**6),
    (1.0, 1.0, 10**6),
    (1000.0, 1.0, 10**6),
    (2.0**28, 0.5, 10**6),
    *(
        pytest.param(*corner, marks=pytest.mark.slow)
        for corner in [
            (1 / 16, 0.5, 10**6),
            (1.0, 0.01, 10**6),
            (1.0, 0.5, 10**6),
            (10.0, 0.9, 50_000),
            (100.0, 0.5, 10**6),
            (100.0, 0.99, 10**6),
            (30.0, 0.1, 10**6),
        ]
    ),
]


def event(z: float, p: float, count: int) -> GaussianEvent:
    return GaussianEvent(max(round(z * UNIT), 1), UNIT, p, count)


@pytest.mark.parametrize(("z", "p", "count"), CORNERS)
def test_no_plan_makes_the_accountant_slow_or_large(z: float, p: float, count: int) -> None:
    """In a process of its own, which has counted nothing else."""
    one = event(z, p, count)
    words = [sys.executable, "-c", SCRIPT, str(one.sigma), str(one.sensitivity), str(count), repr(p)]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    by_pld, by_rdp, seconds, mebibytes = map(float, out.split())
    assert seconds < SECONDS
    assert mebibytes < MEBIBYTES
    if math.isfinite(by_pld) and by_rdp > 1e-2:
        assert by_pld <= by_rdp * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(
    z=st.floats(0.2, 4.0),
    p=st.one_of(st.floats(1e-12, 1.0), st.sampled_from([1.0, 1e-9, 0.999999])),
    count=st.integers(1, 30),
)
def test_wider_steps_are_never_too_low(z: float, p: float, count: int) -> None:
    one = event(z, p, count)
    fine = epsilon_pld([one], DELTA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_MOST_STEPS", 256)
        patch.setattr(losses, "_MOST_COMPOSED", 1024)
        assert epsilon_pld([one], DELTA) >= fine * (1 - 1e-9) - 1e-9


@pytest.mark.parametrize(
    ("z", "p", "count"),
    [(1.0, 0.01, 1000), (0.1, 1e-6, 1000), (0.3, 0.5, 40), (5.0, 0.9, 10_000), (0.0625, 1e-9, 1), (2.0, 1.0, 500)],
)
def test_widths_are_no_less_than_what_the_library_keeps(z: float, p: float, count: int) -> None:
    """The library's own arrays, counted: a first guess that is too small would not bound them."""
    step, relation = 1e-2, accounting._RELATION
    single, composed = widths(z, p, count)
    for times, width in ((1, single), (count, composed)):
        accountant = pld.PLDAccountant(relation, step)
        accountant.compose(accounting._sampled(z, p), times)
        for pmf in (accountant._pld._pmf_remove, accountant._pld._pmf_add):
            if p < 1 or times > 1:
                assert pmf.size * step <= 1.2 * width + 20 * step
    assert losses.within_reach(1e-4, (1.0, 0.01, 1000)) == 1e-4  # what studies use is left alone


@pytest.mark.parametrize("p", [1.0, 0.5, 1e-9])
def test_noise_below_a_sixteenth_is_never_certified(p: float) -> None:
    assert epsilon_pld([event(0.0624, p, 1)], DELTA) == math.inf
    assert epsilon_pld([event(0.0626, p, 1)], DELTA) < math.inf


def test_at_full_rate_the_charges_are_one() -> None:
    """T charges at rate 1 are one with noise z / sqrt(T), and that is held against the same limit."""
    assert epsilon_pld([event(1.0, 1.0, 255)], DELTA) < math.inf
    assert epsilon_pld([event(1.0, 1.0, 257)], DELTA) == math.inf


def test_a_rate_next_to_one_counts_as_one() -> None:
    almost = epsilon_pld([event(1.0, 1 - 2.0**-53, 4)], DELTA)
    assert almost == epsilon_pld([event(1.0, 1.0, 4)], DELTA)
    assert almost >= epsilon_pld([event(1.0, 1 - 2.0**-29, 4)], DELTA) * (1 - 1e-6)


def looks_at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The step in privacy loss of each figure that the accountant is asked for from now on."""
    looks: list[float] = []
    ask = pld.PLDAccountant.get_epsilon

    def counted(accountant: pld.PLDAccountant, delta: float) -> float:
        looks.append(accountant._value_discretization_interval)
        return float(ask(accountant, delta))

    monkeypatch.setattr(pld.PLDAccountant, "get_epsilon", counted)
    return looks


@pytest.mark.parametrize(("p", "rounds"), [(0.001, 55), (0.01, 55), (0.1, 55)])
def test_most_studies_are_planned_with_few_looks_in_narrow_steps(
    p: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = looks_at(monkeypatch)
    z = calibrate(4.0, 1e-5, p, rounds)
    assert looks.count(min(looks)) <= 3
    assert epsilon_pld([GaussianEvent(math.ceil(z * UNIT), UNIT, p, rounds)], 1e-5) <= 4.0
    assert epsilon_pld([GaussianEvent(math.floor(z / 1.0001 * UNIT), UNIT, p, rounds)], 1e-5) > 4.0


@pytest.mark.parametrize(
    ("p", "rounds", "narrow"),
    [
        (1e-3, 20_000, 3),
        *(
            pytest.param(*corner, marks=pytest.mark.slow)
            for corner in [(1e-4, 10**6, 5), (1e-5, 10**6, 6), (1e-6, 10**6, 6), (1e-3, 10**6, 5), (1e-2, 10**6, 5)]
        ),
    ],
)
def test_long_studies_are_planned_with_few_looks_too(
    p: float, rounds: int, narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look in narrow steps takes a second or two here: of work, looks are what can be counted."""
    looks = looks_at(monkeypatch)
    z = calibrate(4.0, 1e-5, p, rounds)
    assert looks.count(min(looks)) <= narrow
    assert len(looks) <= 12
    assert epsilon_pld([GaussianEvent(math.ceil(z * UNIT), UNIT, p, rounds)], 1e-5) <= 4.0
    assert epsilon_pld([GaussianEvent(math.floor(z / 1.0001 * UNIT), UNIT, p, rounds)], 1e-5) > 4.0


@pytest.mark.parametrize(
    ("epsilon", "delta", "p", "rounds"),
    [
        (4.0, 1e-5, 1e-9, 1),
        pytest.param(1.0, 1e-9, 1e-7, 10**6, marks=pytest.mark.slow),
        pytest.param(4.0, 1e-5, 1e-9, 10**6, marks=pytest.mark.slow),
    ],
)
def test_a_study_with_a_tiny_rate_is_planned_in_seconds(epsilon: float, delta: float, p: float, rounds: int) -> None:
    """The least noise is a sixteenth, even where the rate alone keeps below delta."""
    z = calibrate(epsilon, delta, p, rounds)
    assert z >= 1 / 16
    assert epsilon_pld([GaussianEvent(math.ceil(z * UNIT), UNIT, p, rounds)], delta) <= epsilon


# --- what others wrote ----------------------------------------------------------------------------

CENTRAL = GaussianEvent(1 << 20, 1 << 19, 0.5, 1).as_dict()
SHARED = DistributedEvent(5000, 4, 100, 4096, 0.1, 20).as_dict()


@pytest.mark.parametrize(
    ("base", "name", "value"),
    [
        (CENTRAL, "sigma", (1 << 38) + 1),
        (CENTRAL, "sensitivity", (1 << 24) + 1),
        (CENTRAL, "count", 10**6 + 1),
        (CENTRAL, "sigma", 10**4000),
        (SHARED, "sigma_local", (1 << 38) + 1),
        (SHARED, "shares", 1001),
        (SHARED, "dimension", (1 << 32) + 1),
        (SHARED, "sensitivity", (1 << 24) + 1),
        (SHARED, "count", 10**6 + 1),
    ],
)
def test_an_event_that_was_written_by_others_is_bounded(base: dict[str, object], name: str, value: int) -> None:
    read_event(base)  # type: ignore[arg-type]
    with pytest.raises(MechanismViolation, match=f"event.{name} is above"):
        read_event({**base, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("round_", "attempt"), [(10**6 + 1, 1), (1, 10**6 + 1), (-1, 1), (1, -1)])
def test_a_receipt_of_an_attempt_that_no_plan_has_is_refused(round_: int, attempt: int) -> None:
    body = {"digest": "a" * 64, "round": round_, "attempt": attempt, "event": CENTRAL, "sum_sha256": "0" * 64}
    with pytest.raises(LedgerCorrupt, match="no plan has"):
        _receipt(Entry(2, "charge", body, "0" * 64))


def test_the_odometer_is_bounded_too() -> None:
    spread = [event(1 / 16, 1e-3, 1000)]
    assert epsilon_pld(spread, DELTA, interval=1e-6) < epsilon_rdp(spread, DELTA)
