from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from behindthenoise.core.metrics import (
    coverage,
    coverage_by_bin,
    coverage_interval,
    covers,
    decile_edges,
    interval_score,
    match_intensity,
    pearson,
    psnr,
    unit_coverage,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)), min_size=2, max_size=30))
def test_pearson_is_the_textbook_correlation(pairs):
    a, b = np.array(pairs, np.float32).T
    assume(np.ptp(a) > 1e-2 and np.ptp(b) > 1e-2)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a.astype(float), b.astype(float))[0, 1], abs=1e-6)


def test_pearson_ignores_gain_and_offset_and_knows_the_sign():
    a = normal(1000).astype(np.float32)
    assert pearson(a, 3 * a + 1000) == pytest.approx(1, abs=1e-6)
    assert pearson(a, -a) == -1
    assert np.isnan(pearson(a, np.full(1000, 0.1, np.float32)))


def test_psnr_relates_the_range_of_the_truth_to_the_error():
    truth = np.array([10.0, 20.0, 110.0])
    assert psnr(truth + 1, truth) == pytest.approx(40)
    assert psnr(truth + np.array([10.0, -10.0, 10.0]), truth) == pytest.approx(20)
    assert psnr(truth, truth) == np.inf
    assert np.isnan(psnr(truth, np.ones(3)))


def test_the_ends_of_an_interval_are_inside():
    lower, upper, truth = np.zeros(5), np.ones(5), np.array([-0.1, 0, 0.5, 1, 1.1])
    assert covers(lower, upper, truth).tolist() == [False, True, True, True, False]
    assert coverage(lower, upper, truth) == pytest.approx(3 / 5)
    assert np.isnan(coverage(*(np.zeros(0),) * 3))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60))
def test_voxels_are_counted_by_unit(voxels):
    units, inside = np.array([unit for unit, _ in voxels]), np.array([hit for _, hit in voxels])
    ids, counts_inside, counts = unit_coverage(inside, units)
    assert ids.tolist() == sorted(set(units.tolist()))
    assert counts.tolist() == [sum(unit == one for unit, _ in voxels) for one in ids]
    assert counts_inside.tolist() == [sum(unit == one and hit for unit, hit in voxels) for one in ids]


def test_the_coverage_interval_holds_for_dependent_voxels():
    rng, units, voxels, repetitions = np.random.default_rng(5), 30, 200, 300
    effects = rng.beta(9, 1, size=(repetitions, units))  # each unit has its own coverage; the mean is 0.9
    hits = rng.binomial(voxels, effects)
    ends = np.array([coverage_interval(one, np.full(units, voxels), rng, draws=400) for one in hits])
    held = ((ends[:, 0] <= 0.9) & (ends[:, 1] >= 0.9)).mean()
    assert 0.86 <= held <= 0.99  # 95 %, less what the bootstrap of 30 skewed units lacks; voxels as units would hold 50 %


def test_the_coverage_interval_weighs_units_by_their_voxels():
    low, high = coverage_interval(np.array([0] + [1000] * 9), np.array([10] + [1000] * 9), np.random.default_rng(0))
    assert (low, high) == (pytest.approx(1, abs=0.01), 1)  # the bad unit is drawn up to thrice, but is small
    hits, counts = np.array([90, 9, 45]), np.array([100, 10, 50])
    assert coverage_interval(hits, counts, np.random.default_rng(0)) == (pytest.approx(0.9), pytest.approx(0.9))


def test_the_coverage_interval_is_repeatable_and_needs_two_units():
    hits, counts = np.arange(10, 30), np.full(20, 30)
    assert coverage_interval(hits, counts, np.random.default_rng(1)) == coverage_interval(hits, counts, np.random.default_rng(1))
    assert np.isnan(coverage_interval(hits[:1], counts[:1], np.random.default_rng(1))).all()


def test_the_interval_score_charges_width_and_misses():
    lower, upper = np.zeros(3), np.full(3, 2.0)
    assert interval_score(lower, upper, np.array([1.0, -0.5, 3.0]), Fraction(1, 10)) == pytest.approx(2 + 20 * 1.5 / 3)


def test_the_interval_score_is_least_at_the_true_quantiles():
    truth, z = normal(200_000), norm.ppf(0.95)
    best = interval_score(np.full(truth.size, -z), np.full(truth.size, z), truth, Fraction(1, 10))
    for shift_low, shift_high in [(0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2), (0.2, 0.2)]:
        other = interval_score(np.full(truth.size, shift_low - z), np.full(truth.size, shift_high + z), truth, Fraction(1, 10))
        assert other > best


def test_deciles_hold_a_tenth_each():
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    rows = coverage_by_bin(values, values % 4 > 0, decile_edges(values))
    assert [one.voxels for one in rows] == [100] * 10
    assert [one.coverage for one in rows] == [0.75] * 10


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=40),
    st.lists(st.integers(-4, 4), max_size=5, unique=True).map(sorted),
)
def test_every_voxel_is_in_one_bin(voxels, edges):
    values = np.array([value for value, _ in voxels], np.float64)
    inside = np.array([hit for _, hit in voxels], bool)
    rows = coverage_by_bin(values, inside, np.array(edges, np.float64))
    assert sum(one.voxels for one in rows) == len(voxels)
    for one in rows:
        hits = [hit for value, hit in voxels if one.low <= value < one.high]
        assert one.voxels == len(hits)
        assert one.coverage == pytest.approx(np.mean(hits) if hits else np.nan, nan_ok=True)


def test_tied_values_make_fewer_bins():
    values = np.r_[np.zeros(90), np.arange(1.0, 11)]
    edges = decile_edges(values)
    assert (np.diff(edges) > 0).all()
    rows = coverage_by_bin(values, values > 0, edges)
    assert rows[0].voxels == 0
    assert sum(one.voxels for one in rows) == 100


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_gain_and_offset_are_found_without_being_flattened_by_noise(gain, offset):
    clean = normal(20_000).astype(np.float32)
    noisy = gain * (clean + normal(20_000, seed=1)) + offset  # as strong as the signal: the inverse regression would give 2 gain
    found_gain, found_offset = match_intensity(noisy, clean)
    assert found_gain == pytest.approx(gain, rel=0.03)
    assert (found_offset - offset) / gain == pytest.approx(0, abs=0.03)


def test_without_a_rising_line_mean_and_spread_are_matched():
    clean = normal(500)
    gain, offset = match_intensity(7 - 3 * clean, clean)
    matched = (7 - 3 * clean - offset) / gain
    assert gain == pytest.approx(3)
    assert (matched.mean(), matched.std()) == (pytest.approx(clean.mean()), pytest.approx(clean.std()))


def test_constant_or_missing_images_are_matched_without_a_division_by_zero():
    constant = np.full(5, 0.1, np.float32)
    assert match_intensity(np.arange(5.0), constant) == (1, pytest.approx(1.9))
    assert match_intensity(constant, np.arange(5.0)) == (1, pytest.approx(-1.9))
    assert match_intensity(np.full(5, np.nan), np.arange(5.0)) == (1, 0)
    holes = np.array([1.0, np.nan, 5.0, 7.0]), np.array([0.0, 1.0, 2.0, np.inf])
    assert match_intensity(*holes) == (pytest.approx(2), pytest.approx(1))
