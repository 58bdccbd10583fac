import json
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import apply, certificate, crc_rank, rearrange, scores, threshold, unit_sizes, units_needed
from behindthenoise.errors import CalibrationError

TENTH = Fraction(1, 10)
NO_SUPPORT = (None, None)
levels = st.sampled_from([Fraction(text) for text in ("0.01", "0.05", "0.1", "0.2", "0.45", "0.5", "0.9", "1/3")])
reals = st.floats(width=32, allow_nan=False, allow_infinity=False)


def row(*values):
    return np.array(values, np.float32)


@given(st.integers(1, 30_000), levels)
def test_units_of_one_pixel_give_split_conformal_prediction(pixels, miscoverage):
    expected = ceil((pixels + 1) * (1 - miscoverage))
    if expected <= pixels:
        assert crc_rank(np.ones(pixels, int), miscoverage) == expected
    else:
        with pytest.raises(CalibrationError):
            crc_rank(np.ones(pixels, int), miscoverage)


def test_ranks_are_exact_where_floating_point_is_off_by_one():
    assert ceil((99 + 1) * (1 - 0.45)) == 56
    assert crc_rank(np.ones(99, int), CalibrationConfig(coverage=0.55).miscoverage) == 55


@given(st.integers(1, 200), st.integers(1, 10_000), levels)
def test_units_of_one_size_give_the_pooled_quantile_at_the_raised_level(units, size, miscoverage):
    level = (1 - miscoverage) * Fraction(units + 1, units)
    sizes = np.full(units, size)
    if level <= 1:
        assert crc_rank(sizes, miscoverage) == ceil(level * units * size)
    else:
        with pytest.raises(CalibrationError):
            crc_rank(sizes, miscoverage)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), levels)
def test_the_rank_exists_exactly_from_the_number_of_units_that_is_asked_for(sizes, miscoverage):
    needed = units_needed(np.array(sizes), miscoverage)
    if needed > len(sizes):
        with pytest.raises(CalibrationError, match=f"at this unit size it takes at least {needed};"):
            crc_rank(np.array(sizes), miscoverage)
    else:
        assert 1 <= crc_rank(np.array(sizes), miscoverage) <= sum(sizes)


@pytest.mark.parametrize(("miscoverage", "needed"), [("0.1", 9), ("0.05", 19), ("0.2", 4), ("0.5", 1), ("0.9", 1), ("1/3", 2)])
def test_equal_units_need_the_textbook_number(miscoverage, needed):
    assert units_needed(np.full(3, 500), Fraction(miscoverage)) == needed
    assert units_needed(np.zeros(0, int), Fraction(miscoverage)) == needed


def test_too_few_units_say_how_many_it_takes():
    message = (
        "^3 calibration units cannot promise 90 % coverage with guarantee 'crc'; at this unit size it takes at least 9; "
        "use smaller blocks, more images, or a lower coverage$"
    )
    with pytest.raises(CalibrationError, match=message):
        threshold(np.zeros(30, np.float32), np.repeat([4, 7, 9], 10), TENTH)
    with pytest.raises(CalibrationError, match=r"^0 calibration units cannot promise 90 %"):
        crc_rank(np.zeros(0, int), TENTH)


def test_scores_that_are_not_numbers_are_refused():
    bad = np.zeros(100, np.float32)
    bad[[3, 5]] = np.nan
    with pytest.raises(CalibrationError, match="2 of 100 calibration scores are NaN"):
        threshold(bad, np.repeat(np.arange(20), 5), TENTH)


@given(st.lists(st.integers(-5, 5), min_size=40, max_size=40), levels, st.randoms())
def test_the_threshold_is_the_score_at_its_rank_in_the_sorted_row(values, miscoverage, random):
    units = np.sort([random.randrange(25) for _ in values])
    sizes = unit_sizes(units)
    if units_needed(sizes, miscoverage) <= sizes.size:
        order = np.random.default_rng(0).permutation(40)
        found = threshold(np.array(values, np.float32)[order], units[order], miscoverage)
        assert found == sorted(values)[crc_rank(sizes, miscoverage) - 1]


@settings(deadline=None)
@given(st.data(), st.integers(2, 8), st.integers(1, 6), st.sampled_from(["0.2", "0.25", "0.4", "0.5", "0.7"]))
def test_leaving_out_each_unit_in_turn_misses_at_most_the_accepted_share(data, units, largest, level):
    """
    Exact and free of chance: the guarantee is the mean over which of the exchangeable units is the new one.

    Two units are the largest, so that the new one is never larger than all calibration units.
    """
    miscoverage = Fraction(level)
    sizes = [largest, largest, *data.draw(st.lists(st.integers(1, largest), min_size=units - 1, max_size=units - 1))]
    unit = np.repeat(np.arange(len(sizes)), sizes)
    values = data.draw(st.lists(st.integers(0, 9), min_size=unit.size, max_size=unit.size).map(np.float32))
    missed = 0
    for new in range(len(sizes)):
        old = unit != new
        if units_needed(unit_sizes(unit[old]), miscoverage) <= len(sizes) - 1:  # else all is covered, by an endless interval
            missed += int((values[~old] > threshold(values[old], unit[old], miscoverage)).sum())
    assert missed <= miscoverage * unit.size


def test_dependent_pixels_are_covered_on_average_where_the_pooled_rank_falls_short():
    rng = np.random.default_rng(3)
    units, pixels, repetitions, effect = 12, 50, 1500, 1.5
    values = effect * rng.standard_normal((repetitions, units, 1)) + rng.standard_normal((repetitions, units, pixels))
    values = values.reshape(repetitions, -1).astype(np.float32)
    unit = np.repeat(np.arange(units), pixels)
    pooled_rank = ceil((unit.size + 1) * (1 - TENTH))

    def realised(thresholds):
        return norm.cdf(np.asarray(thresholds) / np.hypot(effect, 1))  # of a pixel of a new unit, without sampling error

    ours = realised([threshold(one, unit, TENTH) for one in values])
    pooled = realised(np.sort(values, axis=1)[:, pooled_rank - 1])
    assert ours.mean() >= 0.9 - 2 * ours.std() / np.sqrt(repetitions)
    assert pooled.mean() < 0.9 - 2 * pooled.std() / np.sqrt(repetitions)


@settings(max_examples=300)
@example([(100.0, 100.0, 100.0, -1e-6)], 0, (False, False))  # the score is rounded down to 100, and 100 - 100 has finer steps
@given(
    st.lists(st.tuples(reals, reals, reals, reals), min_size=1, max_size=20),
    st.integers(0, 19),
    st.tuples(st.booleans(), st.booleans()),
)
def test_every_score_up_to_the_threshold_is_inside_bit_by_bit(voxels, rank, bounded):
    first, second, third, truth = np.array(voxels, np.float32).T
    with np.errstate(over="ignore"):
        lower, _, upper = rearrange(first, second, third)
        score = scores(lower, upper, truth)
        limit = float(np.sort(score)[rank % score.size])
        support = (float(truth.min()) if bounded[0] else None, float(truth.max()) if bounded[1] else None)
        low, high = apply(first, second, third, limit, support)
    assert (low <= high).all()
    assert ((low <= truth) & (truth <= high))[score <= limit].all()  # ties with the threshold included


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=3, max_size=3).map(sorted), st.floats(0, 1000, width=32))
def test_the_rounding_outwards_is_no_wider_than_a_few_steps(quantiles, limit):
    lower, median, upper = (row(value) for value in quantiles)
    low, high = apply(lower, median, upper, limit, NO_SUPPORT)
    step = 3 * np.spacing(np.float32(2000))
    assert lower - np.float64(limit) - step <= low <= lower - np.float64(limit)
    assert upper + np.float64(limit) <= high <= upper + np.float64(limit) + step


@given(st.lists(st.tuples(reals, reals, reals), min_size=1, max_size=9))
def test_rearranged_quantiles_are_the_sorted_ones(voxels):
    np.testing.assert_array_equal(
        np.array(rearrange(*np.array(voxels, np.float32).T)), np.sort(np.array(voxels, np.float32).T, axis=0)
    )


def test_an_interval_turned_inside_out_shrinks_to_the_median():
    low, high = apply(row(0, 0), row(1, 1), row(2, 20), -3.0, NO_SUPPORT)
    assert low[0] == high[0] == 1
    np.testing.assert_allclose([low[1], high[1]], [3, 17], rtol=1e-6)


def test_what_is_not_a_number_stays_so_in_both_ends():
    nan = np.nan
    low, high = apply(row(nan, 0, 0, 0), row(1, nan, 1, 1), row(2, 2, nan, 2), 1.0, (0.0, 9.0))
    assert np.isnan([low[:3], high[:3]]).all()
    assert (low[3], high[3]) == (0, pytest.approx(3))


def test_ends_are_cut_to_what_is_possible():
    low, high = apply(row(-1, 6, 0.5), row(0, 7, 1), row(1, 8, 2), 1.0, (0.0, 4.0))
    assert low.tolist() == [0, 4, 0]
    assert high.tolist() == pytest.approx([2, 4, 3])


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), (2, 3, 4, 5)])
def test_images_and_volumes_are_treated_voxel_by_voxel(shape):
    arrays = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    flat = [array.ravel() for array in arrays]
    np.testing.assert_array_equal(scores(arrays[0], arrays[1], arrays[3]).ravel(), scores(flat[0], flat[1], flat[3]))
    for whole, part in zip(apply(*arrays[:3], 0.3, (-1.0, None)), apply(*flat[:3], 0.3, (-1.0, None)), strict=True):
        np.testing.assert_array_equal(whole.ravel(), part)


def test_scores_are_the_distance_outside_the_interval_and_negative_inside():
    assert scores(row(0, 0, 0), row(4, 4, 4), row(-1, 6, 3)).tolist() == [1, 2, -1]


def test_the_certificate_says_what_is_promised_and_survives_json():
    record = certificate(np.full(24, 100), 1.5, TENTH, unit_kind="block", scans=3)
    assert json.loads(json.dumps(record)) == record
    assert record["statement"].startswith(
        "Averaged over new blocks exchangeable with the 24 calibration ones, at least 90 % of the pixels lie inside their "
    )
    expected = {
        "guarantee": "crc",
        "coverage": 0.9,
        "miscoverage": "1/10",
        "unit": "block",
        "units": 24,
        "pixels": 2400,
        "largest_unit": 100,
        "rank": crc_rank(np.full(24, 100), TENTH),
        "threshold": 1.5,
        "scans": 3,
    }
    assert {key: record[key] for key in expected} == expected
    assert "The 3 scans of a field share one clean image" in record["assumptions"][-1]
    assert not any(
        "scans of a field" in line for line in certificate(np.ones(9, int), 0.0, TENTH, unit_kind="image", scans=1)["assumptions"]
    )


def test_no_certificate_is_given_without_a_guarantee():
    with pytest.raises(CalibrationError, match="5 calibration units cannot promise 90 %"):
        certificate(np.full(5, 100), 1.5, TENTH, unit_kind="image", scans=1)
