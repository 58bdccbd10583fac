from fractions import Fraction
from itertools import product
from math import hypot, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from behindthenoise.core.calibration import dependence
from behindthenoise.core.calibration.dependence import (
    NEGLIGIBLE,
    block_edge,
    equal_units,
    field_design,
    integral_range,
    unit_design,
)
from behindthenoise.errors import CalibrationError

TENTH = Fraction(1, 10)
shapes = st.sampled_from([(7,), (5, 6), (1, 6), (3, 2, 4)])


def slow_range(fields):
    """Integral range, radius and variance by a loop over all pairs of voxels."""
    valid_values = np.concatenate([miss[valid] for miss, valid in fields])
    mean, variance = valid_values.mean(), valid_values.var()
    sums, pairs, lags = {}, {}, {}
    for miss, valid in fields:
        seen = set()
        voxels = [index for index in product(*map(range, miss.shape)) if valid[index]]
        for one, other in product(voxels, voxels):
            lag = tuple(a - b for a, b in zip(one, other, strict=True))
            ring = round(hypot(*lag))
            sums[ring] = sums.get(ring, 0) + (miss[one] - mean) * (miss[other] - mean)
            pairs[ring] = pairs.get(ring, 0) + 1
            seen.add((ring, lag))
        for ring in {ring for ring, _ in seen}:
            lags[ring] = max(lags.get(ring, 0), sum(ring == other for other, _ in seen))
    total, radius = 0.0, 0
    while radius in sums and (correlation := sums[radius] / pairs[radius] / variance) >= NEGLIGIBLE:
        total += correlation * lags[radius]
        radius += 1
    return total, radius, variance


def everywhere(miss):
    return miss, np.ones(miss.shape, bool)


def smooth(shape, edge, random):
    """White noise averaged over cubes: its correlations sum to the voxels of a cube."""
    field = random.standard_normal([size + edge - 1 for size in shape])
    for axis in range(len(shape)):
        field = np.lib.stride_tricks.sliding_window_view(field, edge, axis=axis).mean(-1)
    return field


@settings(deadline=None)
@given(st.data(), shapes, st.integers(1, 2), st.sampled_from([1, 2, 3, dependence.REACH]))
def test_the_integral_range_is_what_all_pairs_of_voxels_give(data, shape, count, reach):
    """However far one looks at first."""
    fields = []
    for _ in range(count):
        miss = data.draw(arrays.arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.5, 1.0])))
        valid = data.draw(arrays.arrays(np.bool_, shape))
        fields.append((miss, valid))
    values = np.concatenate([miss[valid] for miss, valid in fields])
    if values.size and np.ptp(values) > 0:
        total, radius, variance = slow_range(fields)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dependence, "REACH", reach)
            found = integral_range(fields)
        assert found.radius == radius
        assert found.range_voxels == pytest.approx(total, abs=1e-9)
        assert found.variance == pytest.approx(variance)


def test_a_known_process_has_its_integral_range(random):
    for shape, edge in [((3000,), 5), ((400, 400), 1), ((400, 400), 5), ((60, 60, 60), 3)]:
        found = integral_range([everywhere(smooth(shape, edge, random))])
        assert found.range_voxels == pytest.approx(edge ** len(shape), rel=0.12)
        assert edge - 1 <= found.radius <= 1.5 * edge


def test_a_flat_volume_has_the_range_of_the_image(random):
    miss = smooth((40, 50), 4, random)
    valid = random.random(miss.shape) < 0.8
    np.testing.assert_allclose(integral_range([(miss[None], valid[None])]), integral_range([(miss, valid)]), rtol=1e-9)


def test_a_field_twice_is_worth_twice_as_much(random):
    field = everywhere(smooth((30, 40), 3, random))
    np.testing.assert_allclose(integral_range([field, field]), integral_range([field]), rtol=1e-9)
    once, twice = field_design([field], TENTH), field_design([field, field], TENTH)
    assert twice.effective_samples == pytest.approx(2 * once.effective_samples)
    assert twice.effect == pytest.approx(once.effect)


def test_fields_may_differ_in_size_and_what_is_masked_is_not_read(random):
    small, large = smooth((20, 20), 3, random), smooth((90, 70), 3, random)
    valid = np.zeros((90, 70), bool)
    valid[:40, 10:60] = True
    found = integral_range([everywhere(small), (np.where(valid, large, np.nan), valid)])
    cut = integral_range([everywhere(small), everywhere(large[:40, 10:60])])
    np.testing.assert_allclose(found, cut, rtol=1e-9)


def test_misses_that_do_not_vary_say_nothing_of_dependence():
    for value in (0.0, 0.1, 1.0):
        field = everywhere(np.full((30, 31), value))
        assert integral_range([field]) == (1.0, 0, 0.0)
        assert field_design([field], TENTH) == (inf, 0.0)


def test_independent_pixels_of_a_field_are_worth_their_number(random):
    miss = (random.random((500, 500)) < 0.1).astype(float)
    assert field_design([everywhere(miss)], TENTH).effective_samples == pytest.approx(miss.size, rel=0.03)


def test_scans_that_share_nothing_but_the_field_are_worth_their_number(random):
    miss = (random.random((4, 300, 300)) < 0.1).mean(0)
    assert field_design([everywhere(miss)], TENTH).effective_samples == pytest.approx(4 * miss.size, rel=0.05)


def test_a_field_of_no_valid_voxel_is_refused():
    with pytest.raises(CalibrationError, match="1 fields hold no valid voxel"):
        integral_range([(np.zeros((3, 3)), np.zeros((3, 3), bool))])
    with pytest.raises(CalibrationError, match="0 fields hold no valid voxel"):
        field_design([], TENTH)


def test_blocks_are_three_times_as_long_as_the_correlation():
    assert [block_edge(radius) for radius in (0, 1, 2, 3, 7, 20)] == [8, 8, 8, 9, 21, 60]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(20, 40)), min_size=2, max_size=12))
def test_effective_samples_follow_the_variance_between_units(units):
    misses, sizes = np.array(units).T
    total, mean_size = Fraction(int(sizes.sum())), Fraction(int(sizes.sum()), len(units))
    mean = int(misses.sum()) / total
    variance = sum((size / mean_size * (Fraction(missed, size) - mean)) ** 2 for missed, size in units) / (len(units) - 1)
    expected = min(len(units) * TENTH * (1 - TENTH) / variance, total) if variance else total
    found = unit_design(misses, sizes, TENTH)
    assert found.effective_samples == pytest.approx(float(expected))
    assert found.effect == pytest.approx(float(total / expected))


def test_independent_pixels_in_units_are_worth_their_number(random):
    sizes = random.integers(300, 900, size=4000)
    found = unit_design(random.binomial(sizes, 0.1), sizes, TENTH)
    assert found.effective_samples == pytest.approx(sizes.sum(), rel=0.08)


def test_units_that_are_wholly_missed_or_not_at_all_are_worth_one_pixel_each():
    sizes, missed = np.full(100, 64), np.arange(100) < 10
    assert unit_design(64 * missed, sizes, TENTH).effective_samples == pytest.approx(99)


def test_units_alike_are_worth_all_their_pixels_and_no_more():
    for misses in (0, 1, 5):
        assert unit_design(np.full(6, misses), np.full(6, 10), TENTH) == (60, 1)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.integers(1, 9))
def test_units_of_different_size_count_as_fewer_equal_ones(sizes, factor):
    found = equal_units(np.array(sizes))
    assert 1 - 1e-9 <= found <= len(sizes) + 1e-9
    assert equal_units(np.array(sizes) * factor) == pytest.approx(found)
    assert equal_units(np.full(len(sizes), sizes[0])) == pytest.approx(len(sizes))
    assert equal_units(np.array([*sizes, 10**14])) == pytest.approx(1, abs=0.01)
