"""How good estimates and intervals are. Every array holds the valid voxels alone, in one row, without NaN."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Values = Float[np.ndarray, " voxel"]


class BinCoverage(NamedTuple):
    """Coverage of the voxels with `low` <= value < `high`; NaN where there are none."""

    low: float
    high: float
    voxels: int
    coverage: float


def pearson(a: Values, b: Values) -> float:
    """Correlation coefficient of two images, in [-1, 1]; NaN where one of them is constant."""
    if _is_constant(a) or _is_constant(b):
        return float("nan")
    # float32 sums over millions of voxels lose digits.
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def psnr(estimate: Values, truth: Values) -> float:
    """
    Peak signal-to-noise ratio in dB; infinite for a perfect estimate, NaN where the truth is constant.

    The peak is the truth's range, largest minus least value: counts have no fixed full scale. It thus depends on the truth
    alone, and compares estimates of one truth, not different images.
    """
    if _is_constant(truth):
        return float("nan")
    error = np.mean(np.square(estimate.astype(np.float64) - truth))
    return float(20 * np.log10(np.ptp(truth.astype(np.float64))) - 10 * np.log10(error)) if error else float("inf")


def covers(lower: Values, upper: Values, truth: Values) -> Bool[np.ndarray, " voxel"]:
    """True where the truth lies in its closed interval."""
    return (lower <= truth) & (truth <= upper)


def coverage(lower: Values, upper: Values, truth: Values) -> float:
    """Share of the voxels inside their interval; NaN for none."""
    return float(covers(lower, upper, truth).mean()) if truth.size else float("nan")


def unit_coverage(
    inside: Bool[np.ndarray, " voxel"], units: Int[np.ndarray, " voxel"]
) -> tuple[Int[np.ndarray, " unit"], Int[np.ndarray, " unit"], Int[np.ndarray, " unit"]]:
    """Ids of the units, rising, voxels inside their interval, and voxels, of each unit."""
    ids, place, counts = np.unique(units, return_inverse=True, return_counts=True)
    return ids, np.bincount(place[inside], minlength=ids.size), counts


def coverage_interval(
    counts_inside: Int[np.ndarray, " unit"], counts: Int[np.ndarray, " unit"], rng: np.random.Generator, *, draws: int = 2000
) -> tuple[float, float]:
    """
    Interval of 95 % confidence for the coverage, from whole units drawn with replacement; NaN for fewer than two units.

    Voxels of a unit depend on each other, so drawing voxels would promise far too much precision.

    Parameters
    ----------
    counts_inside, counts
        Voxels inside their interval and voxels, of each unit; every unit has voxels.
    rng
        Source of the draws.
    draws
        Number of resampled sets of units.
    """
    size = counts.size
    if size < 2:
        return float("nan"), float("nan")
    times = rng.multinomial(size, np.full(size, 1 / size), size=draws)
    low, high = np.quantile((times @ counts_inside) / (times @ counts), (0.025, 0.975))
    return float(low), float(high)


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


def decile_edges(values: Values) -> Float[np.ndarray, " edge"]:
    """The nine inner borders between tenths of the values; fewer where values are tied."""
    return np.unique(np.quantile(values, np.arange(1, 10) / 10))


def coverage_by_bin(values: Values, inside: Bool[np.ndarray, " voxel"], edges: Float[np.ndarray, " edge"]) -> list[BinCoverage]:
    """
    Coverage in each of the bins that `edges` cut the line into, the outer two without end.

    Parameters
    ----------
    values
        What the voxels are sorted by; for a promise per bin it must not depend on the truth.
    inside
        True where a voxel lies in its interval.
    edges
        Inner borders, rising; a value on a border belongs to the upper bin.
    """
    place = np.searchsorted(edges, values, side="right")
    voxels = np.bincount(place, minlength=edges.size + 1)
    hits = np.bincount(place[inside], minlength=edges.size + 1)
    borders = [float("-inf"), *edges.tolist(), float("inf")]
    return [
        BinCoverage(low, high, int(count), hit / count if count else float("nan"))
        for low, high, count, hit in zip(borders[:-1], borders[1:], voxels.tolist(), hits.tolist(), strict=True)
    ]


def match_intensity(noisy: Values, clean: Values) -> tuple[float, float]:
    """
    Gain and offset with noisy = gain * clean + offset, so that (noisy - offset) / gain is in the clean image's units.

    Noisy is regressed on clean, never the other way round: noise in the regressor would flatten the line. Where the slope is
    not positive, mean and spread are matched; where an image is constant, the mean alone. Voxels that are not finite in both
    are left out.
    """
    valid = np.isfinite(noisy) & np.isfinite(clean)
    x, y = clean[valid].astype(np.float64), noisy[valid].astype(np.float64)
    if not x.size:
        return 1.0, 0.0
    if _is_constant(x) or _is_constant(y):
        return 1.0, float(y.mean() - x.mean())
    centred = x - x.mean()
    gain = float(centred @ (y - y.mean()) / (centred @ centred))
    if gain <= 0:
        gain = float(y.std() / x.std())
    return gain, float(y.mean() - gain * x.mean())


def _is_constant(values: Values) -> bool:
    """Whether there is nothing to correlate with; exact, where a variance would be a rounding error."""
    return bool(values.size == 0 or values.min() == values.max())
