import itertools

from hypothesis import given
from hypothesis import strategies as st

from behindthenoise.core.pyramid import shapes_of_levels

shapes = st.lists(st.integers(1, 5000), min_size=2, max_size=3)


def test_an_axis_is_halved_until_it_is_short_and_short_axes_are_left_alone():
    assert shapes_of_levels([40, 65, 1000]) == [(40, 65, 1000), (40, 32, 500), (40, 32, 250), (40, 32, 125), (40, 32, 62)]


def test_a_small_image_has_one_level():
    assert shapes_of_levels((64, 64)) == [(64, 64)]


@given(shapes)
def test_the_last_level_alone_is_short_in_every_axis(shape):
    levels = shapes_of_levels(shape)
    assert levels[0] == tuple(shape)
    assert [max(level) <= 64 for level in levels] == [False] * (len(levels) - 1) + [True]


@given(shapes)
def test_every_coarse_voxel_has_whole_voxels_below_it(shape):
    levels = shapes_of_levels(shape)
    for fine, coarse in itertools.pairwise(levels):
        for before, after in zip(fine, coarse, strict=True):
            factor = 1 if before <= 64 else 2
            assert after >= 1
            assert factor * after <= before < factor * (after + 1)
