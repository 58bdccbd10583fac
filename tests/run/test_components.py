import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from behindthenoise.run.components import connected, measure


def whole(classes):
    """Components of an array in memory, numbered by their first voxel."""
    found, count = np.zeros(classes.shape, int), 0
    for kind in np.unique(classes[classes != 0]):
        part, more = ndimage.label(classes == kind)
        found += np.where(part, part + count, 0)
        count += more
    _, first, place = np.unique(found, return_index=True, return_inverse=True)
    order = np.zeros(first.size, int)
    inside = np.flatnonzero(np.unique(found))
    order[inside[np.argsort(first[inside])]] = np.arange(1, inside.size + 1)
    return order[place].reshape(classes.shape), count


def cut(shape, edges):
    return zarr.create_array({}, shape=shape, chunks=edges, dtype="uint32")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([((13, 17), (5, 4)), ((13, 17), (13, 3)), ((6, 9, 7), (4, 3, 2))]),
    st.sampled_from([0.2, 0.5, 0.7]),
)
def test_components_and_their_numbers_do_not_depend_on_the_files(seed, cutting, share):
    (shape, edges), random = cutting, np.random.default_rng(seed)
    classes = random.choice(3, shape, p=[1 - share, share / 2, share / 2]).astype(np.uint8)
    expected, count = whole(classes)
    labels = cut(shape, edges)
    assert connected(classes, labels) == count
    np.testing.assert_array_equal(labels[...], expected)


def test_components_that_are_too_small_are_left_out_and_the_others_numbered_without_gaps():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[2:4, 3:6] = mask[7] = True
    labels = cut((8, 8), (4, 4))
    assert connected(da.from_array(mask, chunks=3), labels, smallest=6) == 2
    assert labels[0, 0] == 0 and labels[2, 3] == labels[3, 5] == 1 and labels[7, 0] == labels[7, 7] == 2


@pytest.mark.parametrize("edges", [(12, 12), (5, 7)])
def test_what_is_measured_does_not_depend_on_the_files(edges):
    random = np.random.default_rng(5)
    mask, values = random.random((12, 12)) < 0.5, random.normal(size=(12, 12))
    values[~mask] = np.nan
    labels = cut((12, 12), edges)
    count = connected(mask, labels)
    sums, names = measure(labels, count, {"value": da.from_array(values, chunks=4)})
    assert names == ["value"]
    np.testing.assert_allclose(sums.values[:, 0], ndimage.sum_labels(values, labels[...], range(1, count + 1)))
    np.testing.assert_array_equal(sums.voxels, np.bincount(labels[...].ravel())[1:])


def test_components_can_be_measured_without_any_quantity():
    labels = cut((4, 4), (2, 2))
    sums, _ = measure(labels, connected(np.eye(4, dtype=np.uint8), labels), {})
    assert sums.voxels.tolist() == [1, 1, 1, 1]
