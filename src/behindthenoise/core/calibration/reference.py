"""
Noise of the reference image, and what the coverage of the reference says about the true signal. Reported, never corrected for.

The intervals are calibrated on the reference, so they cover the reference: signal and noise together. Where the noise is known,
from a second reference or from counting statistics, so is its share in the residuals, and from that what the signal would need.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int64
from scipy.special import ndtr, ndtri

from behindthenoise.errors import CalibrationError

Values = Float[np.ndarray, " voxel"]
Sums = Float[np.ndarray, " bin"]


@dataclass(frozen=True, eq=False)
class NoiseSums:
    """
    Sums over the voxels of each bin of the predicted median.

    Attributes
    ----------
    voxels
        Number of voxels.
    residual, residual_square
        Reference minus median, and its square.
    noise, noise_square
        What the noise of the reference is and its square are estimated by: their difference, as mean square less squared
        mean, is its variance.
    """

    voxels: Int64[np.ndarray, " bin"]
    residual: Sums
    residual_square: Sums
    noise: Sums
    noise_square: Sums


@dataclass(frozen=True)
class ReferenceNoise:
    """
    Noise of the reference where the predicted median is in `low` <= median < `high`, and what follows for the true signal.

    Implied coverage and sufficient width are those of independent, normally distributed noise and errors of the median, alike in
    the whole bin and without offset. They are NaN where the share is 1 or more: noise that is larger than the residuals that hold
    it is overestimated (a wrong gain) or not independent, and nothing follows from it.

    Attributes
    ----------
    low, high
        Borders of the bin.
    voxels
        Number of voxels; without any, all else is NaN.
    residual_variance
        Of reference minus median.
    noise_variance
        Of the reference around the true signal.
    share
        Noise variance over residual variance.
    implied_coverage
        Of the true signal, by intervals that cover the reference as nominal; larger than that.
    width_factor
        Share of the intervals' width that would do for the true signal.
    """

    low: float
    high: float
    voxels: int
    residual_variance: float
    noise_variance: float
    share: float
    implied_coverage: float
    width_factor: float


def from_repeats(first: Values, second: Values, median: Values, edges: Float[np.ndarray, " edge"]) -> NoiseSums:
    """
    Sums for a reference that is the mean of two independent ones of equal quality, such as two half doses.

    The variance of the mean is a quarter of that of the difference; a constant offset between the two is no noise.

    Parameters
    ----------
    first, second
        The two references, without NaN.
    median
        Predicted median.
    edges
        Inner borders of the bins of the median, rising, from training voxels; none for one bin.
    """
    half_difference = (first.astype(np.float64) - second) / 2
    reference = (first.astype(np.float64) + second) / 2
    return _sums(reference, half_difference, np.square(half_difference), median, edges)


def from_counts(reference: Values, median: Values, edges: Float[np.ndarray, " edge"]) -> NoiseSums:
    """
    Sums for a reference of counted events: its variance is its signal.

    In each bin the mean of the reference stands for that of the signal, which is unbiased because the bins are chosen by the
    median, never by the reference.

    Parameters
    ----------
    reference
        The clean image, without NaN.
    median, edges
        As in `from_repeats`.

    Raises
    ------
    CalibrationError
        If the reference is negative somewhere.
    """
    if reference.size and (least := float(reference.min())) < 0:
        raise CalibrationError(
            f"the reference holds {least:g}, and counts are 0 or more; subtract no background, or estimate the noise from two "
            "references"
        )
    counts = reference.astype(np.float64)
    return _sums(counts, np.zeros(reference.size), counts, median, edges)


def reference_noise(sums: NoiseSums, edges: Float[np.ndarray, " edge"], miscoverage: Fraction) -> list[ReferenceNoise]:
    """
    Noise of the reference in each bin.

    Parameters
    ----------
    sums
        Of all voxels.
    edges
        The borders that the sums were made with.
    miscoverage
        What the intervals were calibrated to miss of the reference, in (0, 1).

    References
    ----------
    Einbinder, Feldman, Bates, Angelopoulos, Gendler & Romano (2024), J. Mach. Learn. Res. 25: intervals that cover a noisy label
    cover the clean one at least as often if the noise is dispersive.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = _variance(sums.residual_square, sums.residual, sums.voxels)
        noise = _variance(sums.noise_square, sums.noise, sums.voxels)
        share = noise / residual
        factor = np.sqrt(np.where(share < 1, 1 - share, np.nan))
        implied = 2 * ndtr(ndtri(1 - float(miscoverage) / 2) / factor) - 1
    borders = [float("-inf"), *edges.tolist(), float("inf")]
    columns = (column.tolist() for column in (sums.voxels, residual, noise, share, implied, factor))
    return [ReferenceNoise(*row) for row in zip(borders[:-1], borders[1:], *columns, strict=True)]


def _sums(reference: Values, noise: Values, noise_square: Values, median: Values, edges: Float[np.ndarray, " edge"]) -> NoiseSums:
    """Sums by bin, in float64."""
    place, residual = np.searchsorted(edges, median, side="right"), reference - median
    sums = (
        # numpy answers no voxels with whole numbers
        np.bincount(place, weights, minlength=edges.size + 1).astype(np.float64)
        for weights in (residual, np.square(residual), noise, noise_square)
    )
    return NoiseSums(np.bincount(place, minlength=edges.size + 1), *sums)


def _variance(square: Sums, total: Sums, voxels: Int64[np.ndarray, " bin"]) -> Sums:
    """Mean square less squared mean, no less than 0 by a rounding."""
    return np.asarray(np.maximum(square / voxels - np.square(total / voxels), 0))
