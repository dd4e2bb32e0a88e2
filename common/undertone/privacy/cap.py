"""The cap of a data set: an (epsilon, delta) for ever, spread over Renyi orders once and for all (PRIVACY 13).

Renyi divergence rho at order alpha gives (epsilon, delta) with (Canonne, Kamath, Steinke 2020, proposition 12)

    epsilon = rho + ln((alpha - 1) / alpha) - ln(alpha delta) / (alpha - 1).

A filter that looks at many orders must pay for them: each gets its own delta w_alpha delta, and the weights w_alpha add
up to at most 1. They are fixed when the cap is registered, before any plan is seen. Half goes to the order that a
Gaussian uses best which spends this cap whole. The rest is spread over the other orders at which anything fits, as
1 / (alpha - 1)^3: a weight costs ln(1 / w_alpha) / (alpha - 1), so low orders feel it most, and sampled plans with
little noise need those (benchmarks/filter.py). What is charged may be, at order alpha,

    cap_alpha = epsilon - ln((alpha - 1) / alpha) + ln(alpha w_alpha delta) / (alpha - 1),

and an order where this is negative admits nothing. Why some order is enough: `privacy/filter.py`.

All is integers in units of 2^-64: divergences are rounded up (`privacy/renyi.py`), cap_alpha is less than two units too
low.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil, floor, inf, nextafter
from typing import Self

from undertone.core import bounds
from undertone.core.canonical import Json
from undertone.errors import InputError, MechanismViolation
from undertone.privacy.accounting import RDP_ORDERS, Event
from undertone.privacy.renyi import DOWN, NOTHING, UNIT, UP, Vector, draw

# Weights are whole billionths, so that every machine reads the same ones.
WHOLE = 10**9
_HALF = WHOLE // 2
_FIELDS = {"epsilon", "delta", "billionths"}
_STEPS = 1000  # caps are suggested in thousandths


@dataclass(frozen=True)
class Cap:
    """What all studies together may cost one unit of a data set. Make one with `Cap.register`.

    Attributes:
        epsilon: of the cap.
        delta: of the cap.
        billionths: [`RDP_ORDERS`] the weight of each order; 0 for an order that was not there at registration.
    """

    epsilon: float
    delta: float
    billionths: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what is no cap.

        Raises:
            InputError: epsilon or delta is out of range.
            MechanismViolation: the weights are not weights, or there are more than one.
        """
        if not (isinstance(self.epsilon, float) and 0 < self.epsilon <= bounds.EPSILON):
            raise InputError(f"the cap's epsilon is {self.epsilon!r}; give a number up to {bounds.EPSILON:g}")
        _check_delta(self.delta)
        if len(self.billionths) != len(RDP_ORDERS) or any(type(share) is not int for share in self.billionths):
            raise MechanismViolation(f"a cap has {len(RDP_ORDERS)} weights, each a whole number of billionths")
        if min(self.billionths) < 0 or not 0 < sum(self.billionths) <= WHOLE:
            raise MechanismViolation(
                f"the weights of a cap add up to {sum(self.billionths)} billionths; they must be positive and at most "
                f"{WHOLE} together, or the orders share more than one delta"
            )

    @classmethod
    def register(cls, epsilon: float, delta: float) -> Self:
        """The cap of a data set, its weights fixed from (epsilon, delta) alone.

        Raises:
            InputError: epsilon or delta is out of range, or so small that no plan fits.
        """
        single = cls(float(epsilon), float(delta), (WHOLE, *NOTHING[1:]))
        within = {order: single._whole - _cost(order, _HALF, single.delta) for order in RDP_ORDERS}
        best = max(RDP_ORDERS, key=lambda order: Fraction(within[order], order))
        if within[best] <= 0:
            least = _above(single._whole - max(within.values()))
            raise InputError(
                f"a cap of epsilon {epsilon} at delta {delta} admits no plan at all; give more than {least:.3g}"
            )
        return cls(single.epsilon, single.delta, _weights(best, [order for order in RDP_ORDERS if within[order] > 0]))

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `from_dict` is the inverse."""
        weights = {str(order): share for order, share in zip(RDP_ORDERS, self.billionths, strict=True) if share}
        return {"epsilon": self.epsilon, "delta": self.delta, "billionths": weights}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Json]) -> Self:
        """Read what `as_dict` wrote, with the weights of its registration.

        Raises:
            InputError: epsilon or delta is out of range.
            MechanismViolation: a key is missing, left over or of another type, or an order is not known here.
        """
        weights = fields.get("billionths")
        if set(fields) != _FIELDS or not isinstance(weights, Mapping):
            raise MechanismViolation(f"a cap has the keys {sorted(_FIELDS)}, not {sorted(fields)}")
        unknown = set(weights) - {str(order) for order in RDP_ORDERS}
        if unknown:
            raise MechanismViolation(
                f"this program knows no order {min(unknown)!r}; read the cap with the one it needs"
            )
        shares = tuple(weights.get(str(order), 0) for order in RDP_ORDERS)
        return cls(fields["epsilon"], fields["delta"], shares)  # type: ignore[arg-type]

    def admits(self, spent: Vector) -> bool:
        """Whether at some order what is spent is within the cap."""
        return self._reading(spent) <= self._whole

    def figure(self, spent: Vector) -> float:
        """The least epsilon that these weights certify for what is spent: at most the cap's iff the cap admits it.

        A reading, never a claim: it depends on what was charged, which may depend on what came out, and an odometer
        that holds at every moment costs more (Rogers, Roth, Ullman, Vadhan 2016; Lecuyer 2021). Nothing spent is 0.
        """
        return 0.0 if spent == NOTHING else max(0.0, _above(self._reading(spent)))

    def left(self, spent: Vector) -> float:
        """The largest claim by RDP of one unsampled Gaussian that still fits, whatever its count; never too high."""
        most = max((self._whole - cost - spent[i]) // RDP_ORDERS[i] for i, cost in self._costs)
        if most <= 0:
            return 0.0
        return max(0.0, -_above(-min(most * order + _cost(order, WHOLE, self.delta, up=False) for order in RDP_ORDERS)))

    def room(self, spent: Vector, event: Event) -> int:
        """How many charges of `event` still fit."""
        one = draw(event, 1)
        return max(0, *((self._whole - cost - spent[i]) // one[i] for i, cost in self._costs))

    def _reading(self, spent: Vector) -> int:
        """`figure` in units, as low as it comes."""
        return min(spent[i] + cost for i, cost in self._costs)

    @cached_property
    def _whole(self) -> int:
        return floor(UNIT * Fraction(self.epsilon))

    @cached_property
    def _costs(self) -> tuple[tuple[int, int], ...]:
        """(index of the order, epsilon - cap_alpha) of each order that has a weight."""
        shares = enumerate(self.billionths)
        return tuple((i, _cost(RDP_ORDERS[i], share, self.delta)) for i, share in shares if share)


def suggested(drawn: Vector, delta: float) -> Cap:
    """A cap, in thousandths of epsilon, that what is drawn fits; for an unsampled Gaussian the least there is.

    The weights follow from epsilon, so that a plan of another kind may, rarely, fit a somewhat smaller cap too.

    Raises:
        InputError: none up to the largest epsilon fits, or delta is out of range.
    """
    _check_delta(delta)
    least = min(drawn[i] + _cost(order, _HALF, delta) for i, order in enumerate(RDP_ORDERS))
    epsilon = _next_thousandth(max(0.0, _above(least)))
    while epsilon <= bounds.EPSILON:
        cap = Cap.register(epsilon, delta)
        if cap.admits(drawn):
            return cap
        epsilon = _next_thousandth(cap.figure(drawn))
    raise InputError(
        f"no cap up to epsilon {bounds.EPSILON:g} at delta {delta} holds this plan; ask for more noise or for fewer "
        "attempts"
    )


def _next_thousandth(epsilon: float) -> float:
    return (floor(epsilon * _STEPS) + 1) / _STEPS


def _weights(best: int, useful: Sequence[int]) -> tuple[int, ...]:
    """[`RDP_ORDERS`] half for the best order, the rest over the other useful ones; exact, and rounded down."""
    falling = {order: Fraction(1, (order - 1) ** 3) for order in useful if order != best}
    falls = {order: floor(_HALF * fall / sum(falling.values())) for order, fall in falling.items()}
    return tuple(_HALF if order == best else falls.get(order, 0) for order in RDP_ORDERS)


def _check_delta(delta: float) -> None:
    if not (isinstance(delta, float) and 0 < delta < bounds.DELTA):
        raise InputError(f"the cap's delta is {delta!r}; give one below {bounds.DELTA:g} and 1 / (number of units)")


@lru_cache(maxsize=4096)
def _cost(order: int, billionths: int, delta: float, *, up: bool = True) -> int:
    """ln((alpha - 1) / alpha) - ln(alpha w delta) / (alpha - 1) in units, never too low (`up`) or never too high."""
    toward, away = (UP, DOWN) if up else (DOWN, UP)
    with localcontext(away):
        share = Decimal(delta) * (order * billionths) / WHOLE
        price = share.ln().next_minus() if up else share.ln().next_plus()
    with localcontext(toward):
        ratio = (Decimal(order - 1) / order).ln()
        cost = (ratio.next_plus() if up else ratio.next_minus()) - price / (order - 1)
    return (ceil if up else floor)(UNIT * Fraction(cost))


def _above(units: int) -> float:
    """Units as a float that is not below them."""
    nearest = units / UNIT
    return nearest if Fraction(nearest) >= Fraction(units, UNIT) else nextafter(nearest, inf)
