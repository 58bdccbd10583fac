"""Where coverage is worst, whatever way the voxels are looked at."""

from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from behindthenoise.core.sampling import subsample

Values = Float[np.ndarray, " voxel"]


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
