"""Epsilon from events. The only importer of dp_accounting (PRIVACY 10).

One charge is one opened sum: a Gaussian mechanism with noise multiplier z = sigma / sensitivity, under
Poisson sampling with rate p, for the relation add/remove one unit. The privacy loss distribution (PLD) is the
figure of record, Renyi DP (RDP) stands beside it. The Gaussian-DP approximation is never used: it can be too
low. For distributed noise (`privacy/distributed.py`) RDP at integer orders is the claim, and there is no PLD.
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeAlias, TypeVar

import dp_accounting
import numpy as np
from dp_accounting import pld, rdp

from undertone.core.bounds import EPSILON
from undertone.core.canonical import Json
from undertone.errors import MechanismViolation, StudyError
from undertone.privacy.distributed import DistributedEvent, check_figures
from undertone.privacy.losses import ALMOST_ONE, within_reach

# Integers only: the argument for lattice noise (PRIVACY 9) holds at integer orders.
RDP_ORDERS: tuple[int, ...] = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 768, 1024)

# Losses are rounded so that epsilon is never too low ("connect the dots"); the excess grows with the rounds and
# the square of the width. At 1e-4 it is less than 0.1 % up to 50,000 rounds and an evaluation takes about a
# second; at 1e-3 it was below 1e-4 (not a share) up to 20 rounds, and ten times as fast. With little noise losses are
# spread wide: the wide step then costs no accuracy and saves minutes.
_INTERVAL = 1e-4
_WIDE_INTERVAL = 1e-3
_FEW_ROUNDS = 20
_LITTLE_NOISE = 0.4
# With less noise than this share of Delta nothing is certified. At rate 1 epsilon would be above 128 whatever delta.
LEAST_NOISE = 1 / 16
# With little to tell, the library's moments are zero but for their last bits, and it says so each time.
logging.getLogger("absl").addFilter(lambda record: not str(record.msg).startswith("Negative Renyi divergence"))
_RELATION = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_CALIBRATION_TOLERANCE = 2e-5
_BRACKET_STEP = 1.5
_ROUGHLY = 1.001
_HAIR = 1.00007
# Steps up to where a claim is met that other charges have a part of.
_MOST_BESIDE = 12
_LOOKS_BY_SLOPE = 6  # then by halves: where the width of a step changes, epsilon jumps
_NONE = -20.0
# Up to so many rounds, wide steps find nearly the place that narrow ones do.
_FAITHFUL = 50_000
_FIELDS = ("sigma", "sensitivity", "sampling_rate", "count")


@dataclass(frozen=True, order=True)
class GaussianEvent:
    """`count` charges of one kind: `sigma` and `sensitivity` in grid units, rate `sampling_rate`."""

    sigma: int
    sensitivity: int
    sampling_rate: float
    count: int

    def __post_init__(self) -> None:
        """Refuse an event that is no mechanism of ours.

        Raises:
            MechanismViolation: a field has another type or is out of range.
        """
        for name, value in (("sigma", self.sigma), ("sensitivity", self.sensitivity), ("count", self.count)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise MechanismViolation(f"event.{name} is {value!r}; it must be an integer of at least 1")
        if not (isinstance(self.sampling_rate, float | int) and 0 < self.sampling_rate <= 1):
            raise MechanismViolation(f"event.sampling_rate is {self.sampling_rate!r}; it must be in (0, 1]")

    @property
    def noise_multiplier(self) -> float:
        """The multiplier z = sigma / sensitivity."""
        return self.sigma / self.sensitivity

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `from_dict` is the inverse."""
        return {
            "sigma": self.sigma,
            "sensitivity": self.sensitivity,
            "sampling_rate": float(self.sampling_rate),
            "count": self.count,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Json]) -> "GaussianEvent":
        """Read what `as_dict` wrote.

        Raises:
            MechanismViolation: a key is missing, left over, or of another type.
        """
        if set(fields) != set(_FIELDS):
            raise MechanismViolation(f"an event has the keys {sorted(_FIELDS)}, not {sorted(fields)}")
        sigma, sensitivity, rate, count = (fields[name] for name in _FIELDS)
        check_figures(fields)
        if not (isinstance(sigma, int) and isinstance(sensitivity, int) and isinstance(count, int)):
            raise MechanismViolation("event.sigma, event.sensitivity and event.count must be integers")
        if not isinstance(rate, float | int):
            raise MechanismViolation("event.sampling_rate must be a number")
        return cls(sigma=sigma, sensitivity=sensitivity, sampling_rate=float(rate), count=count)


Event: TypeAlias = GaussianEvent | DistributedEvent
EventT = TypeVar("EventT", bound=Event)


def read_event(fields: Mapping[str, Json]) -> Event:
    """The event, of either kind, that an `as_dict` wrote.

    Raises:
        MechanismViolation: a key is missing, left over, or of another type.
    """
    return (DistributedEvent if "sigma_local" in fields else GaussianEvent).from_dict(fields)


def epsilon_claim(events: Sequence[Event], delta: float, *, interval: float | None = None) -> float:
    """The claim: PLD where all noise is central, RDP where any is distributed. `interval` is `epsilon_pld`'s.

    Raises:
        StudyError: delta is not in (0, 1).
    """
    central = all(isinstance(event, GaussianEvent) for event in events)
    return epsilon_pld(events, delta, interval=interval) if central else epsilon_rdp(events, delta)


def epsilon_spent(events: Sequence[Event], delta: float) -> float:
    """The odometer of a study in progress: `epsilon_claim` in wider steps, a tenth of a second and never too low.

    Too high by less than 3e-6 a round where it was measured; it is shown, and never a claim.

    Raises:
        StudyError: delta is not in (0, 1).
    """
    return epsilon_claim(events, delta, interval=_WIDE_INTERVAL)


def epsilon_pld(events: Sequence[Event], delta: float, *, interval: float | None = None) -> float:
    """The figure of record in central mode: epsilon at `delta` for all events together, by PLD; never too low.

    Equal events are counted together first, so a ledger's single charges give bit-identical figures to the plan's.
    No event gives 0, and noise below Delta / 16 infinity: so little is never certified. `interval` is the step in
    privacy loss; None: by the rounds and the noise. It is widened where the losses are spread too far to be kept.

    Raises:
        StudyError: delta is not in (0, 1).
        MechanismViolation: distributed noise, for which no PLD is claimed.
    """
    _check_delta(delta)
    central = [event for event in events if isinstance(event, GaussianEvent)]
    if len(central) < len(events):
        raise MechanismViolation("distributed noise has no privacy loss distribution; ask for its RDP")
    merged = _merged(central)
    if any(_too_little(event.noise_multiplier, event.sampling_rate, event.count) for event in merged):
        return math.inf
    if interval is None:
        interval = _interval(sum(event.count for event in merged), *(event.noise_multiplier for event in merged))
    charges = ((event.noise_multiplier, event.sampling_rate, event.count) for event in merged)
    accountant = pld.PLDAccountant(_RELATION, within_reach(interval, *charges))
    for event in merged:
        accountant.compose(_sampled(event.noise_multiplier, event.sampling_rate), event.count)
    return float(accountant.get_epsilon(delta))


def epsilon_rdp(events: Sequence[Event], delta: float) -> float:
    """Epsilon at `delta` by RDP at `RDP_ORDERS`.

    Converted as in Canonne, Kamath, Steinke 2020, proposition 12. Larger than PLD's; it
    can be composed with events chosen later (PRIVACY 13). No event gives 0.

    Raises:
        StudyError: delta is not in (0, 1).
    """
    _check_delta(delta)
    if not events:
        return 0.0
    accountant = rdp.RdpAccountant(list(RDP_ORDERS), _RELATION)
    orders = np.array(RDP_ORDERS)
    divergence = np.zeros(orders.size)
    for event in _merged(events):
        accountant.compose(_sampled(event.noise_multiplier, event.sampling_rate), event.count)
        if isinstance(event, DistributedEvent):
            # A_alpha gains exp((2 alpha - 1) tau d): see `privacy/distributed.py`.
            divergence += event.count * (2 * orders - 1) / (orders - 1) * event.log_ratio
    return float(rdp.compute_epsilon(RDP_ORDERS, accountant.rdp + divergence, delta)[0])


def calibrate(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    rounds: int,
    *,
    by_rdp: bool = False,
    beside: Sequence[Event] = (),
) -> float:
    """The smallest noise multiplier z with PLD epsilon(z) <= epsilon, too large by less than 1e-4 of itself.

    Rounding sigma = ceil(z * Delta) up moves epsilon further down; evaluate `epsilon_claim` at the final sigma
    for the claim.

    Args:
        epsilon: the claim, > 0.
        delta: in (0, 1).
        sampling_rate: p in (0, 1].
        rounds: T, the number of attempts that the plan allows.
        by_rdp: RDP epsilon instead of PLD, for distributed noise; its tau term is left to the claim.
        beside: what the same claim covers too, with noise that is settled: the plan's other stages.

    Raises:
        StudyError: a value out of range, or a claim that no noise reaches.
    """
    _check_epsilon(epsilon)
    _check_delta(delta)
    if not 0 < sampling_rate <= 1:
        raise StudyError(f"privacy.sampling_rate is {sampling_rate}; give a number above 0 and at most 1")
    if rounds < 1:
        raise StudyError(f"privacy.rounds is {rounds}; give at least 1")

    wanted = _Claim(epsilon, delta, sampling_rate, rounds, by_rdp, beside=tuple(beside))
    # From above: with too little noise the loss distribution is wide and slow to compute. Enough without
    # sampling (zCDP, Bun and Steinke 2016, proposition 1.3) is enough with it, but for orders that are missing.
    root = math.sqrt(math.log(1 / delta))
    high = math.sqrt(rounds / 2) / (math.sqrt(epsilon + root**2) - root)
    # RDP, whose looks take a fiftieth of a second, finds the place from above: its epsilon is larger than PLD's, if it
    # reaches the claim at all.
    by_moments = replace(wanted, by_rdp=True)
    for _ in range(_MOST_BESIDE if beside else 1 if by_rdp else 0):
        high *= 1 if wanted.met(high) else _BRACKET_STEP
    start = by_moments.smallest(_BRACKET_STEP, high) if by_moments.met(high) else high
    if by_rdp and wanted.met(start):
        return start
    if by_rdp or not wanted.met(high):
        raise StudyError(
            f"privacy.epsilon {epsilon} at privacy.delta {delta} over {rounds} rounds is below what the "
            "accountant can certify; raise epsilon or lower privacy.rounds"
        )
    slope = by_moments.slope(start)
    if rounds <= _FAITHFUL:  # steps ten times as wide come nearer at a tenth of the cost
        start, slope = replace(wanted, coarser=10).near(start, slope)
    return wanted.near(start, slope)[0]


@dataclass(frozen=True)
class _Claim:
    """What `calibrate` is asked for; `coarser` widens the step in privacy loss."""

    epsilon: float
    delta: float
    sampling_rate: float
    rounds: int
    by_rdp: bool
    coarser: int = 1
    beside: tuple[Event, ...] = ()

    def met(self, z: float) -> bool:
        """Whether noise multiplier z gives epsilon or less."""
        return self.spent(z) <= self.epsilon

    def spent(self, z: float) -> float:
        """Epsilon with noise multiplier z, in the steps that a plan's figure is computed in; infinite if too little."""
        if not self.by_rdp and _too_little(z, self.sampling_rate, self.rounds):
            return math.inf
        return self._spent_by(self._accountant(z), z)

    def _spent_by(self, accountant: dp_accounting.PrivacyAccountant, z: float) -> float:
        return float(accountant.compose(self._event(z)).get_epsilon(self.delta))

    def near(self, start: float, slope: float) -> tuple[float, float]:
        """The smallest z that meets the claim, too large by less than 1e-4 of itself, and the slope there.

        A look takes up to two seconds. So each goes where the slope of ln epsilon over ln z leads: two or three are
        enough, where a root finder that is given no slope wants fifteen. What is returned was looked at, and meets
        the claim; that it is not too large follows from the slope, or from a look at a little less.

        Args:
            start: a place that is near.
            slope: of ln epsilon over ln z about there; negative.
        """
        low, high, at, here = LEAST_NOISE / _HAIR, math.inf, start, None
        for looks in itertools.count(1):
            there, here = here, self._logs(at)
            slope = _slope(here, there) if there else slope
            low, high = (low, min(high, at)) if here[1] <= 0 else (max(low, at), high)
            if high <= low * _HAIR or (high == at and here[1] / slope <= _HAIR - 1):
                break
            # No further down than by one step of a search: with too little noise a look is slow.
            root = max(math.exp(here[0] - here[1] / slope), high / _BRACKET_STEP if here[1] > _NONE else LEAST_NOISE)
            at = max(root * math.sqrt(_HAIR), LEAST_NOISE)
            if looks > _LOOKS_BY_SLOPE or not low < at < high:
                at = math.sqrt(low * high) if high < math.inf else low * _BRACKET_STEP
        return high, slope

    def slope(self, z: float) -> float:
        """Of ln epsilon over ln z, at z."""
        return _slope(self._logs(z), self._logs(z * _ROUGHLY))

    def _logs(self, z: float) -> tuple[float, float]:
        """(ln z, ln of epsilon spent over epsilon wanted), the latter no less than `_NONE`, where nothing is spent."""
        ratio = self.spent(z) / self.epsilon
        return math.log(z), max(math.log(min(ratio, 1e9)), _NONE) if ratio > 0 else _NONE

    def smallest(self, step: float, high: float) -> float:
        """The smallest z that meets the claim, below `high`, which does; `step` is the first step down.

        No smaller than `LEAST_NOISE`: with a rate below delta a claim may need no noise at all.
        """
        low = self._down(high, step)
        while self.met(low):
            if low == LEAST_NOISE:
                return low
            step = min(step**2, _BRACKET_STEP)
            high, low = low, self._down(low, step)
        # One width for the whole bracket, the wider one: the answer is safe at either. `high` was found safe at its own
        # width, hence a little more of it, or as much more as it takes.
        top = high * min(step, 1.01)
        while self._spent_by(self._accountant(low), top) > self.epsilon:
            top *= _BRACKET_STEP
        return float(
            dp_accounting.calibrate_dp_mechanism(
                lambda: self._accountant(low),
                self._event,
                self.epsilon,
                self.delta,
                dp_accounting.ExplicitBracketInterval(low, top),
                tol=_CALIBRATION_TOLERANCE * high,
            )
        )

    @staticmethod
    def _down(z: float, step: float) -> float:
        return max(z / step, LEAST_NOISE)

    def _accountant(self, z: float) -> dp_accounting.PrivacyAccountant:
        """An accountant for noise multipliers from z up."""
        accountant: dp_accounting.PrivacyAccountant
        if self.by_rdp:
            accountant = rdp.RdpAccountant(list(RDP_ORDERS), _RELATION)
        else:
            charges = [(one.noise_multiplier, one.sampling_rate, one.count) for one in self.beside]
            rounds = self.rounds + sum(count for _, _, count in charges)
            interval = self.coarser * _interval(rounds, z, *(one for one, _, _ in charges))
            reach = within_reach(interval, (z, self.sampling_rate, self.rounds), *charges)
            accountant = pld.PLDAccountant(_RELATION, reach)
        return accountant

    def _event(self, z: float) -> dp_accounting.DpEvent:
        """All that the claim covers, with noise multiplier z in what is asked for."""
        asked = dp_accounting.SelfComposedDpEvent(_sampled(z, self.sampling_rate), self.rounds)
        others = [
            dp_accounting.SelfComposedDpEvent(_sampled(one.noise_multiplier, one.sampling_rate), one.count)
            for one in self.beside
        ]
        return dp_accounting.ComposedDpEvent([*others, asked]) if others else asked


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Of ln epsilon over ln z through two points; epsilon falls about as fast as noise grows, or faster."""
    return min((one[1] - other[1]) / (one[0] - other[0]), -1.0)


def _interval(rounds: int, *noise_multipliers: float) -> float:
    """The width of a step in privacy loss, for that many charges with these noise multipliers together."""
    wide = rounds <= _FEW_ROUNDS or min(noise_multipliers, default=1.0) < _LITTLE_NOISE
    return _WIDE_INTERVAL if wide else _INTERVAL


def _too_little(z: float, sampling_rate: float, count: int) -> bool:
    """Whether so little noise is never certified; at rate 1 the charges are one, with noise z / sqrt(T)."""
    return (z if sampling_rate < ALMOST_ONE else z / math.sqrt(count)) < LEAST_NOISE


def _sampled(z: float, sampling_rate: float) -> dp_accounting.DpEvent:
    """The library's event for one charge; a rate of 1 is the plain mechanism."""
    gaussian = dp_accounting.GaussianDpEvent(z)
    return gaussian if sampling_rate >= ALMOST_ONE else dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian)


def _merged(events: Sequence[EventT]) -> list[EventT]:
    """Equal events counted together, in one fixed order: the same sum of floats whoever asks."""
    counts: Counter[EventT] = Counter()
    for event in events:
        counts[replace(event, count=1)] += event.count
    merged = [replace(event, count=count) for event, count in counts.items()]
    return sorted(merged, key=lambda event: (type(event).__name__, astuple(event)))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise StudyError(f"privacy.delta is {delta}; give a number between 0 and 1, below 1 / (number of units)")


def _check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon <= EPSILON:
        raise StudyError(f"privacy.epsilon is {epsilon}; give a number above 0 and at most {EPSILON:g}")
