"""Are these draws of that law? P-values for the noise, from exact cell masses and moments.

On real entropy a right sampler falls below `CHANCE` once in a million runs. At a million draws a sigma that is
2 % off misses by twenty-eight standard errors, at ten million one that is 0.5 % off by twenty-two.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CHANCE = 1e-6
Draws = NDArray[np.int64]


def rounded_p_value(draws: Draws, sigma: float) -> float:
    """Is this rint(N(0, sigma^2))? Mean, variance and the exact cell masses; Bonferroni over the three."""
    return _p_value(draws, sigma, sigma**2 + 1 / 12, lambda edges: stats.norm.cdf(edges / sigma))


def discrete_p_value(draws: Draws, sigma: float) -> float:
    """Is this the discrete Gaussian P(j) ~ exp(-j^2 / 2 sigma^2)? Its variance is sigma^2 to 1e-130 for sigma >= 4.

    Beyond sigma = 5000 its distribution function is the normal one between integers, to 1e-9.
    """
    if sigma > 5000:
        return _p_value(draws, sigma, sigma**2, lambda edges: stats.norm.cdf(edges / sigma))
    reach = math.ceil(40 * sigma)
    masses = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    steps = np.cumsum(masses) / masses.sum()
    return _p_value(draws, sigma, sigma**2, lambda edges: steps[np.floor(edges).astype(int) + reach])


def two_sample_p_value(ours: Draws, theirs: Draws) -> float:
    """Do both come from one law? Chi-square over up to 40 cells of equal weight, and the ratio of variances."""
    edges = np.unique(np.quantile(np.concatenate([ours, theirs]), np.linspace(0, 1, 41)[1:-1]) + 0.5)
    table = [np.bincount(np.searchsorted(edges, part), minlength=edges.size + 1) for part in (ours, theirs)]
    cells_p = stats.chi2_contingency(np.array(table)).pvalue
    spread = np.var(ours) / np.var(theirs)
    tail = stats.f.sf(spread, ours.size, theirs.size)
    return float(min(1.0, 2 * min(cells_p, 2 * min(tail, 1 - tail))))


def _p_value(draws: Draws, sigma: float, variance: float, cdf: Callable[[NDArray[np.float64]], object]) -> float:
    n = draws.size
    mean_p = 2 * stats.norm.sf(abs(draws.mean()) / math.sqrt(variance / n))
    # The mean of squares of a (nearly) normal variable has variance 2 sigma^4 / n.
    spread = float(np.mean(np.square(draws.astype(np.float64)))) / variance
    spread_p = 2 * stats.norm.sf(abs(spread - 1) * math.sqrt(n / 2))
    edges = np.unique(np.round(np.linspace(-3.5, 3.5, 57) * sigma) - 0.5)
    counts = np.bincount(np.searchsorted(edges, draws), minlength=edges.size + 1)
    masses = np.diff(np.concatenate([[0.0], np.asarray(cdf(edges)), [1.0]]))
    cells_p = stats.chisquare(counts, masses * n).pvalue
    return float(min(1.0, 3 * min(mean_p, spread_p, cells_p)))
