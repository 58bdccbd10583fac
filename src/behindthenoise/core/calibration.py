"""Intervals that hold on average over new blocks or images, however much the pixels inside one depend on each other."""

from fractions import Fraction
from math import ceil, floor
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int

from behindthenoise.errors import CalibrationError


def rearrange(
    lower: Float32[np.ndarray, " *shape"], median: Float32[np.ndarray, " *shape"], upper: Float32[np.ndarray, " *shape"]
) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
    """
    The three quantiles of each voxel in rising order; all NaN where one is NaN.

    References
    ----------
    Chernozhukov, Fernandez-Val & Galichon (2010), Econometrica 78, 1093-1125: sorting crossed quantiles never harms.
    """
    # Not np.sort, which moves a NaN to the upper end and leaves two numbers that look valid.
    small, large = np.minimum(lower, median), np.maximum(lower, median)
    return np.minimum(small, upper), np.maximum(small, np.minimum(large, upper)), np.maximum(large, upper)


def scores(
    lower: Float32[np.ndarray, " *shape"], upper: Float32[np.ndarray, " *shape"], truth: Float32[np.ndarray, " *shape"]
) -> Float32[np.ndarray, " *shape"]:
    """
    How far the truth lies outside its interval, in units of the image; negative inside.

    Parameters
    ----------
    lower, upper
        Ends of the interval, after `rearrange`: crossed ends only make the scores larger and the result wider.
    truth
        The clean image.

    References
    ----------
    Romano, Patterson & Candes (2019), arXiv:1905.03222, equation 6.
    """
    outside: Float32[np.ndarray, " *shape"] = np.maximum(lower - truth, truth - upper)
    return outside


def unit_sizes(units: Int[np.ndarray, " pixel"]) -> Int[np.ndarray, " unit"]:
    """Number of pixels of each unit, in the order of the ids."""
    _, sizes = np.unique(units, return_counts=True)
    return sizes


def units_needed(sizes: Int[np.ndarray, " unit"], miscoverage: Fraction) -> int:
    """
    Smallest number of units with which `crc_rank` exists, if new ones had the mean size of these.

    For equal sizes, or none yet, this is ⌈1/miscoverage⌉ - 1.
    """
    pixels, largest = int(sizes.sum()), int(sizes.max(initial=0))
    imbalance = Fraction(largest * sizes.size, pixels) if pixels else Fraction(1)
    return ceil((1 - miscoverage) * imbalance / miscoverage)


def crc_rank(sizes: Int[np.ndarray, " unit"], miscoverage: Fraction) -> int:
    """
    Rank j, from 1, such that the j-th smallest pooled score misses at most `miscoverage` of the pixels of new units.

    With n pixels in all and at most m in a unit, j = n - ⌊miscoverage n - (1 - miscoverage) m⌋: the new unit is counted as
    if it were as large as the largest and missed everywhere. m = 1 is split conformal prediction.

    Parameters
    ----------
    sizes
        Pixels of each calibration unit.
    miscoverage
        Accepted share of misses in (0, 1), exact: a float puts some ranks off by one.

    Raises
    ------
    CalibrationError
        If there are too few units; the message says how many it takes.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei & Schuster (2024), arXiv:2208.02814, theorem 1, for the number of misses beyond the
    accepted share.
    """
    pixels, largest = int(sizes.sum()), int(sizes.max(initial=0))
    misses = floor(miscoverage * pixels - (1 - miscoverage) * largest)
    if misses < 0 or pixels == 0:
        raise CalibrationError(
            f"{sizes.size} calibration unit{'s' * (sizes.size != 1)} cannot promise {_percent(1 - miscoverage)} coverage with "
            f"guarantee 'crc'; at this unit size it takes at least {units_needed(sizes, miscoverage)}; use smaller blocks, "
            "more images, or a lower coverage"
        )
    return pixels - misses


def threshold(scores: Float32[np.ndarray, " pixel"], units: Int[np.ndarray, " pixel"], miscoverage: Fraction) -> float:
    """
    Score at rank `crc_rank`: how far every interval is widened at both ends, or narrowed where negative.

    Parameters
    ----------
    scores
        Scores of all calibration pixels, in units of the image.
    units
        Id of the block or image that each pixel belongs to.
    miscoverage
        Accepted share of misses in (0, 1).

    Raises
    ------
    CalibrationError
        If a score is NaN, or there are too few units.
    """
    rank = crc_rank(unit_sizes(units), miscoverage)
    if undefined := int(np.isnan(scores).sum()):
        raise CalibrationError(
            f"{undefined} of {scores.size} calibration scores are NaN, and all must be numbers; mask the voxels whose "
            "prediction or clean value is NaN"
        )
    return float(np.partition(scores, rank - 1)[rank - 1])


def apply(
    lower: Float32[np.ndarray, " *shape"],
    median: Float32[np.ndarray, " *shape"],
    upper: Float32[np.ndarray, " *shape"],
    threshold: float,
    support: tuple[float | None, float | None],
) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
    """
    Ends of the calibrated interval: every value whose score is at most `threshold` lies inside, in float32 as well.

    Parameters
    ----------
    lower, median, upper
        Predicted quantiles, in any order; NaN stays NaN.
    threshold
        What `threshold` returned, in units of the image.
    support
        Least and largest possible value of the clean image, or None; cutting there loses no possible value.
    """
    lower, median, upper = rearrange(lower, median, upper)
    # Three roundings outwards: a score may have been rounded down to the threshold, and each end is rounded once more.
    widening = np.nextafter(np.float32(threshold), np.float32(np.inf))
    low = np.nextafter(lower - widening, np.float32(-np.inf))
    high = np.nextafter(upper + widening, np.float32(np.inf))
    # A negative threshold can turn an interval inside out; no value scores that low there, so any point will do.
    crossed = low > high
    low, high = np.where(crossed, median, low), np.where(crossed, median, high)
    least, largest = (None if end is None else np.float32(end) for end in support)
    return np.clip(low, least, largest), np.clip(high, least, largest)


def expect_support(support: tuple[float | None, float | None], channel: str, least: float, largest: float) -> None:
    """
    Nothing, if no clean value lies outside the support, where intervals are cut off.

    Raises
    ------
    CalibrationError
        Names the channel and the value.
    """
    low, high = support
    # in float32, as the image is: 0.1 there is a little more than 0.1
    below = low is not None and np.float32(least) < np.float32(low)
    above = high is not None and np.float32(largest) > np.float32(high)
    outside = least if below else largest if above else None
    if outside is not None:
        raise CalibrationError(
            f"channel {channel!r} of the clean image holds {outside:g}, outside calibration.support {list(support)}; "
            "intervals are cut there and would miss it; widen the support or use null"
        )


def certificate(
    sizes: Int[np.ndarray, " unit"],
    threshold: float,
    miscoverage: Fraction,
    *,
    unit_kind: Literal["block", "image"],
    scans: int,
) -> dict[str, object]:
    """
    What is promised for one channel, on which grounds, as plain data and in words.

    Parameters
    ----------
    sizes
        Calibration pixels of each unit.
    threshold
        What `threshold` returned for these units, in units of the image.
    miscoverage
        Accepted share of misses in (0, 1).
    unit_kind
        What a unit is.
    scans
        Fast scans of one field; they share one clean image.

    Raises
    ------
    CalibrationError
        If so few units carry no promise.
    """
    largest = int(sizes.max(initial=0))
    assumptions = [
        f"New {unit_kind}s are exchangeable with the calibration {unit_kind}s: same kind of specimen, instrument, dose and "
        f"selection, and none holds more than {largest} pixels of one scan set.",
        "New voxels are predicted by the same networks, in a way that does not depend on how a field is cut into tiles.",
        "The clean image is taken as the truth: the intervals cover what it shows, its own noise included.",
        f"No calibration {unit_kind} was used to train, to choose or to stop a network.",
    ]
    if unit_kind == "block":
        assumptions.append(
            "Blocks of one field are neighbours and alike: they show how the intervals hold on the rest of this field and on "
            "fields like it, not how another specimen differs."
        )
    if scans > 1:
        assumptions.append(
            f"The {scans} scans of a field share one clean image, so they repeat the noise but not the structure: all scans of "
            f"one {unit_kind} count as one unit."
        )
    return {
        "guarantee": "crc",
        "coverage": float(1 - miscoverage),
        "miscoverage": str(miscoverage),
        "unit": unit_kind,
        "units": int(sizes.size),
        "pixels": int(sizes.sum()),
        "largest_unit": largest,
        "rank": crc_rank(sizes, miscoverage),
        "threshold": threshold,
        "scans": scans,
        "statement": (
            f"Averaged over new {unit_kind}s exchangeable with the {sizes.size} calibration ones, at least "
            f"{_percent(1 - miscoverage)} of the pixels lie inside their interval (expected coverage; cluster-size-corrected "
            f"conformal rank). A single {unit_kind}, structure or pixel may be covered less often."
        ),
        "assumptions": assumptions,
    }


def _percent(share: Fraction) -> str:
    """Share in percent, e.g. `90 %`."""
    return f"{float(100 * share):g} %"
