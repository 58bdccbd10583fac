import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from scipy.stats import skew

from behindthenoise.config import SyntheticConfig
from behindthenoise.core.synthetic import Blob, asymmetric, grains, materials, poisson, scene
from behindthenoise.errors import ConfigError


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return {2: (64, 64), 3: (24, 32, 32)}[request.param]


def fields(config, shape, count):
    return [scene(config, shape, index) for index in range(count)]


def assert_same(one, other):
    for name in ("clean", "labels", "noisy"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_field_depends_on_seed_index_and_shape_alone(shape):
    config = SyntheticConfig(shape=shape, images=3)
    others = SyntheticConfig(shape=(16,) * len(shape), images=50)
    alone = scene(others, shape, 2)
    assert_same(fields(config, shape, 3)[2], alone)
    assert_same(scene(config, shape, 2), alone)


def test_another_index_or_seed_is_another_field_with_other_noise(shape):
    one = scene(SyntheticConfig(), shape, 0)
    for other in (scene(SyntheticConfig(), shape, 1), scene(SyntheticConfig(seed=8), shape, 0)):
        assert np.mean(one.labels != other.labels) > 0.2
        residuals = np.corrcoef((one.noisy[0] - one.clean).ravel(), (other.noisy[0] - other.clean).ravel())
        assert abs(residuals[0, 1]) < 0.06


def test_a_wider_field_does_not_repeat_the_noise_of_a_narrow_one():
    narrow, wide = scene(SyntheticConfig(), (64, 64), 0), scene(SyntheticConfig(), (128, 64), 0)
    residuals = [(field.noisy[0] - field.clean).ravel()[: 64 * 64] for field in (narrow, wide)]
    assert abs(np.corrcoef(residuals)[0, 1]) < 0.06


def test_more_scans_and_channels_leave_the_first_ones_as_they_were(shape):
    few = scene(SyntheticConfig(scans=1, channels=1), shape, 4)
    many = scene(SyntheticConfig(scans=3, channels=2), shape, 4)
    np.testing.assert_array_equal(few.noisy[0, 0], many.noisy[0, 0])
    np.testing.assert_array_equal(few.clean[0], many.clean[0])


@pytest.mark.parametrize("phases", [2, 4, 7])
def test_every_phase_appears_and_no_other(shape, phases):
    seen = fields(SyntheticConfig(phases=phases), shape, 12)
    assert set(np.unique([field.labels for field in seen])) == set(range(phases))


def test_phases_beyond_one_byte_are_refused():
    with pytest.raises(ConfigError, match=r"phases is 257.*at most 256"):
        scene(SyntheticConfig(phases=257), (16, 16), 0)


def test_images_are_finite_and_the_clean_one_stays_within_the_levels(shape):
    for noise in ("asymmetric", "poisson"):
        for field in fields(SyntheticConfig(channels=2, noise=noise, dose=0.1), shape, 4):
            assert np.isfinite(field.noisy).all()
            assert field.clean.min() >= 0
            assert field.clean.max() < 1.1


def test_a_voxel_deep_inside_a_phase_has_its_level(shape):
    config = SyntheticConfig(channels=2, phases=3)
    levels = materials(config).levels
    for phase in range(3):
        values = []
        for field in fields(config, shape, 8):
            deep = binary_erosion(field.labels == phase, iterations=4)
            values.append(field.clean[:, deep])
        # Domes lose up to DOME of their contrast towards the outline; the matrix is flat but for what leaks in from outlines.
        np.testing.assert_allclose(np.concatenate(values, axis=1).mean(axis=1), levels[:, phase], atol=0.08)


def test_channels_show_the_same_grains_at_other_levels(shape):
    config = SyntheticConfig(channels=3)
    levels = materials(config).levels
    assert np.abs(np.diff(levels, axis=0)).max(axis=1).min() > 0.05
    field = scene(config, shape, 0)
    edges = [sum(np.abs(part) for part in np.gradient(image)) for image in field.clean]
    assert np.corrcoef([edge.ravel() for edge in edges])[0].min() > 0.4
    # Another field's edges stand elsewhere.
    elsewhere = sum(np.abs(part) for part in np.gradient(scene(config, shape, 1).clean[1]))
    assert abs(np.corrcoef(edges[0].ravel(), elsewhere.ravel())[0, 1]) < 0.2


@given(seed=st.integers(0, 2**32), phases=st.integers(2, 12), channels=st.integers(1, 3))
def test_levels_of_phases_are_well_apart_but_for_the_twins(seed, phases, channels):
    look = materials(SyntheticConfig(seed=seed, phases=phases, channels=channels))
    twins = phases >= 4
    distinct = phases - twins
    for levels in look.levels:
        # Two draws in neighbouring steps of 0.9 / distinct keep 0.2 of a step from the border between them.
        assert np.diff(np.sort(levels[:distinct])).min() > 0.4 * 0.9 / distinct - 1e-6
        assert levels.argmin() == 0
        assert (levels[-1] == levels[-2]) == twins
    assert np.count_nonzero(look.ripple) == twins


def test_twin_phases_have_one_intensity_and_two_textures(shape):
    config = SyntheticConfig(channels=2)
    means, textures = [], []
    for phase in (2, 3):
        values, steps = [], []
        for field in fields(config, shape, 20):
            deep = binary_erosion(field.labels == phase, iterations=3)
            values.append(field.clean[:, deep])
            steps.append(np.diff(field.clean, axis=-1)[:, deep[..., 1:]])
        means.append(np.concatenate(values, axis=1).mean(axis=1))
        textures.append(np.concatenate(steps, axis=1).var(axis=1))
    np.testing.assert_allclose(means[0], means[1], rtol=0.02)
    assert (textures[1] > 5 * textures[0]).all()


def test_the_strongest_blob_rules_whatever_the_order():
    generator = np.random.default_rng(0)
    blobs = [Blob(generator.uniform(0, 20, 2), np.diag(generator.uniform(2, 6, 2)), phase, 0.0) for phase in range(1, 9)]
    flat = np.zeros((20, 20), np.float32)
    drawn, reversed_ = grains(blobs, flat), grains(blobs[::-1], flat)
    np.testing.assert_array_equal(drawn.owner, reversed_.owner)
    for at in np.ndindex(flat.shape):
        strengths = [np.exp2(-np.sum(((at - blob.centre) / np.diag(blob.axes)) ** 2)) for blob in blobs]
        if max(strengths) >= 0.05:
            assert drawn.owner[at] == 1 + np.argmax(strengths)
            assert drawn.strength[at] == pytest.approx(max(strengths), rel=1e-5)


def test_a_flat_volume_equals_a_field():
    generator = np.random.default_rng(5)
    plane = [Blob(generator.uniform(0, 20, 2), generator.uniform(-5, 5, (2, 2)), phase, float(phase)) for phase in range(1, 6)]
    space = []
    for blob in plane:
        axes = np.zeros((3, 3))
        axes[1:, :2], axes[0, 2] = blob.axes, 3.0
        space.append(Blob(np.concatenate([[0.0], blob.centre]), axes, blob.phase, blob.offset))
    rough = generator.uniform(-0.2, 0.2, (20, 20)).astype(np.float32)
    field, volume = grains(plane, rough), grains(space, rough[None])
    np.testing.assert_array_equal(field.owner, volume.owner[0])
    np.testing.assert_allclose(field.strength, volume.strength[0], atol=1e-6)
    np.testing.assert_allclose(field.stripes, volume.stripes[0], atol=1e-5)


def test_the_border_of_a_field_is_as_full_as_its_middle(shape):
    grain = np.array([field.labels > 0 for field in fields(SyntheticConfig(blobs=30), shape, 30)]).mean(axis=0)
    middle = grain[tuple(slice(size // 4, -size // 4) for size in shape)].mean()
    for axis in range(len(shape)):
        assert np.take(grain, [0, -1], axis=axis).mean() == pytest.approx(middle, abs=0.1)


def test_the_number_of_grains_grows_with_the_field():
    """As many grains in four fields as in one of four times the area: the share of outlines is the same."""
    config = SyntheticConfig()

    def outlines(labels):
        return np.mean(np.diff(labels.astype(int), axis=0) != 0)

    small = np.mean([outlines(field.labels) for field in fields(config, (64, 64), 16)])
    assert outlines(scene(config, (256, 256), 0).labels) == pytest.approx(small, rel=0.2)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_asymmetric_noise_has_median_zero_and_a_tail_to_the_bright_side(level):
    clean = np.full(100_000, level, np.float32)
    residual = asymmetric(clean, 1.0, np.random.default_rng(1)) - clean
    assert np.mean(residual > 0) == pytest.approx(0.5, abs=0.01)
    assert residual.mean() > 0.1 * residual.std()
    assert skew(residual) == pytest.approx(np.sqrt(2), rel=0.1)


def test_asymmetric_noise_grows_with_the_signal_and_falls_with_the_root_of_the_dose():
    def spread(level, dose):
        return asymmetric(np.full(50_000, level, np.float32), dose, np.random.default_rng(2)).std()

    assert spread(0.9, 1.0) > 2 * spread(0.2, 1.0)
    assert spread(0.5, 1.0) == pytest.approx(2 * spread(0.5, 4.0), rel=0.02)


@pytest.mark.parametrize(("level", "dose"), [(0.1, 1.0), (0.7, 1.0), (0.5, 20.0)])
def test_photon_counts_are_whole_and_their_variance_is_their_mean(level, dose):
    counts = poisson(np.full(100_000, level, np.float32), dose, np.random.default_rng(3))
    np.testing.assert_array_equal(counts, np.round(counts))
    assert counts.mean() == pytest.approx(dose * level, rel=0.03)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.03)


@pytest.mark.parametrize("noise", ["asymmetric", "poisson"])
def test_scans_channels_and_neighbours_are_independent_given_the_truth(shape, noise):
    field = scene(SyntheticConfig(scans=3, channels=2, noise=noise), shape, 0)
    residual = field.noisy - field.clean
    between = np.corrcoef(residual.reshape(6, -1) - residual.reshape(6, -1).mean(axis=1, keepdims=True))
    limit = 5 / np.sqrt(field.labels.size)
    assert np.abs(between - np.eye(6)).max() < limit
    white = asymmetric(np.full(field.labels.shape, 0.5, np.float32), 1.0, np.random.default_rng(4))
    assert abs(np.corrcoef(white[..., 1:].ravel(), white[..., :-1].ravel())[0, 1]) < limit


def test_a_fast_scan_at_dose_one_is_mostly_noise(shape):
    seen = fields(SyntheticConfig(), shape, 12)
    noisy, clean = (np.array(part).ravel() for part in ([f.noisy[0] for f in seen], [f.clean for f in seen]))
    assert 0.6 < np.corrcoef(noisy, clean)[0, 1] < 0.78
