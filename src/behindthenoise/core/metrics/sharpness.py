"""
How good intervals and quantiles are beyond their coverage: width, and scores that charge width and misses.

Arrays of voxels hold the valid ones alone, in one row, without NaN; sums over several chunks add up.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from behindthenoise.core.sampling import subsample

Values = Float[np.ndarray, " voxel"]


class Sparsification(NamedTuple):
    """
    Mean error of the voxels that are left when the widest intervals, or the largest errors, are removed first.

    Attributes
    ----------
    removed
        Share of the voxels removed, rising from 0.
    by_width, by_error
        Mean error left, as a share of that of all voxels; by error is the best that an order can do.
    area
        Area between the two (AUSE): 0 if the width sorts voxels as their errors do.
    """

    removed: Float[np.ndarray, " step"]
    by_width: Float[np.ndarray, " step"]
    by_error: Float[np.ndarray, " step"]
    area: float


def interval_score(lower: Values, upper: Values, truth: Values, miscoverage: Fraction) -> float:
    """
    Mean width plus 2/miscoverage times the distance of each miss, in units of the image; smaller is better.

    References
    ----------
    Gneiting & Raftery (2007), J. Am. Stat. Assoc. 102, 359-378, equation 43.
    """
    low, high, value = (array.astype(np.float64) for array in (lower, upper, truth))
    miss = np.maximum(low - value, 0) + np.maximum(value - high, 0)
    return float(np.mean(high - low + 2 / float(miscoverage) * miss))


def pinball_sum(quantile: Values, truth: Values, level: float) -> float:
    """
    Sum of the pinball losses of one quantile, in units of the image; infinite where a quantile is.

    References
    ----------
    Koenker & Bassett (1978), Econometrica 46, 33-50.
    """
    above = truth.astype(np.float64) - quantile
    return float(np.maximum(level * above, (level - 1) * above).sum())


def weighted_interval_score(pinball: Float[np.ndarray, " level"]) -> float:
    """
    Weighted interval score from the mean pinball losses of the median and both ends of central intervals: twice their mean.

    The loss of an interval's two ends, summed, is miscoverage/2 times its interval score, hence no weights are left.

    References
    ----------
    Bracher, Ray, Gneiting & Reich (2021), PLoS Comput. Biol. 17, e1008618.
    """
    return float(2 * pinball.mean())


def crps(pinball: Float[np.ndarray, " level"], levels: Float[np.ndarray, " level"]) -> float:
    """
    Continuous ranked probability score: twice the integral of the mean pinball loss over the levels.

    By the trapezoidal rule, with no loss at levels 0 and 1; for a normal distribution at 1, 2 ... 99 % it is 0.02 % too small.

    Parameters
    ----------
    pinball
        Mean pinball loss of each quantile.
    levels
        Levels of the quantiles in (0, 1), rising.

    References
    ----------
    Gneiting & Ranjan (2011), J. Bus. Econ. Stat. 29, 411-422.
    """
    return float(2 * np.trapezoid(np.r_[0, pinball, 0], np.r_[0, levels, 1]))


def pit_counts(transform: Values, *, bins: int = 20) -> Int[np.ndarray, " bin"]:
    """
    Histogram of the probability integral transform, the predicted probability of a value up to the truth, over [0, 1].

    It is flat if the prediction is calibrated; the counts of several chunks add up.

    References
    ----------
    Gneiting, Balabdaoui & Raftery (2007), J. R. Stat. Soc. B 69, 243-268.
    """
    return np.histogram(transform, bins=bins, range=(0, 1))[0]


def sparsification(
    width: Values, error: Values, rng: np.random.Generator, *, sample: int = 1_000_000, steps: int = 100
) -> Sparsification:
    """
    Whether the widest intervals are where the errors are large: mean error left when the widest are removed first.

    Parameters
    ----------
    width
        Widths of the intervals; equal ones count as removed in random order, on average.
    error
        Estimate minus truth; NaN throughout if all errors are zero.
    rng
        Source of the sample.
    sample
        Most voxels that are sorted.
    steps
        Shares removed: 0, 1/steps, ... 1 - 1/steps.

    References
    ----------
    Ilg et al. (2018), ECCV, arXiv:1802.07095.
    """
    drawn = subsample(width.size, sample, rng)
    size = np.abs(error[drawn].astype(np.float64))
    removed = np.arange(steps) / steps
    mean = size.mean() if size.any() else np.nan
    by_width, by_error = (_mean_of_least(key, size, removed) / mean for key in (width[drawn], size))
    return Sparsification(removed, by_width, by_error, float(np.trapezoid(by_width - by_error, removed)))


def gaussian_width(deviation: float, miscoverage: Fraction) -> float:
    """Width of the central interval of a normal distribution: what noise of this standard deviation leaves without denoising."""
    return float(2 * ndtri(1 - float(miscoverage) / 2) * deviation)


def width_reduction(width: float, noisy_width: float) -> float:
    """
    Share of the noisy input's width that denoising removes, at most 1; negative where intervals grew, NaN without noise.

    Parameters
    ----------
    width
        Mean width of the intervals, in units of the image.
    noisy_width
        The input's: `gaussian_width` of noisy minus reference, or the mean width after calibrating the input in the same way.
    """
    return 1 - width / noisy_width if noisy_width > 0 else float("nan")


def _mean_of_least(key: Values, size: Values, removed: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """Mean of `size` over the voxels with the least `key`, where the given shares with the largest are left out."""
    _, place, ties = np.unique(key, return_inverse=True, return_counts=True)
    # Voxels of one key have no order among them: each stands for the mean of all.
    sums = np.cumsum((np.bincount(place, size) / ties)[np.sort(place)])
    kept = np.maximum(np.round(key.size * (1 - removed)).astype(int), 1)
    return np.asarray(sums[kept - 1] / kept)
