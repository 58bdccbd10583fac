import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behindthenoise.core.sampling import CROP, FEWEST_CROPS, draw_crops, draw_sample, occupied, subsample

quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(0, 5), st.sampled_from([(2, 10, 12), (1, 5, 6, 7)]))
@quick
def test_the_sample_is_of_training_voxels_in_rising_order_each_once(seed, size, drawing, shape):
    trains = np.random.default_rng(seed).random(shape) < 0.5
    drawn = draw_sample(trains, size, drawing)
    assert len(drawn.voxels) <= size
    if trains.sum() <= size:
        np.testing.assert_array_equal(drawn.voxels, np.flatnonzero(trains))
    assert trains.reshape(-1)[drawn.voxels].all()
    assert (np.diff(drawn.voxels) > 0).all()
    image, *position = np.unravel_index(drawn.voxels[drawn.pairs], shape)
    apart = np.linalg.norm([axis[:, 0] - axis[:, 1] for axis in position], axis=0)
    assert (image[:, 0] == image[:, 1]).all()
    assert ((apart >= 2) & (apart <= 5)).all()
    for one, other in zip(vars(drawn).values(), vars(draw_sample(trains, size, drawing)).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_draws_another_sample():
    trains = np.ones((1, 30, 30), bool)
    assert set(draw_sample(trains, 100, 0).voxels) != set(draw_sample(trains, 100, 1).voxels)


def test_crowds_are_spread_over_all_training_voxels():
    trains = np.zeros((4, 100, 100), bool)
    trains[:, 20:80, 20:80] = True
    drawn = draw_sample(trains, 4000, 0)
    assert len(drawn.voxels) > 3000
    image, row, column = np.unravel_index(drawn.voxels, trains.shape)
    quarters = np.bincount(image * 4 + (row >= 50) * 2 + (column >= 50), minlength=16)
    assert quarters.min() > 0.5 * quarters.mean()
    assert len(drawn.pairs) > 20000


@given(st.integers(0, 2**31), st.sampled_from([(70, 33), (32, 100), (40, 33, 65)]))
@quick
def test_a_crop_is_occupied_where_it_holds_a_voxel_of_the_mask(seed, shape):
    random = np.random.default_rng(seed)
    mask = random.random(shape) < 10.0 ** random.uniform(-5, -1)
    expected = np.zeros([-(-size // CROP) for size in shape], bool)
    for voxel in np.argwhere(mask):
        expected[tuple(voxel // CROP)] = True
    np.testing.assert_array_equal(occupied(mask), expected)


@given(st.integers(0, 2**31), st.integers(1, 300_000), st.sampled_from([(30, 40), (9, 10, 11), (3, 2)]))
@quick
def test_crops_are_occupied_distinct_enough_and_all_over(seed, size, shape):
    grid = np.random.default_rng(seed).random(shape) < 0.8
    corners = draw_crops(grid, size, seed)
    np.testing.assert_array_equal(corners, draw_crops(grid, size, seed))
    assert (corners % CROP == 0).all()
    cells = corners // CROP
    assert grid[tuple(cells.T)].all()
    assert len(np.unique(cells, axis=0)) == len(cells)
    wanted = max(FEWEST_CROPS, 2 * size / CROP ** len(shape))
    assert len(cells) >= min(wanted, grid.sum())
    if len(cells) >= 64 and size < 10_000:
        first = (cells[:, 0] < shape[0] / 2).mean()
        assert 0.3 < first < 0.7


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 1, 1), (1, 3, 4, 5)])
@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("count", [0, 1])
def test_of_one_voxel_or_none_all_are_drawn_and_none_keeps_company(shape, size, count):
    trains = np.zeros(shape, bool)
    trains.ravel()[:count] = True
    drawn = draw_sample(trains, size, 0)
    np.testing.assert_array_equal(drawn.voxels, np.arange(count))
    assert drawn.pairs.shape == (0, 2)


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_sample_is_as_large_as_asked_for_and_without_repetition(size, limit):
    drawn = subsample(size, limit, np.random.default_rng(0))
    assert drawn.size == min(size, limit)
    assert (np.diff(drawn) > 0).all() and set(drawn) <= set(range(size))
