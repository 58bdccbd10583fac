from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import norm

from behindthenoise.core.metrics.coverage import coverage
from behindthenoise.core.metrics.sharpness import (
    crps,
    gaussian_width,
    interval_score,
    pinball_sum,
    sparsification,
    weighted_interval_score,
    width_reduction,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_interval_score_charges_width_and_misses():
    lower, upper = np.zeros(3), np.full(3, 2.0)
    assert interval_score(lower, upper, np.array([1.0, -0.5, 3.0]), Fraction(1, 10)) == pytest.approx(2 + 20 * 1.5 / 3)


def test_the_interval_score_is_least_at_the_true_quantiles():
    truth, z = normal(200_000), norm.ppf(0.95)
    best = interval_score(np.full(truth.size, -z), np.full(truth.size, z), truth, Fraction(1, 10))
    for shift_low, shift_high in [(0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2), (0.2, 0.2)]:
        other = interval_score(np.full(truth.size, shift_low - z), np.full(truth.size, shift_high + z), truth, Fraction(1, 10))
        assert other > best


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


def test_the_width_that_noise_leaves_covers_it():
    half = gaussian_width(3.0, Fraction(1, 10)) / 2
    assert coverage(np.full(200_000, -half), np.full(200_000, half), 3 * normal(200_000)) == pytest.approx(0.9, abs=0.005)
    assert width_reduction(half / 2, 2 * half) == 0.75
    assert width_reduction(1.0, 0.5) == -1
    assert np.isnan(width_reduction(1.0, 0.0))
