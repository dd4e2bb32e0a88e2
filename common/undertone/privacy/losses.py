"""How far privacy losses are spread: what an accountant is about to need, before it needs it.

l(x) = ln(1 - p + p exp((2x - 1) / 2z^2)) is the loss of one charge at x, drawn from N(0, z^2), or with probability p
from N(1, z^2); the other direction is -l at x drawn from N(0, z^2). dp-accounting keeps the losses of one charge
between the places beyond which a normal has a mass of e^-50, and of T charges together what Chernoff's bound leaves, at
orders of up to 20 over that range. The same bound is taken here with sums over 2 x 4,001 points.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# A rate above counts as 1, which costs more: nearer to 1 dp-accounting's logarithms cancel.
ALMOST_ONE = 1 - 2.0**-30
# No mechanism may ask for more memory or time than this: where losses are spread over more steps than these (in one
# charge; in all of them together), steps are doubled until they are not. A plan that anybody could take is never there.
_MOST_STEPS = 1 << 18
_MOST_COMPOSED = 1 << 22
# A normal has a mass of e^-50 beyond 9.8 deviations.
_DEVIATIONS = 10.0
_ORDERS = np.arange(1, 21)
# -ln of half the mass that dp-accounting cuts off at either end.
_TAIL = math.log(2 / 1e-15)
_POINTS = np.linspace(-_DEVIATIONS, _DEVIATIONS, 4001)
_LOG_MASSES = -(_POINTS**2) / 2 - math.log(float(np.exp(-(_POINTS**2) / 2).sum()))


def within_reach(interval: float, *charges: tuple[float, float, int]) -> float:
    """The interval, doubled until the losses of the charges (z, p, T) fit; a wider one is never too low."""
    spread = [widths(z, rate if rate < ALMOST_ONE else 1.0, count) for z, rate, count in charges]
    single, composed = max((one for one, _ in spread), default=0.0), sum(all_ for _, all_ in spread)
    excess = max(single / _MOST_STEPS, composed / _MOST_COMPOSED) / interval
    return interval if excess <= 1 else math.ldexp(interval, math.ceil(math.log2(excess)))


@lru_cache(maxsize=256)
def widths(z: float, sampling_rate: float, count: int) -> tuple[float, float]:
    """The width of one charge's losses and of `count` charges' together, in nats.

    Args:
        z: the noise multiplier, above 0; at 1e-3 nothing overflows yet.
        sampling_rate: p.
        count: T.
    """
    if sampling_rate == 1:  # T Gaussians are one, with noise z / sqrt(T): mean and middle of its losses do not matter
        width = 2 * _DEVIATIONS * math.sqrt(count) / z
        return width, width
    # Where x was drawn without the unit, and with it.
    without, with_ = _losses(z * _POINTS, z, sampling_rate), _losses(1 + z * _POINTS, z, sampling_rate)
    width = float(max(with_[-1], without[-1]) - min(with_[0], without[0]))
    mixture = np.concatenate([_LOG_MASSES + math.log1p(-sampling_rate), _LOG_MASSES + math.log(sampling_rate)])
    removed = _composed(np.concatenate([without, with_]), mixture, width, count)
    return width, max(removed, _composed(-without, _LOG_MASSES, width, count))


def _losses(x: NDArray[np.float64], z: float, p: float) -> NDArray[np.float64]:
    return np.logaddexp(math.log1p(-p), math.log(p) + (2 * x - 1) / (2 * z * z))


def _composed(losses: NDArray[np.float64], log_masses: NDArray[np.float64], width: float, count: int) -> float:
    """Between which sums of `count` losses dp-accounting keeps its array."""
    if width == 0 or count == 1:
        return width
    orders = _ORDERS / width
    above, below = (
        min((count * _log_mean(sign * order * losses + log_masses) + _TAIL) / order for order in orders)
        for sign in (1, -1)
    )
    return float(max(above + below, width))


def _log_mean(terms: NDArray[np.float64]) -> float:
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum()))
