from fractions import Fraction

import numpy as np
import pytest

from behindthenoise.core.calibration.reference import NoiseSums, from_counts, from_repeats, reference_noise
from behindthenoise.errors import CalibrationError

TENTH = Fraction(1, 10)
EDGES = np.array([40.0, 80.0])
NO_EDGES = np.zeros(0)
VOXELS = 400_000


def realised(reference, median, signal, edges=EDGES):
    """For each bin, coverage of the signal by intervals that cover 90 % of the reference, and width factor that would do."""
    place = np.searchsorted(edges, median, side="right")
    for index in range(edges.size + 1):
        here = place == index
        half = np.quantile(np.abs(reference - median)[here], 0.9)
        distance = np.abs(signal - median)[here]
        yield (distance <= half).mean(), np.quantile(distance, 0.9) / half


def bins(sums, edges=EDGES):
    return reference_noise(sums, edges, TENTH)


def test_repeated_references_show_what_the_true_signal_is_covered():
    rng = np.random.default_rng(0)
    signal = rng.uniform(0, 120, VOXELS)
    median = signal + 3 * rng.standard_normal(VOXELS)
    deviation = np.array([1.0, 3.0, 6.0])[np.searchsorted(EDGES, median)]
    first, second = signal + deviation * rng.standard_normal((2, VOXELS))
    rows = bins(from_repeats(first, second, median, EDGES))
    assert [one.noise_variance for one in rows] == pytest.approx([0.5, 4.5, 18], rel=0.02)
    assert [one.share for one in rows] == pytest.approx([0.5 / 9.5, 4.5 / 13.5, 18 / 27], abs=0.01)
    for row, (covered, factor) in zip(rows, realised((first + second) / 2, median, signal), strict=True):
        assert row.implied_coverage == pytest.approx(covered, abs=0.003)
        assert row.width_factor == pytest.approx(factor, abs=0.01)


def test_counting_statistics_show_what_the_true_signal_is_covered():
    rng = np.random.default_rng(1)
    signal = rng.uniform(20, 120, VOXELS)
    reference = rng.poisson(signal).astype(float)
    median = signal + 5 * rng.standard_normal(VOXELS)
    rows = bins(from_counts(reference, median, EDGES))
    place = np.searchsorted(EDGES, median)
    assert [one.noise_variance for one in rows] == pytest.approx([signal[place == k].mean() for k in range(3)], rel=0.01)
    for row, (covered, factor) in zip(rows, realised(reference, median, signal), strict=True):
        assert row.implied_coverage == pytest.approx(covered, abs=0.01)  # counts are not quite normal, nor alike in a bin
        assert row.width_factor == pytest.approx(factor, abs=0.02)


@pytest.mark.parametrize(("share", "coverage"), [(0.02, 0.9034), (0.05, 0.9085), (0.1, 0.9171), (0.25, 0.9425), (0.5, 0.98)])
def test_the_implied_coverage_is_that_of_a_normal_signal(share, coverage):
    one = np.ones(1)
    (row,) = bins(NoiseSums(np.array([100]), 0 * one, 100 * one, 0 * one, 100 * share * one), NO_EDGES)
    assert (row.share, row.width_factor) == pytest.approx((share, np.sqrt(1 - share)))
    assert row.implied_coverage == pytest.approx(coverage, abs=1e-4)


def test_bins_are_cut_by_the_median_and_reference_and_median_are_their_own_oracle():
    rng = np.random.default_rng(3)
    first, second, median = rng.normal(60, 30, size=(3, 5000))
    for index, row in enumerate(bins(from_repeats(first, second, median, EDGES))):
        here = np.searchsorted(EDGES, median, side="right") == index
        assert (row.low, row.high) == ([-np.inf, 40, 80, np.inf][index], [-np.inf, 40, 80, np.inf][index + 1])
        assert row.voxels == here.sum()
        assert row.residual_variance == pytest.approx(np.var(((first + second) / 2 - median)[here]))
        assert row.noise_variance == pytest.approx(np.var((first - second)[here]) / 4)


def test_an_offset_between_two_references_is_no_noise():
    rng = np.random.default_rng(4)
    first, second, median = rng.normal(60, 5, size=(3, 5000))
    plain, shifted = (bins(from_repeats(first, second + offset, median, NO_EDGES), NO_EDGES)[0] for offset in (0, 100))
    assert shifted.noise_variance == pytest.approx(plain.noise_variance)
    assert shifted.residual_variance == pytest.approx(plain.residual_variance)


def test_noise_beyond_the_residuals_implies_nothing():
    median = np.full(1000, 50.0)
    reference = median + np.tile([-1.0, 1.0], 500)  # variance 1, where counts would have 50
    (row,) = bins(from_counts(reference, median, NO_EDGES), NO_EDGES)
    assert row.share == pytest.approx(50)
    assert np.isnan([row.implied_coverage, row.width_factor]).all()
    (row,) = bins(from_counts(median, median, NO_EDGES), NO_EDGES)
    assert (row.residual_variance, row.share) == (0, np.inf)
    assert np.isnan(row.implied_coverage)


def test_a_reference_without_noise_implies_its_own_coverage():
    reference, median = np.arange(100.0), np.full(100, 50.0)
    (row,) = bins(from_repeats(reference, reference, median, NO_EDGES), NO_EDGES)
    assert (row.share, row.width_factor, row.implied_coverage) == (0, 1, pytest.approx(0.9))


def test_an_empty_bin_has_no_noise_to_report():
    median = np.full(10, EDGES[0])  # a value on a border belongs to the upper bin
    low, filled, high = bins(from_counts(median + 1, median, EDGES))
    assert filled.voxels == 10
    for row in (low, high):
        assert row.voxels == 0
        assert np.isnan([row.residual_variance, row.noise_variance, row.share, row.implied_coverage, row.width_factor]).all()


def test_what_cannot_be_counts_is_refused():
    counts = np.array([3.0, -2.0, 1.0])
    with pytest.raises(CalibrationError, match=r"^the reference holds -2, and counts are 0 or more;"):
        from_counts(counts, counts, NO_EDGES)
