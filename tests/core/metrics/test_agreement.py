import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from behindthenoise.core.metrics.agreement import match_intensity, pearson, psnr, spearman


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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_the_rank_correlation_is_spearmans(pairs):
    a, b = np.array(pairs, np.float32).T
    if np.ptp(a) and np.ptp(b):
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    else:
        assert np.isnan(spearman(a, b))
