import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behindthenoise.core.sampling import draw_sample

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
