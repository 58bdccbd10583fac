"""
Which voxels their intervals cover, by unit and by group, and how sure that is.

Arrays of voxels hold the valid ones alone, in one row, without NaN. Large data come in chunks: counts of several add up.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.special import expit, logit, stdtrit

Values = Float[np.ndarray, " voxel"]
FEW_UNITS = 30  # below it, resampled units are too few different ones to show how coverage varies


class CoverageBand(NamedTuple):
    """Coverage of each column of a table, and the ends of its 95 % interval; NaN where there are no voxels, or no two units."""

    coverage: Float[np.ndarray, " column"]
    low: Float[np.ndarray, " column"]
    high: Float[np.ndarray, " column"]


class UnitSpread(NamedTuple):
    """How coverage differs between units: the worst, the one that 5 % fall short of, the middle."""

    least: float
    five_percent: float
    median: float


class Misses(NamedTuple):
    """Voxels below their interval, above it, and all; shares are `below / voxels` and `above / voxels`."""

    below: int
    above: int
    voxels: int


def covers(lower: Values, upper: Values, truth: Values) -> Bool[np.ndarray, " voxel"]:
    """True where the truth lies in its closed interval."""
    return (lower <= truth) & (truth <= upper)


def coverage(lower: Values, upper: Values, truth: Values) -> float:
    """Share of the voxels inside their interval; NaN for none."""
    return float(covers(lower, upper, truth).mean()) if truth.size else float("nan")


def misses(lower: Values, upper: Values, truth: Values) -> Misses:
    """How many voxels lie below and above their closed interval; the counts of several chunks add up."""
    return Misses(int((truth < lower).sum()), int((truth > upper).sum()), truth.size)


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


def decile_edges(values: Values) -> Float[np.ndarray, " edge"]:
    """The nine inner borders between tenths of the values; fewer where values are tied."""
    return np.unique(np.quantile(values, np.arange(1, 10) / 10))


def bin_of(values: Values, edges: Float[np.ndarray, " edge"]) -> Int[np.ndarray, " voxel"]:
    """Number, from 0, of the bin between the inner borders `edges`; a value on a border belongs to the upper one."""
    return np.searchsorted(edges, values, side="right")


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
