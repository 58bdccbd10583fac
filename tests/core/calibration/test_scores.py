from fractions import Fraction
from math import ceil, inf, nan

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from behindthenoise.core.calibration.scores import Score, apply, expect_support, rearrange, scores
from behindthenoise.errors import CalibrationError

NO_SUPPORT = (None, None)
KINDS = ["cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"]
SCALED = ["cqr-r", "cqr-m", "ensemble"]
kinds = st.sampled_from(KINDS)
reals = st.floats(width=32, allow_nan=False, allow_infinity=False)
# The least floor that a training set can give is 1e-3 of the least width in float32.
floors = st.sampled_from([1e-48, 1e-30, 1e-3, 1.0, 1e30])
weights = st.sampled_from([0.0, 0.25, 8.0])
spreads = st.floats(0, 2.0**100, width=32)
voxels = st.lists(st.tuples(reals, reals, reals, reals, spreads), min_size=1, max_size=20)


def row(*values):
    return np.array(values, np.float32)


def arrays(voxels):
    """Quantiles, truth and spread of some voxels."""
    values = np.array(voxels, np.float32).T
    return values[:3], values[3], values[4]


def inside(low, high, truth):
    return (low <= truth) & (truth <= high)


@settings(max_examples=400)
@example("cqr", 1.0, 0.0, [(100.0, 100.0, 100.0, -1e-6, 0.0)], 0, (False, False))  # rounded down to 100, where steps are coarser
@given(kinds, floors, weights, voxels, st.integers(0, 19), st.tuples(st.booleans(), st.booleans()))
def test_every_value_that_scores_up_to_a_threshold_of_the_data_is_inside_bit_by_bit(kind, floor, weight, voxels, rank, bounded):
    score, (quantiles, truth, spread) = Score(kind, floor, weight), arrays(voxels)
    found = scores(score, quantiles, truth, spread)
    thresholds = np.sort(found, axis=1)[:, rank % truth.size]
    support = (float(truth.min()) if bounded[0] else None, float(truth.max()) if bounded[1] else None)
    low, high = apply(score, quantiles, thresholds, support, spread)
    assert (low <= high).all()
    assert inside(low, high, truth)[(found <= thresholds[:, None]).all(axis=0)].all()  # ties with the threshold included


@settings(max_examples=400)
@example("cqr-m", 1e-3, 0.0, [(3.0, 1.0, 2.0, 2.0, 0.0)], [inf, inf])
@given(kinds, floors, weights, voxels, st.lists(st.floats(width=32, allow_nan=False), min_size=40, max_size=40))
def test_every_value_that_scores_up_to_the_threshold_of_its_group_is_inside_bit_by_bit(kind, floor, weight, voxels, limits):
    score, (quantiles, truth, spread) = Score(kind, floor, weight), arrays(voxels)
    found = scores(score, quantiles, truth, spread)
    thresholds = np.resize(row(*limits), found.shape)
    low, high = apply(score, quantiles, thresholds, NO_SUPPORT, spread)
    assert (low <= high).all()
    assert inside(low, high, truth)[(found <= thresholds).all(axis=0)].all()


@settings(max_examples=200)
@given(kinds, floors, voxels, st.lists(st.sampled_from([-inf, inf]), min_size=20, max_size=20))
def test_a_threshold_one_step_from_the_score_decides_as_the_score_does(kind, floor, voxels, directions):
    score, (quantiles, truth, spread) = Score(kind, floor, 1.0), arrays(voxels)
    found = scores(score, quantiles, truth, spread)
    with np.errstate(over="ignore"):
        thresholds = np.nextafter(found, np.array(directions[: truth.size], np.float32))
    low, high = apply(score, quantiles, thresholds, NO_SUPPORT, spread)
    assert inside(low, high, truth)[(found <= thresholds).all(axis=0)].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_scores_a_little_more_than_the_threshold_is_outside(kind):
    rng = np.random.default_rng(4)
    quantiles, truth, spread = np.sort(rng.normal(size=(3, 5000)), axis=0), rng.normal(size=5000) * 3, rng.random(5000)
    quantiles, truth, spread = (values.astype(np.float32) for values in (quantiles, truth, spread))
    score = Score(kind, 1e-3, 2.0)
    found = scores(score, quantiles, truth, spread)
    a_little_less = found - np.float32(1e-5) * np.maximum(1, np.abs(found))
    thresholds = np.where(found == found.max(axis=0), a_little_less, np.float32(1))
    low, high = apply(score, quantiles, thresholds, NO_SUPPORT, spread)
    is_point = low == high  # an interval turned inside out, which may hit the truth
    assert not inside(low, high, truth)[~is_point].any()
    assert (~is_point).sum() > 4000


@given(kinds, st.lists(st.floats(-1000, 1000, width=32), min_size=3, max_size=3).map(sorted), st.floats(0, 1000, width=32))
def test_the_interval_holds_in_exact_arithmetic_and_is_no_wider_than_a_few_steps(kind, quantiles, limit):
    lower, median, upper = (Fraction(value) for value in quantiles)
    score = Score(kind, 0.5, 2.0)
    widths = {
        "cqr-r": [max(upper - lower, Fraction(1, 2))] * 2,
        "cqr-m": [max(median - lower, Fraction(1, 2)), max(upper - median, Fraction(1, 2))],
        "ensemble": [max(upper - lower + 2 * 3, Fraction(1, 2))] * 2,
    }.get(kind, [Fraction(1)] * 2)
    thresholds = np.full(score.sides, limit, np.float32)
    low, high = apply(score, np.array(quantiles, np.float32)[:, None], thresholds, NO_SUPPORT, row(3))
    for end, exact in ((-low[0], -lower + Fraction(limit) * widths[0]), (high[0], upper + Fraction(limit) * widths[1])):
        steps = 3 * Fraction(float(np.spacing(np.float32(abs(exact) + 1000)))) * (1 + max(widths) / 1000)
        assert exact <= Fraction(float(end)) <= exact + steps


@given(st.lists(st.tuples(reals, reals, reals), min_size=1, max_size=9))
def test_rearranged_quantiles_are_the_sorted_ones(voxels):
    np.testing.assert_array_equal(
        np.array(rearrange(*np.array(voxels, np.float32).T)), np.sort(np.array(voxels, np.float32).T, axis=0)
    )


@given(kinds, voxels, st.permutations([0, 1, 2]), st.floats(-2, 2, width=32))
def test_crossed_quantiles_give_what_sorted_ones_give(kind, voxels, order, limit):
    score, (quantiles, truth, spread) = Score(kind, 1e-3, 1.0), arrays(voxels)
    crossed, thresholds = np.sort(quantiles, axis=0)[order], np.full(score.sides, limit, np.float32)
    np.testing.assert_array_equal(scores(score, crossed, truth, spread), scores(score, quantiles, truth, spread))
    for ours, sorted_ones in zip(
        apply(score, crossed, thresholds, NO_SUPPORT, spread), apply(score, quantiles, thresholds, NO_SUPPORT, spread), strict=True
    ):
        np.testing.assert_array_equal(ours, sorted_ones)


@pytest.mark.parametrize(
    ("kind", "below", "above"),
    [
        ("cqr", [2, -2, -4], [-8, -4, -2]),
        ("asymmetric", [2, -2, -4], [-8, -4, -2]),
        ("cqr-r", [2 / 6, -2 / 6, -4 / 6], [-8 / 6, -4 / 6, -2 / 6]),
        ("cqr-m", [1, -1, -2], [-2, -1, -1 / 2]),
        ("ensemble", [0.2, -0.2, -0.4], [-0.8, -0.4, -0.2]),
    ],
)
def test_scores_are_distances_outside_the_interval_in_the_width_of_their_kind(kind, below, above):
    quantiles, truth = np.repeat([row(1), row(3), row(7)], 3, axis=1), row(-1, 3, 5)
    found = scores(Score(kind, 0.1, 2.0), quantiles, truth, row(2, 2, 2))
    expected = [below, above] if kind == "asymmetric" else [np.maximum(below, above)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("kind", SCALED)
def test_where_the_predicted_width_is_zero_the_floor_takes_its_place(kind):
    assert scores(Score(kind, 0.5, 2.0), row([1], [1], [1]), row(4), row(0)).tolist() == [[6]]


@pytest.mark.parametrize("kind", ["cqr", "cqr-r"])
def test_scores_have_the_bits_of_float64_rounded_once(kind):
    rng = np.random.default_rng(2)
    quantiles, truth = rng.normal(size=(3, 100_000)).astype(np.float32), (rng.normal(size=100_000) * 1e4).astype(np.float32)
    lower, _, upper = np.sort(quantiles, axis=0).astype(np.float64)
    width = np.maximum(upper - lower, 1e-3) if kind == "cqr-r" else 1.0
    expected = np.maximum((lower - truth) / width, (truth - upper) / width).astype(np.float32)
    np.testing.assert_array_equal(scores(Score(kind, 1e-3), quantiles, truth)[0], expected)


def test_an_interval_turned_inside_out_shrinks_to_the_median():
    low, high = apply(Score("cqr"), row([0, 0], [1, 1], [2, 20]), row(-3), NO_SUPPORT)
    assert low[0] == high[0] == 1
    np.testing.assert_allclose([low[1], high[1]], [3, 17], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_infinite_threshold_gives_the_ends_of_the_support(kind):
    score, quantiles = Score(kind, 1e-3), row([0, nan], [1, 1], [2, 2])
    limits = np.full(score.sides, inf, np.float32)
    for support, ends in (((0.0, None), (0, inf)), (NO_SUPPORT, (-inf, inf)), ((-1.0, 5.0), (-1, 5))):
        low, high = apply(score, quantiles, limits, support, row(1, 1))
        assert (low[0], high[0]) == ends
        assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_stays_so_in_scores_and_in_both_ends(kind):
    score = Score(kind, 1e-3, 1.0)
    quantiles, truth = row([nan, 0, 0, 0, 0, 0], [1, nan, 1, 1, 1, 1], [2, 2, nan, 2, 2, 2]), row(1, 1, 1, nan, 1, 1)
    spread = row(0, 0, 0, 0, nan if kind == "ensemble" else 0, 0)
    undefined = [True] * 3 + [False, kind == "ensemble", False]
    low, high = apply(score, quantiles, np.full(score.sides, 1, np.float32), (0.0, 9.0), spread)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == undefined
    undefined[3] = True
    assert all(np.isnan(side).tolist() == undefined for side in scores(score, quantiles, truth, spread))


def test_a_threshold_that_is_not_a_number_leaves_no_interval():
    low, high = apply(Score("cqr"), row([0, 0], [1, 1], [2, 2]), row([nan, 1]), NO_SUPPORT)
    assert np.isnan([low[0], high[0]]).all()
    assert not np.isnan([low[1], high[1]]).any()


def test_ends_are_cut_to_what_is_possible():
    low, high = apply(Score("cqr"), row([-1, 6, 0.5], [0, 7, 1], [1, 8, 2]), row(1), (0.0, 4.0))
    assert low.tolist() == [0, 4, 0]
    assert high.tolist() == pytest.approx([2, 4, 3])


def test_each_side_of_an_asymmetric_score_has_its_own_threshold():
    low, high = apply(Score("asymmetric"), row([10], [20], [30]), row(1, 5), NO_SUPPORT)
    assert (low[0], high[0]) == pytest.approx((9, 35))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), (2, 3, 4, 5)])
def test_images_and_volumes_are_treated_voxel_by_voxel_and_left_as_they_are(kind, shape):
    values = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    values[4] = abs(values[4])
    score, flat, before = Score(kind, 1e-3, 1.0), values.reshape(5, -1), values.copy()
    found = scores(score, values[:3], values[3], values[4])
    assert found.shape == (score.sides, *shape)
    np.testing.assert_array_equal(found.reshape(score.sides, -1), scores(score, flat[:3], flat[3], flat[4]))
    thresholds = found + np.float32(0.3)
    for whole, part in zip(
        apply(score, values[:3], thresholds, (-1.0, None), values[4]),
        apply(score, flat[:3], thresholds.reshape(score.sides, -1), (-1.0, None), flat[4]),
        strict=True,
    ):
        np.testing.assert_array_equal(whole.ravel(), part)
    np.testing.assert_array_equal(values, before)


def test_one_threshold_gives_what_the_same_threshold_in_every_voxel_gives():
    quantiles = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    score, limits = Score("asymmetric"), row(-0.2, 0.7)
    for one, each in zip(
        apply(score, quantiles, limits, NO_SUPPORT),
        apply(score, quantiles, np.broadcast_to(limits[:, None, None], (2, 4, 5)), NO_SUPPORT),
        strict=True,
    ):
        np.testing.assert_array_equal(one, each)


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("floor", [0.0, -1.0, inf, nan])
def test_a_width_that_may_be_zero_is_refused_as_a_divisor(kind, floor):
    with pytest.raises(CalibrationError, match=f"of score {kind!r} must be positive and finite"):
        Score(kind, floor)


def test_a_weight_that_could_make_a_width_negative_is_refused():
    with pytest.raises(CalibrationError, match=r"spread_weight -0\.5 must be 0 or more and finite"):
        Score("ensemble", 1.0, -0.5)


def test_missing_inputs_are_named():
    with pytest.raises(CalibrationError, match="score 'ensemble' needs the spread of the members' medians and got none"):
        scores(Score("ensemble", 1.0), row([0], [1], [2]), row(1))
    with pytest.raises(CalibrationError, match="score 'asymmetric' takes 2 thresholds and got 1; one for each side"):
        apply(Score("asymmetric"), row([0], [1], [2]), row(1), NO_SUPPORT)


@pytest.mark.parametrize(("support", "value"), [((0.0, None), "-1"), ((None, 4.0), "5"), ((-1.0, 4.5), "5")])
def test_a_clean_value_outside_the_support_is_named(support, value):
    with pytest.raises(CalibrationError, match=f"channel 'Fe' of the clean image holds {value}, outside calibration.support"):
        expect_support(support, "Fe", -1.0, 5.0)


def test_a_clean_value_on_the_edge_of_the_support_is_possible_in_the_precision_of_the_image():
    expect_support((0.1, 5.0), "Fe", float(np.float32(0.1)), 5.0)
    expect_support((None, 0.7), "Fe", -inf, float(np.float32(0.7)))


def heteroscedastic(rng, size):
    """Skewed values of very uneven spread; a predictor that is biased, too narrow, and crossed in places; members' spread."""
    sigma = np.exp(rng.normal(size=size))
    truth = 5 * rng.normal(size=size) + sigma * (rng.gamma(2, size=size) - 2)
    wrong = sigma * np.exp(0.3 * rng.normal(size=size))
    centre = truth - sigma * (rng.gamma(2, size=size) - 2) + 0.3
    quantiles = np.stack([centre - 0.7 * wrong, centre + 0.1 * rng.normal(size=size), centre + 0.5 * wrong])
    return quantiles.astype(np.float32), truth.astype(np.float32), (sigma * rng.random(size)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nine_tenths_of_a_million_independent_pixels_are_covered(kind):
    rng, pixels = np.random.default_rng(8), 1_000_000
    score, miscoverage = Score(kind, 1e-3, 0.5), Fraction(1, 10)
    found = scores(score, *heteroscedastic(rng, pixels))
    rank = ceil((pixels + 1) * (1 - miscoverage / score.sides))
    thresholds = np.partition(found, rank - 1, axis=1)[:, rank - 1]
    quantiles, truth, spread = heteroscedastic(rng, pixels)
    raw = inside(quantiles.min(axis=0), quantiles.max(axis=0), truth).mean()
    low, high = apply(score, quantiles, thresholds, NO_SUPPORT, spread)
    assert raw < 0.7  # without calibration
    assert abs(inside(low, high, truth).mean() - 0.9) <= 0.005
    if kind == "asymmetric":
        assert abs((truth < low).mean() - 0.05) <= 0.0025
        assert abs((truth > high).mean() - 0.05) <= 0.0025
