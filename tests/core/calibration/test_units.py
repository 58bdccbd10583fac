"""What counts as one sample: every voxel is in one unit, and no unit is in two images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from behindthenoise.core.calibration.units import ENOUGH_IMAGES, Units, blocks_with, box_around, kind_of


@st.composite
def layouts(draw):
    """Shape of the images, a box of calibration voxels for each (or none, but for one at least), and an edge of blocks."""
    shape = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))

    def box():
        spans = [sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(1, size)))) for size in shape]
        return tuple(slice(start, max(stop, start + 1)) for start, stop in spans)

    boxes = [draw(st.sampled_from([None, box()])) for _ in range(draw(st.integers(0, 3)))]
    boxes.insert(draw(st.integers(0, len(boxes))), box())
    return shape, boxes, draw(st.integers(1, 6))


def positions(box):
    return np.stack([axis.ravel() for axis in np.mgrid[box]])


@given(layouts(), st.sampled_from(["image", "block"]))
def test_units_of_different_images_are_different(layout, kind):
    _, boxes, edge = layout
    units = Units.of(kind, edge, boxes)
    found = [set(units.ids(image, positions(box)).tolist()) for image, box in enumerate(boxes) if box is not None]
    assert sum(len(ids) for ids in found) == len(set().union(*found))


@given(st.data(), st.sampled_from([(9,), (5, 8), (3, 4, 5)]), st.integers(1, 6))
def test_blocks_that_hold_something_are_the_units_of_their_voxels(data, shape, edge):
    """Of blocks inside the box, those that other roles have do not count."""
    chosen = data.draw(arrays.arrays(np.bool_, shape))
    expected = 0
    if (box := box_around(chosen)) is not None:
        expected = len(set(Units.of("block", edge, [box]).ids(0, np.stack(np.nonzero(chosen))).tolist()))
    assert blocks_with(chosen, edge) == expected


@given(layouts())
def test_blocks_are_counted_from_the_corner_of_the_box(layout):
    """Oracle: the block of each voxel by whole numbers of edges from the corner, one voxel after another."""
    _, boxes, edge = layout
    units = Units.of("block", edge, boxes)
    for image, box in enumerate(boxes):
        if box is None:
            continue
        voxels = positions(box)
        found = units.ids(image, voxels).tolist()
        blocks = [tuple((int(at) - part.start) // edge for at, part in zip(voxel, box, strict=True)) for voxel in voxels.T]
        # the same id for the same block, another one for another
        assert len(set(zip(found, blocks, strict=True))) == len(set(found)) == len(set(blocks))
        most = max(np.unique(found, return_counts=True)[1])
        assert most <= edge ** len(box)
        assert min(len(set(found)), len(found)) == np.prod([-(-(part.stop - part.start) // edge) for part in box])


@given(layouts())
def test_images_are_units_with_the_number_of_the_image(layout):
    _, boxes, edge = layout
    units = Units.of("image", edge, boxes)
    for image, box in enumerate(boxes):
        if box is not None:
            assert set(units.ids(image, positions(box)).tolist()) == {image}


@given(layouts(), st.sampled_from(["image", "block"]))
def test_voxels_beyond_the_box_have_a_unit_of_their_own_image_too(layout, kind):
    shape, boxes, edge = layout
    units = Units.of(kind, edge, boxes)
    whole = positions(tuple(slice(0, size) for size in shape))
    found = [units.ids(image, whole) for image in range(len(boxes))]
    assert all(ids.shape == (whole.shape[1],) and (ids >= 0).all() for ids in found)
    assert sum(np.unique(ids).size for ids in found) == np.unique(np.concatenate(found)).size


def test_a_gap_before_the_box_cuts_no_block():
    """From the image's corner, blocks of 8 would begin at 0 and 8, and cut the 16 calibration voxels in three."""
    units = Units.of("block", 8, [(slice(5, 21),)])
    assert np.unique(units.ids(0, np.arange(5, 21)[None]), return_counts=True)[1].tolist() == [8, 8]


def test_an_image_without_calibration_voxels_takes_no_ids_from_the_others():
    units = Units.of("block", 4, [None, (slice(0, 8), slice(2, 6)), None, (slice(4, 8), slice(0, 4))])
    assert units.grid == (2, 1)
    first, second = (units.ids(image, positions(box)) for image, box in ((1, np.s_[0:8, 2:6]), (3, np.s_[4:8, 0:4])))
    assert np.unique(first).size == 2
    assert np.unique(second).size == 1
    assert not set(first.tolist()) & set(second.tolist())


@pytest.mark.parametrize(("images", "expected"), [(1, "block"), (ENOUGH_IMAGES - 1, "block"), (ENOUGH_IMAGES, "image")])
def test_images_are_units_where_there_are_five(images, expected):
    assert kind_of(images, "auto") == expected
    assert kind_of(images, "image") == "image"
    assert kind_of(images, "block") == "block"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**31), st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_a_box_holds_all_that_is_chosen_and_no_smaller_one_does(shape, seed, share):
    chosen = np.random.default_rng(seed).random(shape) < share
    box = box_around(chosen)
    if box is None:
        assert not chosen.any()
        return
    assert chosen[box].sum() == chosen.sum()
    for axis in range(chosen.ndim):
        faces = np.moveaxis(chosen[box], axis, 0)
        assert faces[0].any()
        assert faces[-1].any()
