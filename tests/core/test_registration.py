"""Displacements of scans are found with an honest error, and none is found by chance."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from behindthenoise.core.registration import displacement

SHAPES = {2: (192, 256), 3: (48, 64, 128)}
KNOWN = {2: (1.4, -0.7), 3: (0.0, 2.0, -0.7)}


def scans(shape, noise, seed, *, by=None, images=1, channels=1):
    """A fast scan of unit contrast with so much noise, and a slow one that lies elsewhere."""
    random = np.random.default_rng(seed)
    slow = gaussian_filter(random.normal(size=(images, channels, *shape)), (0, 0, *[1.5] * len(shape)))
    slow = (slow / slow.std()).astype(np.float32)
    fast = slow + random.normal(0, noise, slow.shape).astype(np.float32)
    if by is not None:
        slow = np.array([[shift(channel, by, order=3, mode="nearest") for channel in image] for image in slow])
    return fast, slow, np.ones((images, *shape), bool)


def found(fast, slow, known, seed=0):
    return displacement(fast, slow, known, np.random.default_rng(seed))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_displacement_is_found_to_a_tenth_of_a_voxel(ndim):
    one = found(*scans(SHAPES[ndim], 2.0, 0, by=KNOWN[ndim]))
    np.testing.assert_allclose(one.voxels, KNOWN[ndim], atol=0.15)
    assert one.is_notable


def test_flat_volumes_and_images_alike():
    fast, slow, known = scans(SHAPES[2], 1.0, 1, by=KNOWN[2])
    flat = found(fast, slow, known)
    deep = found(fast[:, :, None], slow[:, :, None], known[:, None])
    np.testing.assert_allclose(deep.voxels, (0, *flat.voxels), atol=1e-4)
    np.testing.assert_allclose(deep.error, (0, *flat.error), atol=1e-4)


def test_scans_that_lie_on_each_other_are_hardly_ever_called_displaced():
    noisy = [found(*scans((128, 128), noise, seed), seed) for noise in (1.0, 4.0, 16.0, 64.0) for seed in range(50)]
    assert sum(one is not None and one.is_notable for one in noisy) <= 2
    assert sum(one is not None for one in noisy[:100]) == 100
    assert sum(one is None for one in noisy[150:]) > 45


def test_the_error_is_that_of_repeated_scans():
    many = [found(*scans((128, 256), 4.0, seed), seed) for seed in range(60)]
    spread, error = np.std([one.voxels for one in many]), np.sqrt(np.mean(np.square([one.error for one in many])))
    assert 0.6 * spread < error < 1.7 * spread


def test_what_is_not_known_may_hold_anything():
    fast, slow, known = scans((192, 256), 1.0, 2, by=(1.0, 0.0))
    known[0, 50:90, 30:140] = False
    clean = found(fast, slow, known)
    for array, value in ((fast, np.nan), (slow, 1e6)):
        array[0, 0, 50:90, 30:140] = value
    assert found(fast, slow, known) == clean
    np.testing.assert_allclose(clean.voxels, (1, 0), atol=0.1)


def test_holes_of_what_is_known_look_like_no_structure():
    fast, slow, known = scans((192, 256), 1.0, 5, by=(1.0, 0.0))
    known &= np.random.default_rng(5).random(known.shape) > 0.1
    np.testing.assert_allclose(found(fast + 50, slow + 50, known).voxels, (1, 0), atol=0.1)


def test_weak_channels_help_each_other():
    fast, slow, known = scans((128, 128), 8.0, 3, by=(0.0, 1.0), channels=8)
    alone, together = found(fast[:, :1], slow[:, :1], known), found(fast, slow, known)
    assert alone is None or max(alone.error) > 2 * max(together.error)
    np.testing.assert_allclose(together.voxels, (0, 1), atol=0.3)


@pytest.mark.parametrize(
    "case", ["few voxels", "constant", "nothing in common"], ids=["few voxels", "a constant scan", "scans with nothing in common"]
)
def test_nothing_is_said_where_nothing_can_be_told(case):
    fast, slow, known = scans((40, 40) if case == "few voxels" else (128, 128), 0.1, 4)
    if case == "constant":
        fast[...] = 7
    if case == "nothing in common":
        slow = slow[:, :, ::-1, ::-1].copy()
    one = found(fast, slow, known)
    assert one is None or not one.is_notable
