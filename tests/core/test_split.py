import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from behindthenoise.config import SplitConfig
from behindthenoise.core.split import (
    CALIBRATION,
    TEST,
    TRAIN,
    UNUSED,
    Split,
    check_no_leak,
    shown_plane,
    split,
    training_units,
    units_of,
)
from behindthenoise.errors import SplitError

REGIONS = {"train": {"x": (0.0, 0.5)}, "calibration": {"x": (0.5, 0.8)}, "test": {"x": (0.8, 1.0)}}
BY_REGION = {"by": "region", "regions": REGIONS}

small = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
shapes = st.one_of(
    st.tuples(st.integers(1, 2), st.integers(1, 14), st.integers(10, 36)),
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6), st.integers(10, 22)),
)
settings_of_split = st.one_of(
    st.builds(SplitConfig, by=st.just("block"), block=st.integers(4, 9), seed=st.integers(0, 99)),
    st.builds(SplitConfig, block=st.integers(4, 9), **{key: st.just(value) for key, value in BY_REGION.items()}),
)


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def ndim(request):
    return request.param


def chebyshev(shape):
    """Largest difference of coordinates of every two voxels; endless between images."""
    where = np.indices(shape).reshape(len(shape), -1)
    distance = np.abs(where[1:, :, None] - where[1:, None, :]).max(axis=0)
    return np.where(where[0][:, None] == where[0][None, :], distance, 10**6)


def eroded(territory, gap):
    """Slow, obvious: a voxel is kept if no voxel of an earlier role is within the gap."""
    distance, flat = chebyshev(territory.shape), territory.ravel()
    kept = np.where(flat == TRAIN, TRAIN, UNUSED)
    for role in (CALIBRATION, TEST):
        nearest = np.where(kept != UNUSED, distance, 10**6).min(axis=1)
        kept = np.where((flat == role) & (nearest - 1 >= gap), role, kept)
    return kept.reshape(territory.shape)


@small
@example((2, 20, 28), SplitConfig(block=7), 2, 0, 0.6)
@example((1, 5, 14, 14), SplitConfig(block=7), 1, 0, 0.9)
@given(shapes, settings_of_split, st.sampled_from([0, 1, 1, 2, 2, 3, 6]), st.integers(0, 99), st.sampled_from([0.1, 0.6, 0.9, 1.0]))
def test_split_keeps_what_a_brute_force_search_of_distances_keeps(shape, config, gap, seed, density):
    corners = (slice(None), *(slice(None, None, config.block) for _ in shape[1:]))
    mask = np.random.default_rng(seed).random(shape) < density
    mask[corners] = True  # every block holds data, so that the drawing of blocks is that of the full mask
    try:
        territory = split(config, np.ones(shape, bool), 0).role
    except SplitError:
        blocks = np.prod([shape[0], *(-(-size // config.block) for size in shape[1:])])
        assert (config.by, blocks < 3) == ("block", True)
        return
    expected = np.where(mask, eroded(territory, gap), UNUSED)
    if not {TRAIN, CALIBRATION, TEST} <= set(expected.ravel()):
        with pytest.raises(SplitError, match=r"voxels are left after a gap of|holds no voxel with data"):
            split(config, mask, gap)
        return
    found = split(config, mask, gap)
    np.testing.assert_array_equal(found.role, expected)
    np.testing.assert_array_equal(found.unit == -1, found.role == UNUSED)
    assert ((found.role == TRAIN) == ((territory == TRAIN) & mask)).all()
    check_no_leak(found, gap)


@small
@given(shapes, st.integers(0, 6), st.integers(0, 99), st.floats(0.01, 0.1))
def test_the_leak_check_fails_exactly_where_two_roles_are_closer_than_the_gap(shape, gap, seed, density):
    rng = np.random.default_rng(seed)
    role = np.where(rng.random(shape) < density, rng.integers(1, 4, shape), 0).astype(np.uint8)
    made = Split(role=role, unit=role.astype(np.int32) - 1)
    flat = role.ravel()
    differ = (flat[:, None] != flat[None, :]) & (flat[:, None] != UNUSED) & (flat[None, :] != UNUSED)
    between = np.where(differ, chebyshev(shape), 10**6).min() - 1
    if between < gap:
        with pytest.raises(SplitError, match=rf"leak: \d+ voxels lie between them in image \d, but the gap is {gap}"):
            check_no_leak(made, gap)
    else:
        check_no_leak(made, gap)


def test_the_leak_check_finds_a_unit_with_two_roles():
    role = np.array([[[TRAIN, UNUSED, TEST]]], np.uint8)
    with pytest.raises(SplitError, match="unit 5 carries two roles"):
        check_no_leak(Split(role=role, unit=np.array([[[5, -1, 5]]], np.int32)), 1)


@pytest.mark.parametrize("by", [{"by": "image"}, {"by": "block"}, BY_REGION], ids=["image", "block", "region"])
def test_a_flat_volume_is_split_like_an_image(by):
    config = SplitConfig(block=8, **by)
    mask = np.random.default_rng(0).random((4, 30, 45)) < 0.7
    flat, volume = split(config, mask, 2), split(config, mask[:, None], 2)
    np.testing.assert_array_equal(volume.role[:, 0], flat.role)
    np.testing.assert_array_equal(volume.unit[:, 0], flat.unit)


@given(st.integers(3, 40), st.sampled_from([(0.5, 0.25, 0.25), (0.9, 0.05, 0.05), (0.05, 0.05, 0.9), (0.1, 0.1, 0.1)]))
def test_images_are_shared_whole_as_asked_and_every_role_gets_one(images, shares):
    train, calibration, test = shares
    config = SplitConfig(by="image", train=train, calibration=calibration, test=test)
    found = split(config, np.ones((images, 2, 3), bool), 99)
    assert (found.role == found.role[:, :1, :1]).all()
    assert (
        found.unit[found.role != UNUSED] == np.broadcast_to(np.arange(images)[:, None, None], (images, 2, 3))[found.role != 0]
    ).all()
    for role, share in zip((TRAIN, CALIBRATION, TEST), shares, strict=True):
        count = units_of(found, role).size
        assert count >= 1
        assert abs(count - share * images) <= 2  # one by rounding, one given to or taken from a role without any


def test_shares_of_the_images_are_those_of_the_defaults():
    found = split(SplitConfig(by="image"), np.ones((96, 2, 2), bool), 0)
    assert [units_of(found, role).size for role in (TRAIN, CALIBRATION, TEST)] == [48, 24, 24]


def test_images_and_blocks_without_data_get_no_role():
    mask = np.ones((5, 4, 8), bool)
    mask[[1, 3]] = False
    for config in (SplitConfig(by="image"), SplitConfig(by="block", block=8)):
        found = split(config, mask, 0)
        assert [units_of(found, role).size for role in (TRAIN, CALIBRATION, TEST)] == [1, 1, 1]
        assert (found.unit[[1, 3]] == -1).all()


def test_the_seed_decides_the_drawing():
    mask = np.ones((1, 80, 80), bool)
    first, again, other = (split(SplitConfig(block=8, seed=seed), mask, 0).role for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_unit_is_one_block_of_the_grid_and_short_axes_are_one_cell(ndim):
    shape = (2, *(3, 20, 16)[-ndim:])
    found = split(SplitConfig(block=8), np.ones(shape, bool), 0)
    ids = np.unique(found.unit)
    assert ids.tolist() == list(range(2 * 3 * 2))
    for unit in ids:
        image, *where = np.nonzero(found.unit == unit)
        assert len(set(image)) == 1
        assert all(axis.max() // 8 == axis.min() // 8 for axis in where)


def test_blocks_of_different_regions_share_no_unit():
    config = SplitConfig(block=8, **BY_REGION)
    found = split(config, np.ones((2, 16, 20), bool), 0)
    sets = [set(units_of(found, role).tolist()) for role in (TRAIN, CALIBRATION, TEST)]
    assert sum(map(len, sets)) == len(set.union(*sets)) == np.unique(found.unit).size
    assert [len(ids) for ids in sets] == [2 * 2 * 2, 2 * 2 * 1, 2 * 2 * 1]
    assert training_units(found).tolist() == sorted(sets[0])


def test_masked_training_voxels_still_keep_calibration_away():
    mask = np.ones((1, 1, 20), bool)
    mask[..., 5:10] = False  # the right half of the training region
    found = split(SplitConfig(**BY_REGION), mask, 3)
    assert (found.role[0, 0] == [TRAIN] * 5 + [UNUSED] * 8 + [CALIBRATION] * 3 + [UNUSED] * 3 + [TEST]).all()


def test_a_gap_that_leaves_nothing_says_what_to_change():
    mask = np.ones((1, 256, 256), bool)
    message = (
        "no calibration voxels are left after a gap of 190 voxels; use larger blocks than 64, split.by region, or a smaller "
        "network.radius_max"
    )
    with pytest.raises(SplitError, match=message):
        split(SplitConfig(block=64), mask, 190)
    with pytest.raises(SplitError, match="no calibration voxels are left after a gap of 80 voxels; use larger regions"):
        split(SplitConfig(**BY_REGION), mask, 80)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        ({"by": "image"}, (2, 8, 8), "2 images with data cannot be shared .* takes at least 3; use more images"),
        ({"block": 8}, (1, 8, 16), "2 blocks with data cannot be shared .* takes at least 3; use smaller blocks than 8"),
        (
            {"by": "region", "regions": REGIONS | {"test": {"x": (0.7, 1.0)}}},
            (1, 8, 20),
            "regions calibration and test overlap; draw split.regions apart",
        ),
        (
            {"by": "region", "regions": REGIONS | {"test": {"z": (0.7, 1.0)}}},
            (1, 8, 20),
            "region test spans z, but the field has y x; remove it",
        ),
        ({"by": "region", "regions": REGIONS}, (1, 8, 2), "region test holds no voxel with data; enlarge it"),
    ],
)
def test_an_impossible_split_says_what_is_wrong(config, shape, message):
    with pytest.raises(SplitError, match=message):
        split(SplitConfig(**config), np.ones(shape, bool), 0)


def test_an_empty_mask_is_refused():
    with pytest.raises(SplitError, match="the mask is empty: none of 64 voxels carries data"):
        split(SplitConfig(), np.zeros((1, 8, 8), bool), 0)


def test_the_plane_that_is_shown_has_most_test_voxels_and_lies_middlemost_among_these():
    assert shown_plane(np.zeros((4, 4), np.uint8)) == ()
    role = np.full((8, 6, 5), TRAIN, np.uint8)
    assert shown_plane(role) == (4,), "without test voxels, the middle"
    role[:, :2] = TEST
    assert shown_plane(role) == (4,)
    role[6:] = TEST
    assert shown_plane(role) == (6,)
    role[7, 0, 0] = TRAIN
    role[6, 0, :2] = TRAIN
    assert shown_plane(role) == (7,)
