"""Noise that no one can take off: each site adds a noise share before its vector leaves (PRIVACY 8).

At least t vectors are in every sum and at most c sites leave out or take off their noise shares, so at least m = t - c
independent discrete Gaussians of deviation sigma_local stand between the data and whoever looks. Noise shares beyond m,
and the reduction modulo 2^b, are post-processing: neither can weaken the guarantee.

**A sum of discrete Gaussians is not quite one.** Let S be the sum of m of them and Z the discrete Gaussian of
variance m sigma_local^2. For every integer x, |log P(S = x) - log P(Z = x)| <= tau (Kairouz, Liu, Steinke 2021,
section 4: one noise share after another is merged, the k-th at a cost of 10 exp(-2 pi^2 sigma_local^2 k / (k + 1))).
Coordinates are independent, so for vectors of d the log-ratio is at most tau d. A vector in the sum is a mixture,
over the secret coins, of shifts of the noise; mixtures and shifts of pointwise bounds keep them. So for two
neighbours, with P, R the laws of the sum under S and P', R' those under Z,

    A_alpha = sum P^alpha R^(1 - alpha) <= e^(alpha tau d) e^((alpha - 1) tau d) sum P'^alpha R'^(1 - alpha),

that is, the Renyi divergence at order alpha grows by (2 alpha - 1) tau d / (alpha - 1), in both directions. The right
hand sum is the one of the Poisson-subsampled Gaussian at integer orders (PRIVACY 9): for integer shifts v and
integers k, E[(p_1 / p_0)^k] = e^(k (k - 1) |v|^2 / 2 sigma^2) times a sum of the lattice density shifted by k v,
which is 1. At other orders, and for the privacy loss distribution, that argument does not hold: nothing is claimed.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import exp, isqrt, pi, sqrt

from undertone.core.bounds import ATTEMPTS, DIMENSION, SENSITIVITY, SIGMA, SITES
from undertone.core.canonical import Json
from undertone.errors import MechanismViolation

SMALLEST_SHARE = 4
_LARGEST = {
    "sigma": SIGMA,
    "sigma_local": SIGMA,
    "sensitivity": SENSITIVITY,
    "shares": SITES,
    "dimension": DIMENSION,
    "count": ATTEMPTS,
}
# The noise of all sites together wraps round the modulus with a probability below 2^-40.
_WRAP_BITS = 40
# ln 2, rounded up, in units of 10^-9: plans are computed in integers so that every machine makes the same one.
_LN2, _LN2_UNIT = 693_147_181, 10**9


@dataclass(frozen=True, order=True)
class DistributedEvent:
    """`count` charges of one kind: `shares` discrete Gaussians of deviation `sigma_local` on `dimension` integers.

    `sigma_local` and `sensitivity` are in grid units, `sampling_rate` is p.
    """

    sigma_local: int
    shares: int
    dimension: int
    sensitivity: int
    sampling_rate: float
    count: int

    def __post_init__(self) -> None:
        """Refuse an event that is no mechanism of ours.

        Raises:
            MechanismViolation: a field has another type or is out of range.
        """
        least = {"sigma_local": SMALLEST_SHARE}
        for name in ("sigma_local", "shares", "dimension", "sensitivity", "count"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least.get(name, 1):
                raise MechanismViolation(f"event.{name} is {value!r}; it must be an integer of {least.get(name, 1)} up")
        rate = self.sampling_rate
        if isinstance(rate, bool) or not (isinstance(rate, float | int) and 0 < rate <= 1):
            raise MechanismViolation(f"event.sampling_rate is {rate!r}; it must be in (0, 1]")

    @property
    def noise_multiplier(self) -> float:
        """The multiplier z = sigma_local sqrt(shares) / sensitivity of the shares that are counted."""
        return self.sigma_local * sqrt(self.shares) / self.sensitivity

    @property
    def log_ratio(self) -> float:
        """The bound tau d on the log-ratio between the shares' sum and the discrete Gaussian of its variance."""
        return tau(self.sigma_local, self.shares) * self.dimension

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `from_dict` is the inverse."""
        return asdict(self) | {"sampling_rate": float(self.sampling_rate)}

    @classmethod
    def from_dict(cls, fields_: Mapping[str, Json]) -> "DistributedEvent":
        """Read what `as_dict` wrote.

        Raises:
            MechanismViolation: a key is missing, left over, or of another type.
        """
        names = {field.name for field in fields(cls)}
        if set(fields_) != names:
            raise MechanismViolation(f"an event of distributed noise has the keys {sorted(names)}")
        check_figures(fields_)
        return cls(**fields_)  # type: ignore[arg-type]


def check_figures(event: Mapping[str, Json]) -> None:
    """The bounds on an event that somebody else wrote down, of either kind.

    Raises:
        MechanismViolation: names the figure.
    """
    for name, value in event.items():
        most = _LARGEST.get(name)
        if most is not None and isinstance(value, int) and not value <= most:
            raise MechanismViolation(f"event.{name} is above {most}, which no plan allows")


def tau(sigma_local: int, shares: int) -> float:
    """10 * sum over k = 1 .. shares - 1 of exp(-2 pi^2 sigma_local^2 k / (k + 1)); 0 for a single share.

    Below the float range it is the smallest normal float: too large, never too small.
    """
    terms = (exp(-2 * pi**2 * sigma_local**2 * k / (k + 1)) for k in range(1, shares))
    return 10 * max(sum(terms), sys.float_info.min) if shares > 1 else 0.0


def noise_share_sigma(sigma: int, shares: int) -> int:
    """sigma_local: the smallest integer of at least 4 with shares * sigma_local^2 >= sigma^2."""
    wanted = -(-sigma * sigma // shares)
    return max(SMALLEST_SHARE, isqrt(wanted - 1) + 1)


def noise_margin(sigma_local: int, sites: int, dimension: int) -> int:
    """The margin m of PRIVACY 4: what the noise of all `sites` stays below in all coordinates but for odds of 2^-40.

    sigma_total sqrt(2 ln(2 d 2^40)) with sigma_total^2 = sites sigma_local^2: discrete Gaussians and their sums are
    sub-Gaussian (Canonne, Kamath, Steinke 2020, corollary 17). Each share goes in before the modulus, so a wrap
    costs utility alone.
    """
    bits = (2 * dimension).bit_length() + _WRAP_BITS
    return isqrt(sites * sigma_local**2 * 2 * bits * _LN2 // _LN2_UNIT) + 1
