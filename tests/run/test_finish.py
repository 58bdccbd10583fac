import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from behindthenoise.core.tokens import TokenModel
from behindthenoise.run.finish import assigned, calibrated, mean_of_data

blocks = hnp.arrays(np.float32, (2, 4, 6), elements=st.one_of(st.floats(-100, 100, width=32), st.just(np.float32(np.nan))))


@given(blocks)
def test_a_coarse_voxel_is_the_mean_of_what_carries_data(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN is NaN, which is what is asked for
        expected = np.nanmean(values.astype(np.float64), axis=(1, 2))
    np.testing.assert_allclose(mean_of_data(values, axis=(1, 2)), expected, rtol=1e-5, atol=1e-5)


@given(
    hnp.arrays(np.float32, (3, 2, 5), elements=st.floats(-50, 50, width=32)),
    st.floats(-20, 20, width=32),
    st.sampled_from([None, 0.0]),
)
def test_a_finished_voxel_has_its_median_inside_its_interval(raw, threshold, least):
    lower, median, upper, width = calibrated(raw, [threshold, threshold], (least, None))[:4]
    assert (lower <= median).all()
    assert (median <= upper).all()
    np.testing.assert_array_equal(width, upper - lower)
    assert least is None or (lower >= least).all()


def test_masked_voxels_stay_masked():
    raw = np.zeros((3, 1, 4), np.float32)
    raw[:, :, 2] = np.nan
    assert np.isnan(calibrated(raw, [0.1], (0.0, None))[:, 2]).all()
    model = TokenModel(np.array([[0.0], [1.0]], np.float32))
    np.testing.assert_array_equal(assigned(np.array([[0.1, np.nan, 0.9]], np.float32), model), [1, 0, 2])
