"""Ranks of order statistics, in exact arithmetic: a rank that is off by one breaks the promise that is made with it."""

from decimal import Context, Decimal
from fractions import Fraction
from itertools import count
from math import ceil, floor

import numpy as np
from jaxtyping import Int, Int64

from behindthenoise.errors import CalibrationError
from behindthenoise.words import counted


def split_rank(count: int, miscoverage: Fraction) -> int | None:
    """
    Rank of the score, from 1, that one more exchangeable score exceeds with probability at most `miscoverage`.

    Parameters
    ----------
    count
        Number of calibration scores.
    miscoverage
        Accepted share of misses in (0, 1), exact: a float puts some ranks off by one.

    Returns
    -------
    int | None
        ⌈(count + 1)(1 - miscoverage)⌉; None where that is more than `count`.

    References
    ----------
    Romano, Patterson & Candes (2019), arXiv:1905.03222, theorem 1.
    """
    rank = ceil((count + 1) * (1 - miscoverage))
    return rank if rank <= count else None


def cluster_rank(sizes: Int[np.ndarray, " unit"], miscoverage: Fraction, unit: str = "unit") -> int:
    """
    Rank j, from 1, such that the j-th smallest pooled score misses at most `miscoverage` of the pixels of new units.

    With n pixels in all and at most m in a unit, j = n - ⌊miscoverage n - (1 - miscoverage) m⌋: the new unit is counted as
    if it were as large as the largest and missed everywhere. m = 1 is `split_rank`.

    Parameters
    ----------
    sizes
        Pixels of each calibration unit.
    miscoverage
        Accepted share of misses in (0, 1), exact.
    unit
        What a unit is, for the message: image or block.

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
        promise = f"{percent(1 - miscoverage)} coverage with guarantee 'crc'"
        if pixels and units_needed(sizes[:0], miscoverage) <= sizes.size:  # so many of one size would do
            ratio = largest * sizes.size / pixels
            promise, relaxed = f"{promise}, as the largest has {ratio:.3g} times the mean size", f"{unit}s of more even size"
        else:
            relaxed = "a lower coverage"
        raise shortage(sizes.size, promise, units_needed(sizes, miscoverage), relaxed, unit)
    return pixels - misses


def units_needed(sizes: Int[np.ndarray, " unit"], miscoverage: Fraction) -> int:
    """
    Smallest number of units with which `cluster_rank` exists, if new ones had the mean size of these.

    For equal sizes, or none yet, this is ⌈1/miscoverage⌉ - 1, which is also the least count for `split_rank`.
    """
    pixels, largest = int(sizes.sum()), int(sizes.max(initial=0))
    imbalance = Fraction(largest * sizes.size, pixels) if pixels else Fraction(1)
    return ceil((1 - miscoverage) * imbalance / miscoverage)


def unit_ranks(sizes: Int[np.ndarray, " unit"], miscoverage: Fraction) -> Int64[np.ndarray, " unit"]:
    """For each unit the rank of its score that at most `miscoverage` of its own scores exceed: ⌈(1 - miscoverage) size⌉."""
    return np.array([ceil((1 - miscoverage) * size) for size in sizes.tolist()], np.int64)


def percent(share: Fraction) -> str:
    """Share in percent, e.g. `90 %`, with so many digits that its distance from all and from nothing is right to a hundredth."""
    value = 100 * share
    for digits in count(6):
        context = Context(prec=digits)
        found = context.normalize(context.divide(Decimal(value.numerator), Decimal(value.denominator)))
        if 100 * abs(Fraction(found) - value) <= min(value, 100 - value):
            break
    return f"{found:f} %"


def shortage(units: int, promise: str, needed: int, relaxed: str, unit: str = "unit") -> CalibrationError:
    """
    The error that so few units call for.

    Parameters
    ----------
    units
        How many there are.
    promise
        What they cannot promise, with the guarantee's name; the reason after a comma where it is not their number.
    needed
        How many units like these it takes.
    relaxed
        What to ask for instead.
    unit
        What they are: image or block.
    """
    more = "more images" if unit == "image" else "smaller blocks, more images"
    return CalibrationError(
        f"{counted(units, f'calibration {unit}')} cannot promise {promise}; at this {unit} size it takes at least {needed}; "
        f"use {more}, or {relaxed}"
    )
