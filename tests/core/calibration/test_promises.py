"""
Each guarantee keeps its promise in simulations whose truth is known; bench/coverage.py runs the same ones at full size.

Goals are those of docs/guarantees.md. As there are a few hundred repetitions here, a failure rate may exceed its goal by two of its
standard errors, sqrt(goal (1 - goal) / repetitions), and a mean may by two of its own.
"""

import importlib.util
from fractions import Fraction
from functools import cache
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from behindthenoise.core.calibration.guarantees import GUARANTEES, Request, rcps
from behindthenoise.core.calibration.histogram import Histogram

specification = importlib.util.spec_from_file_location("bench_coverage", Path(__file__).parents[3] / "bench" / "coverage.py")
bench = importlib.util.module_from_spec(specification)
specification.loader.exec_module(bench)

pytestmark = pytest.mark.slow
REPETITIONS = 300
IMAGES = 600
TENTH = Fraction(1, 10)


@cache
def images(scenario, sides=(64,)):
    return bench.population(bench.SCENARIOS[scenario], IMAGES, np.random.default_rng(1), sides)


@cache
def all_outcomes(scenario, units, sides):
    rng = np.random.default_rng(2)
    samples = (bench.drawn(images(scenario, sides), units, rng) for _ in range(REPETITIONS))
    return bench.outcomes(images(scenario, sides), samples, guarantees=("pac", "crc", "tolerance", "pooled"))


def outcomes(scenario, units, guarantee, sides=(64,)):
    """Coverages, shares of units with enough, and widths over the oracle's, of the thresholds that exist."""
    found = all_outcomes(scenario, units, sides)[guarantee]
    return found[:, np.isfinite(found[2])]


def allowed(goal, repetitions):
    return goal + 2 * sqrt(goal * (1 - goal) / repetitions)


def standard_error(values):
    return values.std(ddof=1) / sqrt(values.size)


@pytest.mark.parametrize("scenario", bench.SCENARIOS)
@pytest.mark.parametrize("units", [5, 10, 30, 100])
def test_pac_fails_no_oftener_than_it_says(scenario, units):
    coverage, _, _ = outcomes(scenario, units, "pac")
    assert coverage.size == REPETITIONS
    assert np.mean(coverage < 0.9) <= allowed(0.12, REPETITIONS)
    pooled, _, _ = outcomes(scenario, units, "pooled")
    assert np.mean(pooled < 0.9) > 0.3


@pytest.mark.parametrize(("units", "goal"), [(10, 1.20), (30, 1.09), (100, 1.05)])
def test_pac_is_little_wider_than_the_oracle(units, goal):
    _, _, width = outcomes("D", units, "pac")
    assert 1 < width.mean() <= goal + 2 * standard_error(width)


def test_pac_holds_where_units_differ_in_size():
    """Taken for equal, these units fail in a quarter of the cases."""
    for units in (10, 30):
        coverage, _, _ = outcomes("D", units, "pac", bench.UNEVEN)
        assert coverage.size > REPETITIONS / 2
        assert np.mean(coverage < 0.9) <= allowed(0.12, coverage.size)


@pytest.mark.parametrize("scenario", bench.SCENARIOS)
@pytest.mark.parametrize("units", [10, 30])
def test_crc_covers_on_average_and_tolerance_covers_enough_units(scenario, units):
    coverage, _, _ = outcomes(scenario, units, "crc")
    assert coverage.mean() >= 0.9 - 2 * standard_error(coverage)
    _, share, _ = outcomes(scenario, units, "tolerance")
    assert share.mean() >= 0.9 - 2 * standard_error(share)
    _, pooled, _ = outcomes(scenario, units, "pooled")
    assert pooled.mean() < 0.75


def test_rcps_fails_no_oftener_than_it_says_for_losses_of_0_and_1():
    """One pixel in each unit, and one threshold below the largest: to stop there is to accept a mean loss of 0.1 or more."""
    request = Request(TENTH, TENTH, TENTH)

    def accepted(probability, repetitions):
        missed = np.random.default_rng(5).random((repetitions, 100)) < probability
        return np.mean([rcps(Histogram.of(row.astype(np.float32), np.arange(100)), request).threshold == 0 for row in missed])

    assert accepted(0.1, 1000) <= allowed(0.1, 1000)
    assert accepted(0.02, 100) > 0.8  # no empty promise


@pytest.mark.parametrize("guarantee", ["pooled", "crc", "tolerance"])
def test_independent_pixels_have_the_beta_law(guarantee):
    """Units of one pixel: the coverage of the score at rank j of n has the law Beta(j, n + 1 - j)."""
    count, repetitions = 199, 800
    scores = np.random.default_rng(7).random((repetitions, count), np.float32)
    request = Request(TENTH, TENTH, TENTH)
    thresholds = [GUARANTEES[guarantee](Histogram.of(row, np.arange(count)), request).threshold for row in scores]
    rank = ceil((count + 1) * 0.9)
    assert stats.kstest(thresholds, stats.beta(rank, count + 1 - rank).cdf).pvalue > 0.01
    assert stats.kstest(thresholds, stats.beta(rank + 1, count - rank).cdf).pvalue < 0.01


@cache
def fields(length, repetitions, size=256):
    rng = np.random.default_rng(11)
    found = [bench.one_field(length, size, rng)[1] for _ in range(repetitions)]
    return {method: bench.normal_coverage(np.array([thresholds[method] for thresholds in found])) for method in found[0]}


@pytest.mark.parametrize("length", [4, 12])
def test_one_field_keeps_its_promise_by_the_integral_range(length):
    """In fields of 256 x 256 pixels; the bench has 512 x 512."""
    repetitions = 150
    coverage = fields(length, repetitions)
    failure = np.mean(coverage["pac, integral range"] < 0.9)
    assert 0.05 - 2 * sqrt(0.05 * 0.95 / repetitions) <= failure <= allowed(0.13, repetitions)
    assert 0.35 < np.mean(coverage["pooled"] < 0.9) < 0.65


@pytest.mark.parametrize("length", [3, 6])
def test_a_small_field_keeps_its_promise_though_it_shows_little_of_its_dependence(length):
    """4 to 36 blocks of three correlation radii; taken for certain, what the fewest show of their dependence fails too often."""
    repetitions = 600
    coverage = fields(length, repetitions, 64)
    assert np.mean(coverage["pac, workflow"] < 0.9) <= allowed(0.11, repetitions)
    assert np.mean(coverage["pac, integral range"] < 0.9) > np.mean(coverage["pac, workflow"] < 0.9)
    assert coverage["pac, workflow"].mean() < 0.95


def test_blocks_three_correlation_radii_long_serve_as_units():
    repetitions = 150
    coverage = fields(4, repetitions)
    assert np.mean(coverage["pac, blocks"] < 0.9) <= allowed(0.12, repetitions)
    assert coverage["crc, blocks"].mean() >= 0.9 - 2 * standard_error(coverage["crc, blocks"])
