from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from behindthenoise.core.metrics import (
    Misses,
    bin_of,
    coverage,
    coverage_band,
    coverage_gap,
    coverage_interval,
    covers,
    crps,
    decile_edges,
    gaussian_width,
    hit_table,
    interval_score,
    match_intensity,
    misses,
    pearson,
    pinball_sum,
    pit,
    pit_counts,
    psnr,
    sparsification,
    spearman,
    subsample,
    unit_coverage,
    unit_spread,
    weighted_interval_score,
    width_reduction,
    worst_slab,
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
    low, high = coverage_interval(np.array([0] + [1000] * 29), np.array([10] + [1000] * 29), np.random.default_rng(0))
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


def planted(rng, voxels=40_000, units=20):
    """Features, hits and units: half of the voxels with (x + y) / sqrt(2) > 1 are missed, one in ten elsewhere."""
    features = rng.standard_normal((voxels, 3)) * [1, 1, 1000]
    bad = features[:, 0] + features[:, 1] > np.sqrt(2)
    return features, rng.random(voxels) < np.where(bad, 0.5, 0.9), rng.integers(0, units, voxels)


def test_the_worst_slab_finds_the_region_that_is_covered_badly():
    slab = worst_slab(*planted(np.random.default_rng(0)), np.random.default_rng(1), directions=300)
    cosine = slab.direction[:2].sum() / np.sqrt(2) / np.linalg.norm(slab.direction * [1, 1, 1000])
    assert abs(cosine) > 0.9
    assert slab.coverage == pytest.approx(0.53, abs=0.05)
    assert 0.08 < slab.share < 0.2


def test_the_worst_slab_of_even_coverage_is_no_worse_than_the_rest():
    rng = np.random.default_rng(2)
    features, units = rng.standard_normal((20_000, 4)), rng.integers(0, 10, 20_000)
    slab = worst_slab(features, rng.random(20_000) < 0.9, units, rng, directions=300)
    assert slab.coverage_when_chosen < 0.88  # the least of many: why another half has to judge it
    assert slab.coverage == pytest.approx(0.9, abs=0.03)


@given(st.integers(2, 60), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_the_chosen_slab_is_the_worst_window_of_a_tenth(voxels, seed):
    """One feature, and the half that chooses is known: every window that is long enough is tried."""
    rng = np.random.default_rng(seed)
    half, inside = rng.permutation(voxels).astype(float), rng.random(voxels) < 0.7
    for_both = np.r_[half, half][:, None], np.r_[inside, inside], np.repeat([0, 1], voxels)
    slab = worst_slab(*for_both, rng, directions=2)
    row, least = inside[np.argsort(half)], -(-voxels // 10)
    windows = [row[i:j].mean() for i in range(voxels) for j in range(i + least, voxels + 1)]
    assert slab.coverage_when_chosen == pytest.approx(min(windows))
    assert slab.coverage == pytest.approx(min(windows))


def test_one_unit_cannot_choose_and_judge_a_slab():
    slab = worst_slab(normal(50, 2), np.ones(50, bool), np.zeros(50, int), np.random.default_rng(0))
    assert np.isnan(slab.coverage) and np.isnan(slab.share)


def test_the_pinball_loss_is_least_at_the_quantile_of_its_level():
    truth = normal(100_000)
    for level in (0.05, 0.5, 0.95):
        best, *others = (pinball_sum(np.full(truth.size, norm.ppf(level) + off), truth, level) for off in (0, -0.1, 0.1))
        assert best < min(others)
    assert pinball_sum(np.array([1.0, 1.0]), np.array([3.0, 0.0]), 0.9) == pytest.approx(0.9 * 2 + 0.1 * 1)


def test_the_weighted_interval_score_is_that_of_its_definition():
    truth, median, parts = normal(500), normal(500, seed=1), [Fraction(1, 10), Fraction(1, 2)]
    ends = [(median - 1 / float(part), median + 2 / float(part)) for part in parts]
    losses = [pinball_sum(median, truth, 0.5)]
    weighted = 0.5 * np.abs(truth - median).mean()
    for part, (lower, upper) in zip(parts, ends, strict=True):
        losses += [pinball_sum(lower, truth, float(part / 2)), pinball_sum(upper, truth, float(1 - part / 2))]
        weighted += float(part) / 2 * interval_score(lower, upper, truth, part)
    assert weighted_interval_score(np.array(losses) / 500) == pytest.approx(weighted / 2.5)


def test_the_crps_of_a_normal_distribution_is_its_closed_form():
    levels = np.arange(1, 100) / 100
    loss = norm.pdf(norm.ppf(levels))  # mean pinball loss of the true quantiles of a standard normal variable
    assert crps(loss, levels) == pytest.approx(1 / np.sqrt(np.pi), rel=3e-4)
    uneven = np.r_[levels[levels < 0.3], 0.35, 0.5, 0.65, levels[levels > 0.7]]
    assert crps(norm.pdf(norm.ppf(uneven)), uneven) == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)


LEVELS = np.array([0.05, 0.5, 0.95])


def test_the_transform_of_a_quantile_is_its_level():
    quantiles = np.sort(normal(3, 200), axis=0)
    for level, quantile in zip(LEVELS, quantiles, strict=True):
        assert pit(quantiles, LEVELS, quantile) == pytest.approx(np.full(200, level))
    assert pit(quantiles, LEVELS, quantiles[:2].mean(axis=0)) == pytest.approx(np.full(200, 0.275))


def test_the_transform_rises_from_0_to_1_with_a_density_that_does_not_jump_at_the_outer_quantiles():
    grid = np.linspace(-9, 9, 180_001)
    found = pit(np.broadcast_to([[-1.0], [0.5], [1.0]], (3, grid.size)), LEVELS, grid)
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (pytest.approx(0, abs=1e-9), pytest.approx(1, abs=1e-9))
    density = np.diff(found) / np.diff(grid)
    for outer in (-1.0, 1.0):
        before, after = density[np.searchsorted(grid, outer) + np.array([-3, 2])]
        assert before == pytest.approx(after, rel=0.01)


def test_tied_quantiles_give_their_mean_level_and_no_division_by_zero():
    tied = np.array([[0.0] * 3, [0.0] * 3, [1.0] * 3])
    assert pit(tied, LEVELS, np.array([-0.1, 0.0, 1.0])) == pytest.approx([0, 0.275, 0.95])
    assert pit(np.zeros((3, 3)), LEVELS, np.array([-0.1, 0.0, 0.1])) == pytest.approx([0, 0.5, 1])


def test_only_a_calibrated_prediction_has_a_flat_histogram():
    levels, truth = np.arange(1, 100) / 100, normal(100_000).astype(np.float32)
    quantiles = np.broadcast_to(norm.ppf(levels).astype(np.float32)[:, None], (99, truth.size))
    flat, narrow = (pit_counts(pit(quantiles * factor, levels, truth)) for factor in (1.0, 0.7))
    assert flat.sum() == truth.size
    assert np.abs(flat / 5000 - 1).max() < 0.05
    assert min(narrow[0], narrow[-1]) > 2 * narrow[1:-1].max()


def test_removing_the_widest_first_leaves_the_errors_that_sorting_by_hand_leaves():
    rng = np.random.default_rng(0)
    width, error = rng.random(50), rng.standard_normal(50)
    found = sparsification(width, error, rng, steps=50)
    for step, share in enumerate(found.removed):
        left = 50 - round(50 * share)
        by_width = [abs(error[k]) for k in sorted(range(50), key=lambda k: width[k])][:left]
        assert found.by_width[step] == pytest.approx(np.mean(by_width) / np.abs(error).mean())
        assert found.by_error[step] == pytest.approx(np.sort(np.abs(error))[:left].mean() / np.abs(error).mean())
    assert found.area == pytest.approx(np.trapezoid(found.by_width - found.by_error, found.removed))


def test_the_area_is_zero_for_the_best_order_and_large_for_none():
    error = normal(5000)
    area = [sparsification(one, error, np.random.default_rng(0)).area for one in (np.abs(error), np.ones(5000), -np.abs(error))]
    assert area[0] == 0
    assert area[1] == pytest.approx(
        np.trapezoid(1 - sparsification(np.ones(5000), error, np.random.default_rng(0)).by_error, np.arange(100) / 100)
    )  # equal widths sort nothing, whatever the order of voxels
    assert area[2] > area[1]
    assert np.isnan(sparsification(np.ones(5), np.zeros(5), np.random.default_rng(0)).area)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_the_rank_correlation_is_spearmans(pairs):
    a, b = np.array(pairs, np.float32).T
    if np.ptp(a) and np.ptp(b):
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    else:
        assert np.isnan(spearman(a, b))


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_sample_is_as_large_as_asked_for_and_without_repetition(size, limit):
    drawn = subsample(size, limit, np.random.default_rng(0))
    assert drawn.size == min(size, limit)
    assert (np.diff(drawn) > 0).all() and set(drawn) <= set(range(size))


def test_the_width_that_noise_leaves_covers_it():
    half = gaussian_width(3.0, Fraction(1, 10)) / 2
    assert coverage(np.full(200_000, -half), np.full(200_000, half), 3 * normal(200_000)) == pytest.approx(0.9, abs=0.005)
    assert width_reduction(half / 2, 2 * half) == 0.75
    assert width_reduction(1.0, 0.5) == -1
    assert np.isnan(width_reduction(1.0, 0.0))
