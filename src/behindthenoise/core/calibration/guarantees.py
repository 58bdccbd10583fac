"""
Thresholds with a promise, from scores counted by unit; docs/guarantees.md derives each of them.

A guarantee reads a histogram and names a bucket. Where that bucket holds several values its upper end is the threshold, which is
valid and a little wide; once the buckets in `Found.touched` hold one value each, it is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import ceil, inf, log, log1p, sqrt
from sys import float_info

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import brentq
from scipy.special import betainc, chdtri, ndtr, stdtrit

from behindthenoise.core.calibration.dependence import equal_units, unit_design
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.calibration.ranks import cluster_rank, percent, shortage, split_rank, unit_ranks
from behindthenoise.errors import CalibrationError

# With fewer units their variance says nothing (docs/guarantees.md shows what holds from here on).
FEWEST_UNITS = 5
# Units of very different size vary like fewer equal ones; Student's quantile wants one degree of freedom at least.
FEWEST_EQUAL_UNITS = 2.0
# The variance between units is raised to what it exceeds in one of ten samples.
VARIANCE_QUANTILE = 0.1
# One field of fewer blocks shows too little of its own dependence, and counts as one of so many.
FEWEST_BLOCKS = 5


@dataclass(frozen=True)
class Request:
    """
    What is to be promised.

    Attributes
    ----------
    miscoverage
        Accepted share of misses.
    failure
        Accepted probability that the calibration units mislead (`pac`, `rcps`).
    share
        Accepted share of units that miss more than `miscoverage` of their pixels (`tolerance`).
    design
        Effective samples of one field (`pac`); None takes them from the variance between units.
    blocks
        Blocks, three correlation radii long, of the field in which `design` was measured.
    seed
        Order in which units are bet on (`rcps`).
    unit
        What a unit is, for messages: image or block.
    sides
        Sides of an interval that share what may be missed, for messages: this is one of them.

    Raises
    ------
    CalibrationError
        If a share or probability is not inside (0, 1).
    """

    miscoverage: Fraction
    failure: Fraction
    share: Fraction
    design: float | None = None
    blocks: float = inf
    seed: int = 0
    unit: str = "unit"
    sides: int = 1

    def __post_init__(self) -> None:
        for name in ("miscoverage", "failure", "share"):
            if not 0 < getattr(self, name) < 1:
                raise CalibrationError(f"{name} {getattr(self, name)} is not inside (0, 1); use a share such as 1/10")

    @property
    def less(self) -> str:
        """What would ask for less, in words."""
        return "a lower coverage" if self.sides == 1 else "a lower coverage, or the score cqr, which takes both sides together"


@dataclass(frozen=True)
class Found:
    """
    A threshold and the grounds of its promise.

    Attributes
    ----------
    bucket
        Bucket of the histogram whose upper end is the threshold.
    threshold
        In units of the score; infinite where scores at its rank are.
    touched
        Buckets that must hold one value each for the threshold to be exact.
    record
        Plain data for the certificate.
    """

    bucket: int
    threshold: float
    touched: tuple[int, ...]
    record: dict[str, object]


def pac(histogram: Histogram, request: Request) -> Found:
    """
    Threshold whose mean coverage over new units is enough, unless the calibration units mislead (probability `failure`).

    The rank that independent scores would need, for as many of them as the dependent ones are worth. Asymptotic in the number of
    units, or in the size of the one field that `request.design` describes; checked by simulation.

    Raises
    ------
    CalibrationError
        If there are fewer than 5 units, or the pixels are worth too few independent ones; the message says how many it takes.

    References
    ----------
    Vovk (2012), arXiv:1209.2673, for independent scores; docs/guarantees.md for dependent ones.
    """
    pixels = histogram.total
    sizes = _sizes(histogram)
    # Where even the largest score has too low a rank, so has the raised one, and the error there counts the units.
    judged = histogram.bucket_of_rank(split_rank(pixels, request.miscoverage) or pixels)
    if request.design is None:
        effective, level = _between_units(request, histogram.misses(judged), sizes)
    else:
        effective, level = _within_field(request, request.design, pixels)
    rank = _raised_rank(level, pixels)
    grounds: dict[str, object] = {
        "guarantee": "pac",
        "rank": rank,
        "level": level,
        "effective_samples": effective,
        "design_effect": pixels / effective,
        "dependence": "between units" if request.design is None else "within one field",
        "failure": str(request.failure),
    }
    if request.design is not None and request.blocks < inf:
        grounds["blocks"] = request.blocks
    return _found(histogram, request, histogram.bucket_of_rank(rank), grounds, judged)


def crc(histogram: Histogram, request: Request) -> Found:
    """
    Threshold that misses at most `miscoverage` of the pixels of a new unit in expectation, for any dependence inside units.

    Raises
    ------
    CalibrationError
        If there are too few units; the message says how many it takes.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei & Schuster (2024), arXiv:2208.02814, theorem 1; see `ranks.cluster_rank`.
    """
    sizes = _sizes(histogram)
    rank = cluster_rank(sizes, request.miscoverage, request.unit)
    grounds: dict[str, object] = {"guarantee": "crc", "rank": rank, "largest_unit": int(sizes.max())}
    return _found(histogram, request, histogram.bucket_of_rank(rank), grounds)


def tolerance(histogram: Histogram, request: Request) -> Found:
    """
    Threshold that a new unit exceeds in more than `miscoverage` of its pixels with probability at most `share`.

    Exact for any dependence inside units: split conformal prediction on the one score of each unit that it should not exceed.

    Raises
    ------
    CalibrationError
        If there are too few units; the message says how many it takes.

    References
    ----------
    Dunn, Wasserman & Ramdas (2022), arXiv:1809.07441, for one score of each group.
    """
    sizes = _sizes(histogram)
    unit_rank = split_rank(sizes.size, request.share)
    if unit_rank is None:
        promise = f"{_promise(request, 'tolerance')} in {percent(1 - request.share)} of new {request.unit}s"
        raise shortage(sizes.size, promise, ceil(1 / request.share) - 1, "a larger share", request.unit)
    bucket = int(np.sort(histogram.unit_buckets(unit_ranks(sizes, request.miscoverage)))[unit_rank - 1])
    grounds: dict[str, object] = {"guarantee": "tolerance", "rank": unit_rank, "share": str(request.share)}
    return _found(histogram, request, bucket, grounds)


def rcps(histogram: Histogram, request: Request) -> Found:
    """
    Smallest threshold at which a bet on a mean miss of `miscoverage` or more loses: a risk-controlling prediction set.

    The mean over units of their missed share stays below `miscoverage` unless with probability `failure`, for any finite number
    of independent units and any dependence inside them. Stakes are learned at one threshold, which the first unit names, and used
    at all: so the evidence grows with the threshold, and where it suffices is found without a scan.

    Raises
    ------
    CalibrationError
        If there are too few units; the message says how many it takes.

    References
    ----------
    Bates, Angelopoulos, Lei, Malik & Jordan (2021), arXiv:2101.02703; Waudby-Smith & Ramdas (2024), arXiv:2010.09686, for the
    stakes.
    """
    sizes = _sizes(histogram)
    order = np.random.default_rng(request.seed).permutation(sizes.size)
    reference = int(histogram.unit_buckets(unit_ranks(sizes, request.miscoverage))[order[0]])
    stakes, variance = _stakes((histogram.misses(reference) / sizes)[order], float(request.failure))

    def suffices(bucket: int) -> bool:
        losses = (histogram.misses(bucket) / sizes)[order]
        wealth = np.cumsum(np.log1p(-stakes * (losses - float(request.miscoverage))))
        return bool(wealth.max() > -log(request.failure))

    low, high = -1, histogram.upper.size - 1
    if not suffices(high):
        needed = _units_to_bet_on(sizes.size, variance, request)
        raise shortage(sizes.size, _promise(request, "rcps"), needed, request.less, request.unit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    rank = histogram.total - int(histogram.misses(high).sum())
    grounds: dict[str, object] = {"guarantee": "rcps", "rank": rank, "failure": str(request.failure), "seed": request.seed}
    return _found(histogram, request, high, grounds, reference)


def pooled(histogram: Histogram, request: Request) -> Found:
    """
    Threshold of split conformal prediction on all pixels, which promises nothing where pixels depend on each other.

    Raises
    ------
    CalibrationError
        If there are too few pixels; the message says how many it takes.

    References
    ----------
    Romano, Patterson & Candes (2019), arXiv:1905.03222, theorem 1.
    """
    sizes = _sizes(histogram)
    rank = split_rank(histogram.total, request.miscoverage)
    if rank is None:
        needed = ceil((1 / request.miscoverage - 1) * sizes.size / histogram.total)
        raise shortage(sizes.size, _promise(request, "pooled"), needed, request.less, request.unit)
    grounds: dict[str, object] = {
        "guarantee": "pooled",
        "rank": rank,
        "promise": "none where pixels depend on each other, as those of images do",
    }
    return _found(histogram, request, histogram.bucket_of_rank(rank), grounds)


GUARANTEES: dict[str, Callable[[Histogram, Request], Found]] = {
    "pac": pac,
    "crc": crc,
    "tolerance": tolerance,
    "rcps": rcps,
    "pooled": pooled,
}


def independent_level(effective: float, miscoverage: float, failure: float) -> float:
    """
    Least p from 1 - `miscoverage` on such that the score of rank p (`effective` + 1) has enough coverage but for `failure`.

    Coverage at rank j of n independent scores has the law Beta(j, n + 1 - j); j and n need not be whole here.
    """

    def excess(level: float) -> float:
        failing = betainc(level * (effective + 1), (1 - level) * (effective + 1), 1 - miscoverage)
        return float(failing) - failure

    least = 1 - miscoverage
    return least if excess(least) <= 0 else float(brentq(excess, least, 1.0, xtol=1e-15))


def _between_units(request: Request, misses: Int64[np.ndarray, " unit"], sizes: Int64[np.ndarray, " unit"]) -> tuple[float, float]:
    """Effective samples and raised level by the variance between units."""
    units, pixels, equal = sizes.size, int(sizes.sum()), equal_units(sizes)
    needed = max(FEWEST_UNITS, ceil(units * FEWEST_EQUAL_UNITS / equal))
    promise, uneven = _promise(request, "pac"), f", as they differ so much in size that they are worth {equal:.3g} of one size"
    if units < FEWEST_UNITS:
        raise shortage(units, promise, needed, "unit auto, which counts pixels by how far their misses reach", request.unit)
    if units < needed:
        raise shortage(units, promise + uneven, needed, f"{request.unit}s of more even size", request.unit)
    measured = unit_design(misses, sizes, request.miscoverage).effective_samples
    effective, level = _guarded(request, measured, equal)
    if _raised_rank(level, pixels) > pixels:
        needed, relaxed = _units_for_a_rank(request, measured, sizes), request.less
        if _raised_rank(_guarded(request, measured, float(units))[1], pixels) <= pixels:
            promise, relaxed = promise + uneven, f"{request.unit}s of more even size"
        raise shortage(units, promise, needed, relaxed, request.unit)
    return effective, level


def _guarded(request: Request, measured: float, equal: float) -> tuple[float, float]:
    """Effective samples and raised level with room for how little few units tell of their variance."""
    freedom = equal - 1
    effective = measured * float(chdtri(freedom, 1 - VARIANCE_QUANTILE)) / freedom
    return effective, independent_level(effective, float(request.miscoverage), _student(request, freedom))


def _student(request: Request, freedom: float) -> float:
    """Failure to ask of Gaussian errors, so that it is the one asked for where their variance is known by so many degrees."""
    return max(float(ndtr(-stdtrit(freedom, 1 - float(request.failure)))), float_info.min)


def _units_for_a_rank(request: Request, measured: float, sizes: Int64[np.ndarray, " unit"]) -> int:
    """Number of units like these from which on the raised rank is one of theirs."""
    for units in count(sizes.size + 1):
        times = units / sizes.size
        pixels = int(times * sizes.sum())
        if _raised_rank(_guarded(request, times * measured, times * equal_units(sizes))[1], pixels) <= pixels:
            break
    return units


def _within_field(request: Request, measured: float, pixels: int) -> tuple[float, float]:
    """Effective samples and raised level of one field."""
    effective = min(measured, float(pixels))
    # From here on the largest of so many independent scores would do if their number were certain. Where it is not, the level may
    # be beyond the largest of so many: there are more dependent scores than that, and simulations bear it out.
    least = log(request.failure) / log(1 - request.miscoverage)
    if effective >= least:
        failure = _student(request, (max(request.blocks, FEWEST_BLOCKS) - 1) / 2)
        level = independent_level(effective, float(request.miscoverage), failure)
        if _raised_rank(level, pixels) <= pixels:
            return effective, level
        least = log(failure) / log(1 - request.miscoverage)
    raise CalibrationError(
        f"a field worth {effective:.3g} independent pixels cannot promise {_promise(request, 'pac')}; it takes {ceil(least)}; "
        f"use a larger field, {FEWEST_UNITS} images, or {request.less}"
    )


def _raised_rank(level: float, pixels: int) -> int:
    """Rank of the pooled score at a level, as for independent scores; more than `pixels` where there is none."""
    return ceil(Fraction(level) * (pixels + 1))


def _stakes(losses: Float64[np.ndarray, " unit"], failure: float) -> tuple[Float64[np.ndarray, " unit"], float]:
    """Stake on each unit by the losses of those before it, and the variance of all by the same estimate."""
    number = np.arange(1, losses.size + 1)
    # Half a unit with loss 1, and a variance of 1/4, stand for what is not known yet.
    means = (0.5 + np.cumsum(losses)) / (number + 1)
    variances = np.concatenate([[0.25], (0.25 + np.cumsum(np.square(losses - means))) / (number + 1)])
    stakes: Float64[np.ndarray, " unit"] = np.minimum(1, np.sqrt(-2 * log(failure) / (losses.size * variances[:-1])))
    return stakes, float(variances[-1])


def _units_to_bet_on(units: int, variance: float, request: Request) -> int:
    """Number of units from which on no miss at all would do, with stakes by this variance."""
    evidence = -log(request.failure)
    for more in count(units + 1):
        stake = min(1.0, sqrt(2 * evidence / (more * variance)))
        if more * log1p(stake * float(request.miscoverage)) > evidence:
            break
    return more


def _sizes(histogram: Histogram) -> Int64[np.ndarray, " unit"]:
    """Scores of each unit, all positive."""
    sizes = histogram.sizes
    if not sizes.size or not sizes.all():
        raise CalibrationError(
            f"{np.count_nonzero(sizes == 0)} of {sizes.size} calibration units hold no score, and each must hold one at least; "
            "leave out units that are masked as a whole"
        )
    return sizes


def _promise(request: Request, guarantee: str) -> str:
    """What cannot be promised, in words."""
    total = f" on each side, {percent(1 - request.sides * request.miscoverage)} on both," if request.sides > 1 else ""
    return f"{percent(1 - request.miscoverage)} coverage{total} with guarantee {guarantee!r}"


def _found(histogram: Histogram, request: Request, bucket: int, grounds: dict[str, object], *judged: int) -> Found:
    """The threshold in a bucket, with what all records hold."""
    record: dict[str, object] = {
        **grounds,
        "miscoverage": str(request.miscoverage),
        "units": int(histogram.units.size),
        "pixels": histogram.total,
    }
    return Found(bucket, histogram.value(bucket), tuple(sorted({*judged, bucket})), record)
