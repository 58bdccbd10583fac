from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from behindthenoise.core.calibration.constants import WEIGHTS, fit_edges, fit_score
from behindthenoise.core.calibration.scores import Score, apply, scores
from behindthenoise.core.metrics.coverage import coverage
from behindthenoise.core.metrics.sharpness import interval_score

TENTH = Fraction(1, 10)
KINDS = ["cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"]


def of_width(*widths):
    """Quantiles of these widths, the ends crossed in the first voxel; truth and spread."""
    half = np.array(widths, np.float32) / 2
    quantiles = np.stack([-half, 0 * half, half])
    quantiles[:, 0] = quantiles[::-1, 0]
    return quantiles, np.ones_like(half), np.zeros_like(half)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("widths", "floor"),
    [
        ((1, 3, 8), 3e-3),
        ((0, 0, 0, 0, 4, 6), 5e-3),  # widths of zero are no measure of a width
        ((2.0**-140,), 1e-3 * 2.0**-140),
    ],
)
def test_the_floor_is_a_thousandth_of_the_median_width_and_positive_where_most_widths_are_zero(kind, widths, floor):
    assert fit_score(kind, *of_width(*widths)).floor == pytest.approx(floor, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_width_is_predicted_at_all_scaled_scores_are_distances(kind):
    score, quantiles = fit_score(kind, *of_width(0, 0)), np.zeros((3, 2), np.float32)
    assert scores(score, quantiles, np.array([3, -5], np.float32), np.zeros(2, np.float32)).max(axis=0).tolist() == [3, 5]


def noisy_ensemble(rng, size, weight):
    """Values whose intervals of 90 % are the predicted ones widened by half of width + `weight` * spread at both ends."""
    width, spread = np.exp(rng.normal(size=size)), np.exp(rng.normal(size=size))
    truth = rng.normal(size=size) * (width + weight * spread / 2) / 1.645
    return tuple(values.astype(np.float32) for values in (np.stack([-width / 2, 0 * width, width / 2]), truth, spread))


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_weight_of_the_spread_is_found_where_it_decides_how_large_errors_are(weight):
    assert fit_score("ensemble", *noisy_ensemble(np.random.default_rng(2), 50_000, weight)).spread_weight == weight


def test_the_weight_of_the_spread_has_the_least_interval_score_once_each_is_scaled_to_coverage():
    quantiles, truth, spread = noisy_ensemble(np.random.default_rng(3), 2000, 0.8)
    found, judged = fit_score("ensemble", quantiles, truth, spread), []
    for weight in WEIGHTS:
        width = np.maximum(quantiles[2] - quantiles[0] + weight * spread, found.floor)
        factor = np.sort((np.abs(truth) - quantiles[2]) / width)[1800 - 1]
        low, high = quantiles[0] - factor * width, quantiles[2] + factor * width
        assert coverage(low, high, truth) == pytest.approx(0.9, abs=0.001)
        judged.append(interval_score(low, high, truth, TENTH))
    assert found.spread_weight == WEIGHTS[int(np.argmin(judged))]


def test_members_that_agree_everywhere_get_no_weight():
    quantiles, truth, spread = noisy_ensemble(np.random.default_rng(4), 1000, 0.0)
    assert fit_score("ensemble", quantiles, truth, 0 * spread).spread_weight == 0


@given(st.lists(st.integers(-3, 3) | st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=60), st.integers(2, 12))
def test_no_bin_of_intensity_is_empty_however_values_are_tied(values, bins):
    median = np.array(values, np.float32)
    edges = fit_edges(median, bins)
    assert (np.diff(edges) > 0).all()
    assert len(edges) < bins
    assert np.bincount(np.searchsorted(edges, median, side="right"), minlength=len(edges) + 1).min() >= 1


@given(st.integers(1, 40), st.integers(2, 12), st.randoms(use_true_random=False))
def test_bins_of_distinct_values_are_filled_alike(each, bins, random):
    median = np.array(random.sample(range(10_000), each * bins), np.float32)
    edges = fit_edges(median, bins)
    assert np.bincount(np.searchsorted(edges, median, side="right")).tolist() == [each] * bins


def test_a_constant_image_has_one_bin():
    assert fit_edges(np.full(9, 4, np.float32), 10).size == 0


def test_borders_survive_being_written_down_as_numbers():
    median = np.random.default_rng(0).normal(size=999).astype(np.float32)
    edges = fit_edges(median, 10)
    again = np.array([float(repr(edge)) for edge in edges.tolist()])
    np.testing.assert_array_equal(np.searchsorted(again, median, side="right"), np.searchsorted(edges, median, side="right"))


def test_a_fitted_score_gives_the_training_voxels_their_coverage_and_shorter_intervals_than_the_width_alone():
    quantiles, truth, spread = noisy_ensemble(np.random.default_rng(6), 20_000, 1.0)
    fitted = fit_score("ensemble", quantiles, truth, spread)
    judged = []
    for score in (fitted, Score("cqr-r", fitted.floor)):
        found = scores(score, quantiles, truth, spread)
        low, high = apply(score, quantiles, np.sort(found, axis=1)[:, 18_000 - 1], (None, None), spread)
        assert coverage(low, high, truth) == pytest.approx(0.9, abs=0.001)
        judged.append(interval_score(low, high, truth, TENTH))
    assert judged[0] < 0.97 * judged[1]
