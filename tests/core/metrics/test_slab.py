import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behindthenoise.core.metrics.slab import worst_slab


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


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
