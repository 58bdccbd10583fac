"""Rows of the evaluation's tables: one channel's test voxels against their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, UInt8

from behindthenoise.core.calibration import reference
from behindthenoise.core.calibration.thresholds import Calibration, Support
from behindthenoise.core.metrics.agreement import pearson, psnr, spearman
from behindthenoise.core.metrics.coverage import (
    bin_of,
    coverage,
    coverage_band,
    coverage_interval,
    covers,
    decile_edges,
    hit_table,
    misses,
    unit_coverage,
    unit_spread,
)
from behindthenoise.core.metrics.sharpness import (
    crps,
    gaussian_width,
    interval_score,
    pinball_sum,
    pit_counts,
    sparsification,
    weighted_interval_score,
    width_reduction,
)
from behindthenoise.core.metrics.slab import worst_slab
from behindthenoise.core.sampling import subsample
from behindthenoise.io.tables import Value

Row = dict[str, Value]
SEED = 0  # of what is resampled; the tables of a run can be made again
HALF_STEP = 0.0025  # between the quantiles of levels 1 % apart
JUDGED_LEVELS = 1 << 20  # voxels that all levels are judged on: 99 intervals each


@dataclass(frozen=True, eq=False)
class Judged:
    """
    Test voxels of one channel with their calibrated interval; the median lies inside it.

    Attributes
    ----------
    quantiles, spread, noisy, truth, token, difference
        As in `heldout.Piece`.
    unit
        Block or image of each voxel.
    lower, upper
        Ends of the calibrated interval.
    scan
        Number of the fast scan that each voxel was predicted from; None where there is one.
    """

    quantiles: Float32[np.ndarray, " 3 n"]
    spread: Float32[np.ndarray, " n"]
    noisy: Float32[np.ndarray, " n"]
    truth: Float32[np.ndarray, " n"]
    token: UInt8[np.ndarray, " n"]
    unit: Int64[np.ndarray, " n"]
    lower: Float32[np.ndarray, " n"]
    upper: Float32[np.ndarray, " n"]
    difference: Float32[np.ndarray, " n"] | None = None
    scan: Int64[np.ndarray, " n"] | None = None

    @property
    def median(self) -> Float32[np.ndarray, " n"]:
        """Denoised values."""
        return np.asarray(np.clip(self.quantiles[1], self.lower, self.upper))

    @property
    def width(self) -> Float32[np.ndarray, " n"]:
        """Widths of the intervals."""
        return np.asarray(self.upper - self.lower)

    @property
    def inside(self) -> Bool[np.ndarray, " n"]:
        """True where the truth lies in its interval."""
        return covers(self.lower, self.upper, self.truth)


def summary(test: Judged, noisy: tuple[np.ndarray, np.ndarray], miscoverage: Fraction) -> Row:
    """One channel on all test voxels. The noisy scan's own interval is calibrated by the same method on the same voxels."""
    inside, width, median, random = test.inside, test.width, test.median, np.random.default_rng(SEED)
    ids, hits, counts = unit_coverage(inside, test.unit)
    low, high = coverage_interval(hits, counts, random)
    spread, missed = unit_spread(hits, counts), misses(test.lower, test.upper, test.truth)
    noisy_width = mean_width(*noisy)
    slab = worst_slab(np.stack([median, width, test.spread], axis=1), inside, test.unit, random)
    sorted_out = sparsification(width, median - test.truth, random)
    drawn = subsample(len(width), JUDGED_LEVELS, random)
    noise = float(np.std(test.noisy - test.truth, dtype=np.float64))
    return {
        "coverage": float(inside.mean()),
        "coverage_low": low,
        "coverage_high": high,
        "pixels": int(test.truth.size),
        "units": len(ids),
        "unit_least": spread.least,
        "unit_five_percent": spread.five_percent,
        "unit_median": spread.median,
        "missed_below": missed.below / missed.voxels,
        "missed_above": missed.above / missed.voxels,
        "slab_coverage": slab.coverage,
        "width": mean_width(test.lower, test.upper),
        "width_median": float(np.median(width)),
        "noisy_width": noisy_width,
        "width_reduction": noisy_width / mean_width(test.lower, test.upper) if width.any() else float("nan"),
        "gaussian_reduction": width_reduction(mean_width(test.lower, test.upper), gaussian_width(noise, miscoverage)),
        "noisy_coverage": coverage(*noisy, test.truth),
        "interval_score": interval_score(test.lower, test.upper, test.truth, miscoverage),
        "ause": sorted_out.area,
        "width_error_correlation": spearman(width[drawn], np.abs(median - test.truth)[drawn]),
        "correlation_noisy": pearson(test.noisy, test.truth),
        "correlation": pearson(median, test.truth),
        "psnr_noisy": psnr(test.noisy, test.truth),
        "psnr": psnr(median, test.truth),
    }


def by_group(test: Judged, group: Integer[np.ndarray, " n"], count: int) -> list[Row]:
    """Coverage with its interval, and width, of the voxels of each group; groups without any are left out."""
    ids, unit = np.unique(test.unit, return_inverse=True)
    hits, counts = hit_table(test.inside, unit, group, (len(ids), count))
    band = coverage_band(hits, counts, np.random.default_rng(SEED))
    pixels, widths = counts.sum(axis=0), np.bincount(group, test.width, count)
    return [
        {
            "group": index,
            "coverage": float(band.coverage[index]),
            "coverage_low": float(band.low[index]),
            "coverage_high": float(band.high[index]),
            "pixels": int(pixels[index]),
            "units": int((counts[:, index] > 0).sum()),
            "width": float(widths[index] / pixels[index]),
        }
        for index in np.flatnonzero(pixels).tolist()
    ]


def by_intensity(test: Judged) -> list[Row]:
    """Groups are tenths of the predicted median."""
    return _by_tenths(test, test.median)


def by_width(test: Judged) -> list[Row]:
    """Groups are tenths of the width."""
    return _by_tenths(test, test.width)


def by_token(test: Judged) -> list[Row]:
    """Groups are tokens."""
    rows = by_group(test, test.token, int(test.token.max(initial=0)) + 1)
    return [{"token": row.pop("group"), **row} for row in rows]


def by_scan(test: Judged) -> list[Row]:
    """Groups are fast scans; none where there is one."""
    if test.scan is None:
        return []
    rows = by_group(test, test.scan, int(test.scan.max(initial=0)) + 1)
    return [{"scan": row.pop("group"), **row} for row in rows]


def by_unit(test: Judged) -> list[Row]:
    """Coverage of every test block or image."""
    ids, hits, counts = unit_coverage(test.inside, test.unit)
    return [
        {"unit": int(unit), "coverage": hit / count, "pixels": int(count)}
        for unit, hit, count in zip(ids, hits.tolist(), counts.tolist(), strict=True)
    ]


def by_level(
    test: Judged, channel: int, levels: Sequence[tuple[float, Calibration]], support: Support
) -> tuple[list[Row], list[Row], Row]:
    """
    Reliability at every level, the histogram of the probability integral transform, and scores of the whole distribution.

    Parameters
    ----------
    levels
        Nominal coverage with the calibration that it takes, rising.
    """
    drawn = subsample(test.truth.size, JUDGED_LEVELS, np.random.default_rng(SEED))
    quantiles, truth, spread, token = test.quantiles[:, drawn], test.truth[drawn], test.spread[drawn], test.token[drawn]
    ids, unit = np.unique(test.unit[drawn], return_inverse=True)
    counts = np.bincount(unit, minlength=len(ids))
    median = np.sort(quantiles, axis=0)[1]
    hits, widths, losses, nominal = [], [], {0.5: pinball_sum(median, truth, 0.5)}, []
    transform = np.where(truth < median, 0.5 - HALF_STEP, 0.5 + HALF_STEP)
    for level, calibration in levels:
        lower, upper = calibration.interval(channel, quantiles, token, spread, support)
        if not np.isfinite(upper - lower).all():
            continue
        inside = covers(lower, upper, truth)
        nominal.append(level)
        hits.append(np.bincount(unit[inside], minlength=len(ids)))
        widths.append(mean_width(lower, upper))
        for end, at in ((lower, (1 - level) / 2), (upper, (1 + level) / 2)):
            losses[at] = pinball_sum(end, truth, at)
        # the truth lies beyond the last interval that misses it, and within the next: on average half a step beyond
        transform[truth < lower] = (1 - level) / 2 - HALF_STEP
        transform[truth > upper] = (1 + level) / 2 + HALF_STEP
    band = coverage_band(np.array(hits).T, counts[:, None], np.random.default_rng(SEED))
    reliability: list[Row] = [
        {"level": level, "coverage": float(found), "coverage_low": float(low), "coverage_high": float(high), "width": width}
        for level, found, low, high, width in zip(nominal, band.coverage, band.low, band.high, widths, strict=True)
    ]
    shares = pit_counts(transform) / truth.size
    histogram: list[Row] = [
        {"from": index / 20, "to": (index + 1) / 20, "share": float(share)} for index, share in enumerate(shares)
    ]
    known = np.array(sorted(losses))
    pinball = np.array([losses[one] for one in known.tolist()]) / truth.size
    scores: Row = {"crps": crps(pinball, known), "weighted_interval_score": weighted_interval_score(pinball)}
    return reliability, histogram, scores


def reference_noise(test: Judged, value_unit: str, miscoverage: Fraction) -> list[Row]:
    """What the noise of the clean image implies, in tenths of the predicted median: from repeated scans, else from counts."""
    edges = decile_edges(test.median)
    if test.difference is not None:
        first, second = test.truth + test.difference, test.truth - test.difference
        sums = reference.from_repeats(first, second, test.median, edges)
    elif value_unit == "counts" and test.truth.min(initial=0) >= 0:
        sums = reference.from_counts(test.truth, test.median, edges)
    else:
        return []
    return [
        {
            "bin": index,
            "from": max(row.low, float(test.median.min())),
            "to": min(row.high, float(test.median.max())),
            "pixels": row.voxels,
            "residual_variance": row.residual_variance,
            "noise_variance": row.noise_variance,
            "noise_share": row.share,
            "signal_coverage": row.implied_coverage,
            "width_factor": row.width_factor,
        }
        for index, row in enumerate(reference.reference_noise(sums, edges, miscoverage))
        if row.voxels
    ]


def mean_width(lower: np.ndarray, upper: np.ndarray) -> float:
    """Mean width of intervals, in units of the clean image."""
    return float((upper - lower).mean(dtype=np.float64))


def _by_tenths(test: Judged, values: np.ndarray) -> list[Row]:
    edges = decile_edges(values)
    # the outer bins have no end; the data's own ends are what a figure can show
    borders = [float(values.min()), *edges.tolist(), float(values.max())]
    rows = by_group(test, bin_of(values, edges), len(edges) + 1)
    return [{"bin": (index := int(row.pop("group"))), "from": borders[index], "to": borders[index + 1], **row} for row in rows]
