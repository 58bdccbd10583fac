import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from behindthenoise.core.clustering import fit_tree
from behindthenoise.core.colours import FalseColours, mean_colour, token_colours
from behindthenoise.core.palette import PALETTE, colour, rgba

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


def test_as_many_colours_as_a_byte_can_number_are_distinct_opaque_and_neither_white_nor_black():
    found = [colour(place) for place in range(255)]
    assert len(set(found)) == 255
    assert not {"#ffffff", "#000000"} & set(found)
    assert rgba("#e69f00") == (230, 159, 0, 255)
    assert ["#{:02x}{:02x}{:02x}".format(*rgba(one)[:3]) for one in found] == found


@given(st.integers(0, 2**31), st.integers(2, 12))
@settings(deadline=None, max_examples=20)
def test_a_token_keeps_the_colour_of_its_largest_finest_one_at_every_count(seed, finest):
    random = np.random.default_rng(seed)
    points = random.normal(size=(200, 3)).astype(np.float32)
    tree = fit_tree(points, random.integers(200, size=(400, 2)), random.normal(size=200), finest, seed=0)
    own = token_colours(tree, finest)
    for count in range(1, finest + 1):
        found = token_colours(tree, count)
        # few tokens have the colours that are told apart best
        assert set(found) == set(PALETTE[:count])
        for token, shown in enumerate(found, start=1):
            parts = np.flatnonzero(tree.levels[count - 1] == token)
            assert shown == own[parts[np.argmax(tree.sizes[parts])]]
        if count > 1:
            coarse, kept = token_colours(tree, count - 1), 0
            for shown, row in zip(coarse, range(1, count), strict=True):
                inside = {found[index - 1] for index in tree.levels[count - 1][tree.levels[count - 2] == row]}
                kept += shown in inside
            assert kept == count - 1, "a token that splits leaves its colour to the larger part"


# what protanopes and deuteranopes see of linear red, green and blue: Machado, Oliveira & Fernandes (2009), severity 1
SEEN = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@pytest.mark.parametrize("vision", SEEN)
def test_a_dozen_tokens_are_told_apart_whatever_colours_one_sees(vision):
    """Distances in OKLab; 0.02 is about what is just noticed."""
    stored = np.array([rgba(colour(place))[:3] for place in range(12)]) / 255
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(np.clip(linear @ np.transpose(SEEN[vision]), 0, 1) @ TO_LMS.T) @ TO_LAB.T
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)[~np.eye(12, dtype=bool)]
    assert apart.min() > 0.06
