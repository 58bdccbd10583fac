from itertools import product

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from behindthenoise.core.patches import cut
from behindthenoise.core.windows import Grid

quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def axes(draw):
    """Size of an axis, patch and border as `cut` would use them."""
    patch = draw(st.integers(4, 70))
    return draw(st.integers(1, 400)), patch, draw(st.integers(0, patch // 4))


@st.composite
def fields(draw):
    """Small fields: shape, number of images and scans, patch, border."""
    ndim = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, {2: 26, 3: 13}[ndim])] * ndim))
    return shape, draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(4, 9)), draw(st.integers(0, 4))


def starts(grid):
    return [index * grid.step for index in range(grid.count)]


def windows(shape, patch, border):
    """Where each patch of an image begins, in C order, and the patches' shape."""
    grids = [Grid.covering(size, patch, min(border, patch // 4)) for size in shape]
    return list(product(*map(starts, grids))), tuple(grid.window for grid in grids)


def slow_weight(corner, window, shape, border, border_weight):
    """Voxel by voxel: the frame counts `border_weight`, except where the patch ends because the image ends."""
    weight = np.ones(window, np.float32)
    for voxel in np.ndindex(*window):
        for place, start, width, size in zip(voxel, corner, window, shape, strict=True):
            frame = min(border, (width - 1) // 2)
            low = place < frame and start > 0
            high = place >= width - frame and start + width < size
            if low or high:
                weight[voxel] = border_weight
    return weight


def coordinates(images, scans, shape):
    """Arrays whose values tell where they come from; the second channel of the noisy scans is the number of the scan."""
    place = np.arange(images * int(np.prod(shape)), dtype=np.float32).reshape(images, *shape)
    scan = np.broadcast_to(np.arange(scans, dtype=np.float32).reshape(1, scans, *[1] * len(shape)), (images, scans, *shape))
    noisy = np.stack([np.broadcast_to(place[:, None], scan.shape), scan], axis=2)
    return noisy, place[:, None].copy()


@given(axes())
@example((1041, 64, 16))
@settings(deadline=None, max_examples=300)
def test_windows_begin_and_end_with_the_axis(axis):
    size, patch, border = axis
    grid = Grid.covering(size, patch, border)
    assert starts(grid)[0] == 0
    assert starts(grid)[-1] + grid.window == size
    assert grid.step > 0 or grid.count == 1


@given(axes())
@example((4063, 64, 12))  # steps of 39 voxels would leave 99 over
@example((4095, 32, 8))
@settings(deadline=None, max_examples=300)
def test_a_window_is_the_patch_or_at_most_a_quarter_wider(axis):
    size, patch, border = axis
    window = Grid.covering(size, patch, border).window
    assert min(patch, size) <= window <= patch + patch // 4


@given(axes())
@settings(deadline=None, max_examples=300)
def test_every_voxel_is_inside_some_window_or_in_the_frame_at_the_end_of_the_axis(axis):
    size, patch, border = axis
    grid = Grid.covering(size, patch, border)
    inside = np.zeros(size, bool)
    for start in starts(grid):
        low = 0 if start == 0 else border
        high = 0 if start + grid.window == size else border
        inside[start + low : start + grid.window - high] = True
    assert inside.all()


@given(fields(), st.floats(0.01, 1))
@example(((40, 9), 1, 1, 8, 2), 0.25)
@quick
def test_weights_are_those_of_the_frame_except_at_the_ends_of_the_image(field, border_weight):
    shape, images, _, patch, border = field
    noisy, clean = coordinates(images, 1, shape)
    cuts = cut(noisy, clean, np.ones((images, *shape), bool), patch=patch, border=border, border_weight=border_weight)
    corners, window = windows(shape, patch, border)
    expected = [slow_weight(corner, window, shape, min(border, patch // 4), border_weight) for corner in corners]
    np.testing.assert_allclose(cuts.weight[:, 0], np.stack(expected * images), rtol=1e-6)


@given(fields(), st.integers(0, 2**31))
@quick
def test_weights_are_zero_where_nothing_counts_and_patches_without_a_counting_voxel_are_dropped(field, seed):
    shape, images, scans, patch, border = field
    random = np.random.default_rng(seed)
    counts = random.random((images, *shape)) < random.choice([0.02, 0.5])
    noisy, clean = coordinates(images, scans, shape)
    cuts = cut(noisy, clean, counts, patch=patch, border=border, border_weight=0.5)
    corners, window = windows(shape, patch, border)
    kept = []
    for image, corner in product(range(images), corners):
        where = tuple(slice(start, start + width) for start, width in zip(corner, window, strict=True))
        if counts[image][where].any():
            weight = slow_weight(corner, window, shape, min(border, patch // 4), 0.5)
            kept.append((clean[image, 0][where], np.where(counts[image][where], weight, 0)))
    assert len(cuts.clean) == len(cuts.weight) == len(kept)
    assert len(cuts.noisy) == len(cuts.pairs) == scans * len(kept)
    for index, (values, weight) in enumerate(kept):
        np.testing.assert_array_equal(cuts.clean[index, 0], values)
        np.testing.assert_allclose(cuts.weight[index, 0], weight, rtol=1e-6)


@given(fields())
@quick
def test_each_pair_is_one_place_in_one_image_and_every_scan_is_paired(field):
    shape, images, scans, patch, border = field
    noisy, clean = coordinates(images, scans, shape)
    cuts = cut(noisy, clean, np.ones((images, *shape), bool), patch=patch, border=border, border_weight=0.1)
    seen = set()
    for example_noisy, example_clean in cuts.pairs.tolist():
        np.testing.assert_array_equal(cuts.noisy[example_noisy, 0], cuts.clean[example_clean, 0])
        seen.add((float(cuts.clean[example_clean].flatten()[0]), float(cuts.noisy[example_noisy, 1].flatten()[0])))
        assert len(cuts.noisy[example_noisy, 1].unique()) == 1, "one scan alone"
    corners, _ = windows(shape, patch, border)
    places = [np.ravel_multi_index((image, *corner), (images, *shape)) for image, corner in product(range(images), corners)]
    assert seen == {(float(place), float(scan)) for place, scan in product(places, range(scans))}
    assert len(cuts.pairs) == len(seen)


def test_a_frame_of_no_weight_keeps_no_patch():
    noisy, clean = coordinates(1, 1, (40, 40))
    counts = np.zeros((1, 40, 40), bool)
    counts[0, 10, 10] = True
    weighted, weightless = (
        cut(noisy, clean, counts, patch=16, border=4, border_weight=border_weight) for border_weight in (0.1, 0.0)
    )
    assert len(weighted.clean) == 4, "windows begin every 8 voxels: the voxel is inside one patch and in the frame of three"
    assert len(weightless.clean) == weightless.weight.sum() == 1
