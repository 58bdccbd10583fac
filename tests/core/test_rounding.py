import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from behindthenoise.core.rounding import rounded

TINY = float(np.finfo(np.float32).tiny)
floats = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, max_value=2.0**126, min_value=-(2.0**126)))
errors = st.floats(1e-6, 0.09)


@given(floats, errors)
@example(np.array([1, -1, 0, 3e-39, np.inf, -np.inf, np.nan], np.float32), 1e-3)
def test_the_error_is_at_most_what_is_allowed_and_on_the_right_side(values, error):
    down, nearest, up = (rounded(values, error, way) for way in ("down", "nearest", "up"))
    whole = np.isfinite(values)
    for found in (down, nearest, up):
        np.testing.assert_array_equal(found[~whole], values[~whole])
        exact = values[whole].astype(np.float64)
        assert (np.abs(found[whole] - exact) <= error * np.abs(exact)).all()
    assert (down[whole] <= values[whole]).all()
    assert (values[whole] <= up[whole]).all()
    assert (down[whole] <= nearest[whole]).all()
    assert (nearest[whole] <= up[whole]).all()


@given(floats, errors, st.sampled_from(["down", "nearest", "up"]))
def test_order_is_kept_and_rounding_again_changes_nothing(values, error, way):
    # what is smaller than the smallest normal number is not rounded at all
    ordered = np.sort(values[np.abs(values) >= TINY])
    found = rounded(ordered, error, way)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(rounded(found, error, way), found)


def test_few_bits_are_left():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    found = rounded(values, 1e-3, "nearest").view(np.int32)
    assert (found & 0x1FFF == 0).all()
    assert np.unique(found).size > 5000


def test_no_error_is_no_change():
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert rounded(values, 0.0, "down") is values
    assert rounded(values, 1e-9, "up") is values
