"""
How good estimates and intervals are. Every array holds the valid voxels alone, in one row, without NaN.

Large data come in chunks: what returns sums or counts adds up over them, and what needs all voxels at once draws a bounded sample.
"""

from fractions import Fraction
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.special import expit, logit, ndtri, stdtrit

Values = Float[np.ndarray, " voxel"]
FEW_UNITS = 30  # below it, resampled units are too few different ones to show how coverage varies


class CoverageBand(NamedTuple):
    """Coverage of each column of a table, and the ends of its 95 % interval; NaN where there are no voxels, or no two units."""

    coverage: Float[np.ndarray, " column"]
    low: Float[np.ndarray, " column"]
    high: Float[np.ndarray, " column"]


class Misses(NamedTuple):
    """Voxels below their interval, above it, and all; shares are `below / voxels` and `above / voxels`."""

    below: int
    above: int
    voxels: int


class UnitSpread(NamedTuple):
    """How coverage differs between units: the worst, the one that 5 % fall short of, the middle."""

    least: float
    five_percent: float
    median: float


class Slab(NamedTuple):
    """
    Part of the feature space, `low` <= feature · `direction` <= `high`, that is covered worst.

    Attributes
    ----------
    coverage, share
        On the half of the units that had no say in the choice: coverage inside the slab (NaN where it is empty), and share of
        the voxels that lie in it.
    coverage_when_chosen
        On the other half; too low, because the least of many was taken.
    direction, low, high
        In the units of the features.
    """

    coverage: float
    share: float
    coverage_when_chosen: float
    direction: Float[np.ndarray, " feature"]
    low: float
    high: float


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


def pearson(a: Values, b: Values) -> float:
    """Correlation coefficient of two images, in [-1, 1]; NaN where one of them is constant."""
    if _is_constant(a) or _is_constant(b):
        return float("nan")
    # float32 sums over millions of voxels lose digits.
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(a: Values, b: Values) -> float:
    """Rank correlation, in [-1, 1], ties at their mean rank; NaN where one is constant. `subsample` large images first."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Values) -> Values:
    """As of `scipy.stats.rankdata`, which every job that imports it would wait for half a second."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Values = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


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


def hit_table(
    inside: Bool[np.ndarray, " voxel"],
    units: Integer[np.ndarray, " voxel"],
    groups: Integer[np.ndarray, " voxel"],
    shape: tuple[int, int],
) -> tuple[Int[np.ndarray, " unit group"], Int[np.ndarray, " unit group"]]:
    """
    Voxels inside their interval, and voxels, of each unit and group; tables of several chunks add up.

    Parameters
    ----------
    inside
        True where a voxel lies in its interval.
    units, groups
        Numbers from 0: of the unit, and of the token, `bin_of` the width, the direction ... that coverage is asked for.
    shape
        Number of units and of groups in the whole data.
    """
    place = units.astype(np.int64) * shape[1] + groups
    hits, counts = (np.bincount(some, minlength=shape[0] * shape[1]).reshape(shape) for some in (place[inside], place))
    return hits, counts


def coverage_band(
    hits: Int[np.ndarray, " unit column"], counts: Int[np.ndarray, " unit #column"], rng: np.random.Generator, *, draws: int = 2000
) -> CoverageBand:
    """
    Coverage of each column with an interval of 95 % confidence, from whole units drawn with replacement.

    A column is a nominal level (the result is then a reliability curve with its band, each level by itself) or a group.
    Where fewer than 30 units have voxels in a column, the interval is Student's on the logit of the coverage. Its ends
    coincide where all units are covered alike, as the bootstrap's do. Voxels of a unit depend on each other, so drawing voxels
    would promise far too much precision.

    Parameters
    ----------
    hits, counts
        Voxels inside their interval and voxels, of each unit; `counts` may have one column for all.
    rng
        Source of the draws.
    draws
        Number of resampled sets of units.

    References
    ----------
    Cochran (1977), Sampling Techniques, chapter 6, for the standard error of a ratio.
    """
    counts = np.broadcast_to(counts, hits.shape)
    many = (counts > 0).sum(axis=0) >= FEW_UNITS
    ends = np.full((2, hits.shape[1]), np.nan)
    ends[:, many] = _resampled_interval(hits[:, many], counts[:, many], rng, draws)
    for column in np.flatnonzero(~many):
        ends[:, column] = _student_interval(hits[:, column], counts[:, column])
    with np.errstate(invalid="ignore"):
        return CoverageBand(hits.sum(axis=0) / counts.sum(axis=0), ends[0], ends[1])


def coverage_interval(
    counts_inside: Int[np.ndarray, " unit"], counts: Int[np.ndarray, " unit"], rng: np.random.Generator, *, draws: int = 2000
) -> tuple[float, float]:
    """`coverage_band` of one column: interval of 95 % confidence for the coverage; NaN for fewer than two units."""
    _, low, high = coverage_band(counts_inside[:, None], counts[:, None], rng, draws=draws)
    return low.item(), high.item()


def unit_spread(hits: Int[np.ndarray, " unit"], counts: Int[np.ndarray, " unit"]) -> UnitSpread:
    """Least, 5 % and median coverage of single units; those without voxels are left out, NaN if none is left."""
    filled = counts > 0
    if not filled.any():
        return UnitSpread(float("nan"), float("nan"), float("nan"))
    return UnitSpread(*np.quantile(hits[filled] / counts[filled], (0, 0.05, 0.5)).tolist())


def coverage_gap(coverages: Float[np.ndarray, " group"], nominal: float) -> float:
    """
    Mean distance of the groups' coverages from the nominal one (CovGap); groups without voxels (NaN) are left out.

    References
    ----------
    Ding, Angelopoulos, Bates, Jordan & Tibshirani (2023), arXiv:2306.09335.
    """
    filled = coverages[~np.isnan(coverages)]
    return float(np.abs(filled - nominal).mean()) if filled.size else float("nan")


def misses(lower: Values, upper: Values, truth: Values) -> Misses:
    """How many voxels lie below and above their closed interval; the counts of several chunks add up."""
    return Misses(int((truth < lower).sum()), int((truth > upper).sum()), truth.size)


def worst_slab(
    features: Float[np.ndarray, " voxel feature"],
    inside: Bool[np.ndarray, " voxel"],
    units: Int[np.ndarray, " voxel"],
    rng: np.random.Generator,
    *,
    directions: int = 1000,
    sample: int = 20_000,
) -> Slab:
    """
    Coverage of the worst covered slab that holds a tenth of the voxels: chosen on half of the units, evaluated on the others.

    Directions are uniform on the sphere after each feature is divided by its standard deviation; slabs end at percentiles of
    the projection.

    Parameters
    ----------
    features
        What coverage may depend on: the embedding, or medians and widths.
    inside
        True where a voxel lies in its interval.
    units
        Id of the block or image of each voxel; with one unit alone all is NaN.
    rng
        Source of the halves, the sample and the directions.
    directions
        Number of random directions.
    sample
        Most voxels that the slab is chosen on.

    References
    ----------
    Cauchois, Gupta & Duchi (2021), J. Mach. Learn. Res. 22(81).
    """
    ids = rng.permutation(np.unique(units))
    choosing = np.isin(units, ids[: ids.size // 2])
    if ids.size < 2:
        return Slab(np.nan, np.nan, np.nan, np.full(features.shape[1], np.nan), np.nan, np.nan)
    half = np.flatnonzero(choosing)
    half = half[subsample(half.size, sample, rng)]
    points, hits = features[half].astype(np.float64), inside[half]
    scale = points.std(axis=0)
    vectors = rng.standard_normal((directions, scale.size)) / np.where(scale > 0, scale, 1)
    slabs = [(*_worst_window(points @ vector, hits), vector) for vector in vectors]
    chosen, low, high, vector = min(slabs, key=lambda slab: slab[0])
    projection = features @ vector
    held = (low <= projection) & (projection <= high) & ~choosing
    covered = float(inside[held].mean()) if held.any() else np.nan
    return Slab(covered, float(held.sum() / (~choosing).sum()), chosen, vector, low, high)


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


def pit(quantiles: Float[np.ndarray, " level voxel"], levels: Float[np.ndarray, " level"], truth: Values) -> Values:
    """
    Probability integral transform: predicted probability of a value up to the truth; uniform if the prediction is calibrated.

    Between the quantiles the distribution is interpolated linearly. Beyond the outer ones it falls off exponentially with the
    density of the last interval, which leaves no constant to choose. Only at the given levels is the result free of these two
    assumptions: three quantiles say nothing on the shape in between. Where the truth lies on tied quantiles, their mean level
    is taken.

    Parameters
    ----------
    quantiles
        At least two per voxel, finite and rising.
    levels
        Their levels in (0, 1), rising.
    truth
        The clean image.

    References
    ----------
    Gneiting, Balabdaoui & Raftery (2007), J. R. Stat. Soc. B 69, 243-268.
    """
    offsets, widths, masses = truth.astype(np.float64) - quantiles, np.diff(quantiles.astype(np.float64), axis=0), np.diff(levels)
    below, above = levels[0], 1 - levels[-1]
    result = below * _tail(-offsets[0], widths[0] / masses[0] * below)
    for offset, width, mass in zip(offsets, widths, masses, strict=False):
        result += mass * np.clip(np.divide(offset, width, out=(np.sign(offset) + 1) / 2, where=width > 0), 0, 1)
    return np.asarray(result + above * (1 - _tail(offsets[-1], widths[-1] / masses[-1] * above)))


def pit_counts(transform: Values, *, bins: int = 20) -> Int[np.ndarray, " bin"]:
    """Histogram of what `pit` returns over [0, 1]; the counts of several chunks add up."""
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


def subsample(size: int, limit: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Indices of `limit` of `size` voxels, drawn without replacement, rising; all where there are no more."""
    return np.arange(size) if size <= limit else np.sort(rng.choice(size, limit, replace=False, shuffle=False))


def decile_edges(values: Values) -> Float[np.ndarray, " edge"]:
    """The nine inner borders between tenths of the values; fewer where values are tied."""
    return np.unique(np.quantile(values, np.arange(1, 10) / 10))


def bin_of(values: Values, edges: Float[np.ndarray, " edge"]) -> Int[np.ndarray, " voxel"]:
    """Number, from 0, of the bin between the inner borders `edges`; a value on a border belongs to the upper one."""
    return np.searchsorted(edges, values, side="right")


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


def _resampled_interval(
    hits: Int[np.ndarray, " unit column"], counts: Int[np.ndarray, " unit column"], rng: np.random.Generator, draws: int
) -> Float[np.ndarray, " 2 column"]:
    """Percentiles of the coverage of resampled units; a draw that has no voxel of a column is left out there."""
    if not hits.size:
        return np.empty((2, hits.shape[1]))
    size = len(hits)
    # As float64 the product is BLAS's, and exact: integers below 2^53.
    numerator, denominator = hits.astype(np.float64), counts.astype(np.float64)
    shares = []
    batch = max(1, 2**22 // size)  # bounds the table of times: many blocks times many draws would be gigabytes
    for start in range(0, draws, batch):
        times = rng.multinomial(size, np.full(size, 1 / size), size=min(batch, draws - start)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares.append((times @ numerator) / (times @ denominator))
    return np.asarray(np.nanquantile(np.concatenate(shares), (0.025, 0.975), axis=0))


def _student_interval(hits: Int[np.ndarray, " unit"], counts: Int[np.ndarray, " unit"]) -> tuple[float, float]:
    """Interval on the logit of the pooled coverage, its standard error from the differences between units."""
    hits, counts = hits[counts > 0], counts[counts > 0]
    units, voxels = counts.size, counts.sum()
    if units < 2:
        return float("nan"), float("nan")
    share = hits.sum() / voxels
    if share in {0, 1}:
        return float(share), float(share)
    error = np.sqrt(units / (units - 1) * np.square(hits - share * counts).sum()) / voxels
    reach = stdtrit(units - 1, 0.975) * error / (share * (1 - share))
    return float(expit(logit(share) - reach)), float(expit(logit(share) + reach))


def _worst_window(projection: Values, hits: Bool[np.ndarray, " voxel"]) -> tuple[float, float, float]:
    """Least coverage of a run of at least a tenth of the sorted voxels, and the ends of that run."""
    order = np.argsort(projection)
    cells = min(100, hits.size)
    borders = np.arange(cells + 1) * hits.size // cells
    counts = np.r_[0, np.cumsum(hits[order])][borders]
    least, length = ceil(cells / 10), np.arange(cells + 1) - np.arange(cells + 1)[:, None]
    # A run of twice the least length has a half that is covered no better, so longer ones need not be tried.
    start, stop = np.nonzero((length >= least) & (length < 2 * least))
    shares = (counts[stop] - counts[start]) / (borders[stop] - borders[start])
    worst = np.argmin(shares)
    ends = projection[order[[borders[start[worst]], borders[stop[worst]] - 1]]]
    return float(shares[worst]), float(ends[0]), float(ends[1])


def _mean_of_least(key: Values, size: Values, removed: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """Mean of `size` over the voxels with the least `key`, where the given shares with the largest are left out."""
    _, place, ties = np.unique(key, return_inverse=True, return_counts=True)
    # Voxels of one key have no order among them: each stands for the mean of all.
    sums = np.cumsum((np.bincount(place, size) / ties)[np.sort(place)])
    kept = np.maximum(np.round(key.size * (1 - removed)).astype(int), 1)
    return np.asarray(sums[kept - 1] / kept)


def _tail(distance: Values, scale: Values) -> Values:
    """Exponential decay with the distance outside; 1 inside, and 0 outside where the scale is zero."""
    steps = np.divide(distance, scale, out=np.full(distance.shape, np.inf), where=scale > 0)
    return np.asarray(np.exp(-np.where(distance > 0, steps, 0)))
