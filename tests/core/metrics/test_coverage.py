from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from behindthenoise.core.metrics.coverage import (
    Misses,
    bin_of,
    coverage,
    coverage_band,
    coverage_gap,
    coverage_interval,
    covers,
    decile_edges,
    hit_table,
    misses,
    unit_coverage,
    unit_spread,
)


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
    low, high = coverage_interval(np.array([0] + [1000] * 29), np.array([10] + [1000] * 29), np.random.default_rng(0))
    assert (low, high) == (pytest.approx(1, abs=0.01), 1)  # the bad unit is drawn up to thrice, but is small
    hits, counts = np.array([90, 9, 45]), np.array([100, 10, 50])
    assert coverage_interval(hits, counts, np.random.default_rng(0)) == (pytest.approx(0.9), pytest.approx(0.9))


def test_the_coverage_interval_is_repeatable_and_needs_two_units():
    hits, counts = np.arange(10, 30), np.full(20, 30)
    assert coverage_interval(hits, counts, np.random.default_rng(1)) == coverage_interval(hits, counts, np.random.default_rng(1))
    assert np.isnan(coverage_interval(hits[:1], counts[:1], np.random.default_rng(1))).all()


def test_deciles_hold_a_tenth_each():
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    assert np.bincount(bin_of(values, decile_edges(values))).tolist() == [100] * 10


@given(st.lists(st.integers(-3, 3), max_size=40), st.lists(st.integers(-4, 4), max_size=5, unique=True).map(sorted))
def test_every_voxel_is_in_one_bin(values, edges):
    found = np.bincount(bin_of(np.array(values, np.float64), np.array(edges, np.float64)), minlength=len(edges) + 1)
    borders = [-np.inf, *edges, np.inf]
    expected = [sum(low <= value < high for value in values) for low, high in pairwise(borders)]
    assert found.tolist() == expected and sum(expected) == len(values)


def test_tied_values_make_fewer_bins():
    values = np.r_[np.zeros(90), np.arange(1.0, 11)]
    edges = decile_edges(values)
    assert (np.diff(edges) > 0).all()
    counts = np.bincount(bin_of(values, edges), minlength=edges.size + 1)
    assert counts[0] == 0 and counts.sum() == 100


@pytest.mark.parametrize("units", [3, 5, 9])
def test_the_interval_of_few_units_holds(units):
    rng, repetitions = np.random.default_rng(1), 1000
    hits = rng.binomial(200, rng.beta(9, 1, size=(units, repetitions)))  # each unit has its own coverage; the mean is 0.9
    band = coverage_band(hits, np.full((units, 1), 200), rng)
    assert 0.92 <= ((band.low <= 0.9) & (band.high >= 0.9)).mean() <= 0.98


def test_the_interval_of_few_units_is_students_on_the_logit():
    low, high = coverage_interval(np.array([80, 90, 100]), np.array([100, 100, 100]), np.random.default_rng(0))
    error = np.std([0.8, 0.9, 1.0], ddof=1) / np.sqrt(3) / (0.9 * 0.1)
    logits = np.log(9) + np.array([-1, 1]) * 4.302653 * error  # Student's 97.5 % for 2 degrees of freedom
    assert (low, high) == pytest.approx(tuple(1 / (1 + np.exp(-logits))))
    assert coverage_interval(np.full(4, 7), np.full(4, 7), np.random.default_rng(0)) == (1, 1)


def test_a_band_is_the_interval_of_each_column():
    rng = np.random.default_rng(2)
    counts = rng.integers(50, 100, size=(14, 3))
    counts[5:, 1] = 0  # a group that lies in five units alone
    counts[:, 2] = 0
    hits = rng.binomial(counts, 0.8)
    band = coverage_band(hits, counts, np.random.default_rng(3))
    alone = [
        coverage_interval(hits[rows, column], counts[rows, column], np.random.default_rng(3))
        for rows, column in ((slice(None), 0), (slice(5), 1))
    ]
    assert np.transpose([band.low, band.high])[:2] == pytest.approx(np.array(alone))
    assert band.coverage[:2] == pytest.approx(hits[:, :2].sum(axis=0) / counts[:, :2].sum(axis=0))
    assert np.isnan([band.coverage[2], band.low[2], band.high[2]]).all()


def test_draws_without_a_voxel_of_a_group_are_left_out():
    counts = np.full((100, 2), 100)
    counts[10:, 1] = 0  # one draw in 38000 has none of the ten units
    draws, rng = 20_000, np.random.default_rng(2)
    assert (rng.multinomial(100, np.full(100, 0.01), size=draws)[:, :10].sum(axis=1) == 0).any()
    band = coverage_band(counts * 9 // 10, counts, np.random.default_rng(2), draws=draws)
    assert (band.low, band.high) == (pytest.approx([0.9, 0.9]), pytest.approx([0.9, 0.9]))


def test_a_reliability_curve_follows_the_nominal_levels_inside_its_band():
    rng, levels = np.random.default_rng(4), np.arange(1, 100) / 100
    scores = np.abs(rng.standard_normal((60, 500)) + 0.1 * rng.standard_normal((60, 1)))
    limits = norm.ppf((1 + levels) / 2) * np.hypot(1, 0.1)
    band = coverage_band((scores[:, :, None] <= limits).sum(axis=1), np.full((60, 1), 500), rng)
    assert np.abs(band.coverage - levels).max() < 0.02
    assert ((band.low <= levels) & (levels <= band.high)).mean() > 0.9
    assert (np.diff(band.coverage) >= 0).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=60), st.integers(0, 60))
def test_tables_of_chunks_add_up_to_the_counts(voxels, cut):
    units, groups, inside = (np.array([one[k] for one in voxels], kind) for k, kind in enumerate((np.int64, np.uint8, bool)))
    parts = [hit_table(inside[part], units[part], groups[part], (4, 3)) for part in (slice(cut), slice(cut, None))]
    hits, counts = (parts[0][k] + parts[1][k] for k in (0, 1))
    for unit in range(4):
        for group in range(3):
            found = [hit for *place, hit in voxels if place == [unit, group]]
            assert (hits[unit, group], counts[unit, group]) == (sum(found), len(found))


def test_small_numbers_of_units_and_groups_do_not_wrap_around():
    number = np.full(1, 200, np.uint8)
    hits, counts = hit_table(np.ones(1, bool), number, number, (201, 201))
    assert hits[200, 200] == counts[200, 200] == counts.sum() == 1


def test_the_spread_of_units_leaves_out_those_without_voxels():
    hits, counts = np.r_[0, np.arange(80, 101)], np.r_[0, np.full(21, 100)]
    assert unit_spread(hits, counts) == (0.8, pytest.approx(0.81), 0.9)
    assert np.isnan(unit_spread(np.zeros(2, int), np.zeros(2, int))).all()


def test_the_coverage_gap_is_the_mean_distance_of_groups_that_exist():
    assert coverage_gap(np.array([0.8, np.nan, 0.94]), 0.9) == pytest.approx(0.07)
    assert np.isnan(coverage_gap(np.array([np.nan]), 0.9))


def test_misses_are_counted_by_side_and_an_end_is_no_miss():
    truth = np.array([-1, 0, 1, 2, 3.0])
    assert misses(np.zeros(5), np.full(5, 2.0), truth) == Misses(1, 1, 5)


def test_coverage_by_width_shows_what_the_mean_hides():
    rng = np.random.default_rng(0)
    scale = rng.choice([1.0, 3.0], 20_000)
    truth, half = scale * rng.standard_normal(20_000), norm.ppf(0.95) * scale**0.5
    inside, place = covers(-half, half, truth), bin_of(2 * half, decile_edges(2 * half))
    expected = [2 * norm.cdf(norm.ppf(0.95) / one**0.5) - 1 for one in (1, 3)]
    assert [inside[place == one].mean() for one in np.unique(place)] == pytest.approx(expected, abs=0.02)


def test_a_value_on_a_border_is_in_the_upper_bin():
    assert bin_of(np.array([-1.0, 0, 0.5, 1, 2]), np.array([0.0, 1])).tolist() == [0, 1, 1, 2, 2]
