"""How many independent pixels dependent ones are worth, judged by their misses: between units, or along the lags of one field."""

from collections.abc import Sequence
from fractions import Fraction
from math import hypot, inf
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy import fft

from behindthenoise.errors import CalibrationError

# Correlation from which on lags are counted as independent.
NEGLIGIBLE = 0.02
# Blocks shorter than this are edges for the most part.
SMALLEST_EDGE = 8
# Lags that are looked at first, in voxels; twice as many while misses are correlated over all of them.
REACH = 32

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


class Rings(NamedTuple):
    """
    Lags between the valid voxels of one field, by their length rounded to 0, 1, 2 ...

    Attributes
    ----------
    shape
        Of the Fourier transforms that correlate the field with itself.
    places, lengths
        Of each lag that is looked at: where a transform has it, and its ring.
    pairs, lags
        Of each ring: pairs of valid voxels, and lags.
    """

    shape: tuple[int, ...]
    places: Int[np.ndarray, " lag"]
    lengths: Int[np.ndarray, " lag"]
    pairs: Float64[np.ndarray, " ring"]
    lags: Float64[np.ndarray, " ring"]


class Lags:
    """
    Lags between the valid voxels of fields of one kind, along which the correlations of any misses there can be summed.

    Parameters
    ----------
    valid
        Which voxels of each field are valid.

    Raises
    ------
    CalibrationError
        If no voxel is valid.
    """

    def __init__(self, valid: Sequence[Bool[np.ndarray, "..."]]) -> None:
        self._valid = list(valid)
        self.voxels = sum(int(np.count_nonzero(where)) for where in valid)
        if not self.voxels:
            raise CalibrationError(
                f"{len(valid)} fields hold no valid voxel, and dependence is measured on valid ones; "
                "use fields whose mask keeps some"
            )
        self._longest = max(round(hypot(*(size - 1 for size in where.shape))) for where in valid)
        self._rings: dict[int, list[Rings]] = {}

    def range_of(self, misses: Sequence[Float[np.ndarray, "..."]]) -> Range:
        """
        Sum of the correlations of misses over all lags, up to the first ring of lags whose mean correlation is negligible.

        Parameters
        ----------
        misses
            The miss of every voxel of each field: 0 or 1, or the mean over the scans that share one clean image.

        References
        ----------
        Lantuejoul (1991), J. Microscopy 161, 387-403; Kanit et al. (2003), Int. J. Solids Struct. 40, 3647-3679.
        """
        fields = list(zip(misses, self._valid, strict=True))
        mean = sum(float(miss[valid].sum(dtype=np.float64)) for miss, valid in fields) / self.voxels
        deviations = [np.where(valid, miss - mean, 0.0) for miss, valid in fields]
        variance = sum(float(np.square(part).sum()) for part in deviations) / self.voxels
        # the mean is rounded
        if variance < 1e-12:
            return Range(1.0, 0, 0.0)
        reach = min(REACH, self._longest)
        while True:
            rings = self._up_to(reach)
            products = sum(_products(part, ring) for part, ring in zip(deviations, rings, strict=True))
            pairs = sum(ring.pairs for ring in rings)
            correlations = np.divide(products, pairs, out=np.zeros(reach + 1), where=pairs > 0) / variance
            negligible = np.flatnonzero(correlations < NEGLIGIBLE)
            if negligible.size or reach == self._longest:
                break
            reach = min(2 * reach, self._longest)
        radius = int(negligible[0]) if negligible.size else reach + 1
        # fields of one kind have the same lags, but a larger field shows more of them
        lags = np.max([ring.lags for ring in rings], axis=0)
        return Range(float(correlations[:radius] @ lags[:radius]), radius, variance)

    def _up_to(self, reach: int) -> list[Rings]:
        """Rings of every field; they are the same for all misses."""
        if reach not in self._rings:
            self._rings[reach] = [_rings(valid, reach) for valid in self._valid]
        return self._rings[reach]


def integral_range(fields: Sequence[Field]) -> Range:
    """`Lags.range_of` one set of misses: for each field the miss of every voxel, and which voxels are valid."""
    return Lags([valid for _, valid in fields]).range_of([miss for miss, _ in fields])


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
    found, voxels = integral_range(fields), sum(int(np.count_nonzero(valid)) for _, valid in fields)
    noise = found.variance * found.range_voxels
    effective = float(miscoverage * (1 - miscoverage)) * voxels / noise if noise else inf
    return Design(effective, voxels / effective)


def block_edge(radius: int) -> int:
    """Edge in voxels of blocks that depend on their neighbours along their faces alone: three times the correlation's radius."""
    return max(SMALLEST_EDGE, 3 * radius)


def _rings(valid: Bool[np.ndarray, " *space"], reach: int) -> Rings:
    """Rings of lags up to a length."""
    # as much wider as lags are long, so that the far end of the field is no neighbour of the near one
    shape = tuple(fft.next_fast_len(size + min(reach, size - 1), real=True) for size in valid.shape)
    pairs = _correlated(valid.astype(np.float64), shape)
    squares = [np.square(fft.fftfreq(size, 1 / size)) for size in shape]
    length = np.rint(np.sqrt(sum(np.ix_(*squares)))).ravel()
    places = np.flatnonzero((pairs > 0.5) & (length <= reach))
    lengths = length[places].astype(np.int64)
    count = reach + 1
    return Rings(
        shape,
        places,
        lengths,
        np.bincount(lengths, pairs[places], minlength=count).astype(np.float64),  # of no lags, whole numbers
        np.bincount(lengths, minlength=count).astype(np.float64),
    )


def _products(deviations: Float[np.ndarray, " *space"], rings: Rings) -> Float64[np.ndarray, " ring"]:
    """Sum of the products of the pairs of voxels of each ring."""
    found = _correlated(deviations, rings.shape)[rings.places]
    return np.bincount(rings.lengths, found, minlength=rings.pairs.size).astype(np.float64)


def _correlated(values: Float[np.ndarray, " *space"], shape: tuple[int, ...]) -> Float64[np.ndarray, " lag"]:
    """Sum over all pairs of voxels of their product, for each lag between them."""
    return np.asarray(fft.irfftn(np.abs(fft.rfftn(values, shape)) ** 2, shape)).ravel()
