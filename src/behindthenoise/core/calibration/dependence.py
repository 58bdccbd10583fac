"""How many independent pixels dependent ones are worth, judged by their misses: between units, or along the lags of one field."""

from collections.abc import Sequence
from fractions import Fraction
from math import inf
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy import fft

from behindthenoise.errors import CalibrationError

# Correlation from which on lags are counted as independent.
NEGLIGIBLE = 0.02
# Blocks shorter than this are edges for the most part.
SMALLEST_EDGE = 8

Field = tuple[Float[np.ndarray, "..."], Bool[np.ndarray, "..."]]


class Design(NamedTuple):
    """
    What dependent misses are worth.

    Attributes
    ----------
    effective_samples
        Independent misses that would tell the mean miss as precisely; may be infinite where misses do not vary.
    effect
        Pixels for each of them (Kish's design effect).
    """

    effective_samples: float
    effect: float


def unit_design(misses: Int[np.ndarray, " unit"], sizes: Int[np.ndarray, " unit"], miscoverage: Fraction) -> Design:
    """
    Effective samples by the variance between units, at most one for each pixel.

    Parameters
    ----------
    misses
        Missed pixels of each unit; two units at least.
    sizes
        Pixels of each unit, positive.
    miscoverage
        Share of misses at which the variance of one independent miss is taken.

    References
    ----------
    Kish (1965), Survey Sampling, section 8.2, with the linearised variance of a ratio as units differ in size.
    """
    pixels = int(sizes.sum())
    # A unit's share of the pixels times the units: 1 where all are equal.
    weights = sizes * (sizes.size / pixels)
    deviations = weights * (misses / sizes - misses.sum() / pixels)
    variance = float(deviations @ deviations) / (sizes.size - 1)
    independent = sizes.size * float(miscoverage * (1 - miscoverage))
    effective = min(independent / variance, float(pixels)) if variance else float(pixels)
    return Design(effective, pixels / effective)


def equal_units(sizes: Int[np.ndarray, " unit"]) -> float:
    """
    Units of one size whose mean would vary as much as the mean over units of these sizes: between 1 and their number.

    References
    ----------
    Kish (1965), Survey Sampling, section 11.7.
    """
    return float(sizes.sum(dtype=np.float64) ** 2 / np.square(sizes, dtype=np.float64).sum())


class Range(NamedTuple):
    """
    How far misses depend on each other.

    Attributes
    ----------
    range_voxels
        Integral range: a field is worth its voxels divided by this.
    radius
        Least distance in voxels at which the mean correlation is negligible.
    variance
        Variance of a voxel's miss.
    """

    range_voxels: float
    radius: int
    variance: float


def integral_range(fields: Sequence[Field]) -> Range:
    """
    Sum of the correlations of misses over all lags, up to the first ring of lags whose mean correlation is negligible.

    Parameters
    ----------
    fields
        For each field of one kind, the miss of every voxel and which voxels are valid. A miss is 0 or 1, or the mean over the
        scans that share one clean image.

    Raises
    ------
    CalibrationError
        If no voxel is valid.

    References
    ----------
    Lantuejoul (1991), J. Microscopy 161, 387-403; Kanit et al. (2003), Int. J. Solids Struct. 40, 3647-3679.
    """
    voxels = _voxels(fields)
    mean = sum(float(miss[valid].sum(dtype=np.float64)) for miss, valid in fields) / voxels
    rings = [_rings(np.where(valid, miss - mean, 0.0), valid) for miss, valid in fields]
    length = max(ring.shape[1] for ring in rings)
    padded = np.stack([np.pad(ring, ((0, 0), (0, length - ring.shape[1]))) for ring in rings])
    products, pairs = padded[:, :2].sum(axis=0)
    # Fields of one kind have the same lags, but a larger field shows more of them.
    lags = padded[:, 2].max(axis=0)
    variance = float(products[0] / voxels)
    # Sums by Fourier transform leave a remainder where there is nothing to sum.
    if variance < 1e-12:
        return Range(1.0, 0, 0.0)
    correlations = np.divide(products, pairs, out=np.zeros(length), where=pairs > 0) / variance
    negligible = np.flatnonzero(correlations < NEGLIGIBLE)
    radius = int(negligible[0]) if negligible.size else length
    return Range(float(correlations[:radius] @ lags[:radius]), radius, variance)


def field_design(fields: Sequence[Field], miscoverage: Fraction) -> Design:
    """
    Effective samples of few fields by the integral range of their misses.

    Parameters
    ----------
    fields
        As in `integral_range`.
    miscoverage
        Share of misses at which the variance of one independent miss is taken.

    Raises
    ------
    CalibrationError
        If no voxel is valid.
    """
    voxels, found = _voxels(fields), integral_range(fields)
    noise = found.variance * found.range_voxels
    effective = float(miscoverage * (1 - miscoverage)) * voxels / noise if noise else inf
    return Design(effective, voxels / effective)


def block_edge(radius: int) -> int:
    """Edge in voxels of blocks that depend on their neighbours along their faces alone: three times the correlation's radius."""
    return max(SMALLEST_EDGE, 3 * radius)


def _voxels(fields: Sequence[Field]) -> int:
    """Valid voxels of all fields."""
    voxels = sum(int(np.count_nonzero(valid)) for _, valid in fields)
    if not voxels:
        raise CalibrationError(
            f"{len(fields)} fields hold no valid voxel, and dependence is measured on valid ones; use fields whose mask keeps some"
        )
    return voxels


def _rings(deviations: Float[np.ndarray, " *space"], valid: Bool[np.ndarray, " *space"]) -> Float64[np.ndarray, "3 ring"]:
    """For the lags whose length rounds to 0, 1, 2 ...: sum of the products of their pairs of voxels, number of pairs, lags."""
    # Twice the size keeps the far end of the field from being a neighbour of the near one.
    shape = [fft.next_fast_len(2 * size - 1, real=True) for size in valid.shape]
    products, pairs = (fft.irfftn(np.abs(fft.rfftn(part, shape)) ** 2, shape) for part in (deviations, valid.astype(np.float64)))
    squares = [np.square(fft.fftfreq(size, 1 / size)) for size in shape]
    ring = np.rint(np.sqrt(sum(np.ix_(*squares)))).astype(np.int64)
    seen = pairs > 0.5
    return np.stack([np.bincount(ring[seen], weights) for weights in (products[seen], pairs[seen], None)]).astype(np.float64)
