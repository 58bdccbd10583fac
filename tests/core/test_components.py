import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from behindthenoise.core import components


def masks(rows=12, columns=12):
    return st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((rows, columns)) < 0.55)


def enclosed(ring):
    rows, columns = np.array(ring, float).T
    return np.sum(columns[:-1] * rows[1:] - columns[1:] * rows[:-1]) / 2


def test_classes_that_touch_stay_apart():
    labels, kinds = components.labelled(np.array([[1, 1, 2], [0, 2, 2], [1, 0, 1]]))
    assert labels.tolist() == [[1, 1, 4], [0, 4, 4], [2, 0, 3]]
    assert kinds.tolist() == [1, 1, 1, 2]


def test_only_components_of_one_class_join_across_a_border():
    one, other = np.array([1, 1, 0, 2]), np.array([2, 3, 3, 2])
    classes = np.array([5, 5, 0, 7]), np.array([5, 7, 7, 7])
    assert components.touching((one, classes[0]), (other, classes[1])).tolist() == [[1, 2], [2, 2]]


def test_chains_of_joined_labels_share_one_number():
    numbers = components.joined(5, [np.array([[1, 4]]), np.array([[4, 2]])])
    assert numbers[0] == 0
    assert numbers[1] == numbers[2] == numbers[4]
    assert len(set(numbers.tolist())) == 4


@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 4)], ids=["2d", "3d"])
def test_sums_over_blocks_are_those_over_the_whole(shape):
    random = np.random.default_rng(3)
    labels, quantity = random.integers(0, 6, shape), random.normal(size=(1, *shape))
    found = components.Sums.empty(5, len(shape), 1)
    for start in range(0, shape[0], 4):
        block = slice(start, start + 4)
        found.add(labels[block], quantity[:, block], (start, *[0] * (len(shape) - 1)))
    for label in range(1, 6):
        where = np.argwhere(labels == label)
        assert found.voxels[label - 1] == len(where)
        np.testing.assert_array_equal(found.first[label - 1], where.min(axis=0))
        np.testing.assert_array_equal(found.last[label - 1], where.max(axis=0))
        np.testing.assert_allclose(found.position[label - 1], where.sum(axis=0))
        chosen = quantity[0][labels == label]
        np.testing.assert_allclose(
            [found.values[label - 1, 0], found.least[label - 1, 0], found.largest[label - 1, 0]],
            [chosen.sum(), chosen.min(), chosen.max()],
        )


def test_a_pixel_has_one_ring_of_four_corners():
    assert components.outline(np.ones((1, 1), bool)) == [[(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]]


def test_many_holes_are_a_ring_each_and_no_worse_than_as_many_masks():
    mask = np.ones((400, 400), bool)
    mask[1:-1:3, 1:-1:3] = False
    assert len(components.outline(mask)) == 1 + (~mask).sum()


def test_a_hole_is_a_second_ring():
    mask = np.ones((3, 4), bool)
    mask[1, 1:3] = False
    outer, hole = components.outline(mask)
    assert enclosed(outer) == 12
    assert enclosed(hole) == -2
    assert len(hole) == 5


@settings(max_examples=60, deadline=None)
@given(masks())
def test_rings_enclose_as_many_pixels_as_there_are_and_only_the_first_is_outer(mask):
    labels, count = ndimage.label(mask)
    for label in range(1, count + 1):
        rings = components.outline(labels == label)
        areas = [enclosed(ring) for ring in rings]
        assert sum(areas) == (labels == label).sum()
        assert areas[0] > 0 and all(area < 0 for area in areas[1:])
        for ring in rings:
            assert ring[0] == ring[-1]
            steps = np.diff(ring, axis=0)
            assert ((steps == 0).sum(axis=1) == 1).all()
