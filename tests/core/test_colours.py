import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from behindthenoise.core.colours import FalseColours, mean_colour

colours = hnp.arrays(np.uint8, (3, 4, 6), elements=st.integers(1, 255))


def shown(components, seed=0, size=5000):
    """Scales of a sample whose components are normal with a spread of 1, 2, ..."""
    sample = np.random.default_rng(seed).normal(size=(size, components)) * np.arange(1, components + 1)
    return FalseColours.of_sample(sample.astype(np.float16), np.full(components, 0.1))


def test_the_ends_of_a_scale_leave_out_half_a_percent_of_the_sample_at_either_end():
    found = shown(5)
    assert len(found.low) == len(found.high) == len(found.explained) == 3
    np.testing.assert_allclose(found.high, 2.576 * np.arange(1, 4), rtol=0.1)
    np.testing.assert_allclose(found.low, -found.high, rtol=0.1)


@pytest.mark.parametrize("shape", [(7, 9), (4, 5, 6)], ids=["2d", "3d"])
@pytest.mark.parametrize("components", [1, 2, 3, 8])
def test_a_voxel_has_its_place_between_the_ends_as_a_colour_and_none_where_masked(shape, components):
    random, scales = np.random.default_rng(1), shown(components)
    embedding = (5 * random.normal(size=(components, *shape))).astype(np.float16)
    masked = random.random(shape) < 0.3
    embedding[:, masked] = np.nan
    found = scales.of(embedding)
    assert found.shape == (3, *shape)
    assert (found[:, masked] == 0).all()
    for component in range(3):
        values = found[component][~masked]
        if component >= components:
            assert (values == 128).all()
            continue
        low, high = float(scales.low[component]), float(scales.high[component])
        given_values = embedding[component][~masked].astype(np.float64)
        expected = 1 + 254 * np.clip((given_values - low) / (high - low), 0, 1)
        assert np.abs(values - expected).max() <= 0.51
        assert values.min() == 1 and values.max() == 255


def test_colours_do_not_depend_on_what_else_is_in_the_volume():
    scales = shown(3)
    embedding = np.random.default_rng(2).normal(size=(3, 20, 20)).astype(np.float16)
    np.testing.assert_array_equal(scales.of(embedding)[:, :5, 7:], scales.of(embedding[:, :5, 7:]))


def test_a_component_that_does_not_vary_stands_in_the_middle():
    sample = np.random.default_rng(0).normal(size=(1000, 2))
    sample[:, 1] = 4
    found = FalseColours.of_sample(sample, np.ones(2)).of(sample.T[:, :, None])
    assert (found[1:] == 128).all() and len(np.unique(found[0])) > 100


@given(colours, hnp.arrays(bool, (4, 6)))
def test_a_coarse_colour_is_the_mean_of_the_voxels_that_carry_data(values, masked):
    values = np.where(masked, 0, values).astype(np.uint8)
    found = mean_colour(values, axis=(1, 2))
    assert found.dtype == np.uint8
    kept = values[:, ~masked].astype(np.float64)
    np.testing.assert_allclose(found, kept.mean(axis=1) if kept.size else 0, atol=0.51)
    assert (found > 0).all() == bool((~masked).any())
