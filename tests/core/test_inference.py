import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core.embedding import Projection, embed
from behindthenoise.core.inference import run_ensemble, run_member
from behindthenoise.core.network import Network
from behindthenoise.core.scale import Scale

CHANNELS = 2
SCALE = Scale((1.0, -2.0), (2.0, 0.5), (3.0, 10.0), (4.0, 0.25), (1.5, 0.1), (-1.0, 7.0))
quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def images(draw):
    """Values with the axis of the channels anywhere, and that axis."""
    ndim = draw(st.integers(1, 5))
    axis = draw(st.integers(0, ndim - 1))
    shape = [CHANNELS if index == axis else draw(st.integers(1, 5)) for index in range(ndim)]
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    return random.normal(scale=100, size=shape).astype(np.float32), axis


@pytest.fixture
def ensemble(ndim):
    """Three networks and a projection of their latents."""
    config = NetworkConfig(depth=5, width=2, radius_max=5, latent=3, head=4)
    random = torch.Generator().manual_seed(0)
    networks = []
    for member in range(3):
        drawn = architectures.draw(config, architectures.generator(6, member), ndim=ndim, channels=2)
        networks.append(Network(drawn).eval())
        networks[-1].initialise(torch.randn(2, 2, *[12] * ndim, generator=random), random)
    values = np.random.default_rng(1)
    matrices = tuple(values.normal(size=(3, 4, 3)).astype(np.float32))
    return networks, Projection(matrices, values.normal(size=4).astype(np.float32))


@given(images())
@quick
def test_standard_units_and_back_gives_the_clean_image(image):
    values, axis = image
    standardised = SCALE.standardise_clean(values, axis)
    np.testing.assert_allclose(SCALE.restore_clean(standardised, axis), values, rtol=1e-5, atol=1e-4)
    assert standardised.dtype == np.float32


@given(images())
@quick
def test_every_channel_has_its_own_constants_on_whichever_axis_it_is(image):
    values, axis = image
    reduced = [size for index, size in enumerate(values.shape) if index != axis]
    found = {
        "noisy": SCALE.standardise_noisy(values, np.ones(reduced, bool), axis),
        "clean": SCALE.standardise_clean(values, axis),
        "matched": SCALE.match_noisy(values, axis),
    }
    for channel in range(CHANNELS):
        part = np.take(values, channel, axis)
        expected = {
            "noisy": (part - SCALE.noisy_shift[channel]) / SCALE.noisy_scale[channel],
            "clean": (part - SCALE.clean_shift[channel]) / SCALE.clean_scale[channel],
            "matched": (part - SCALE.offset[channel]) / SCALE.gain[channel],
        }
        for name, expected_part in expected.items():
            np.testing.assert_allclose(np.take(found[name], channel, axis), expected_part, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("hidden", [np.nan, np.inf, 1e9, 0])
def test_what_lies_under_the_mask_has_no_influence_at_all(ensemble, ndim, hidden, random):
    noisy = random.normal(size=(2, *[12] * ndim)).astype(np.float32)
    mask = random.random([12] * ndim) < 0.8
    changed = np.where(mask, noisy, np.float32(hidden))
    expected, found = (run_ensemble(*ensemble, SCALE.standardise_noisy(values, mask, axis=0)) for values in (noisy, changed))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_masked_voxels_are_zero_in_standard_units(random):
    mask = random.random((3, 6, 7)) < 0.5
    standardised = SCALE.standardise_noisy(np.full((3, 2, 6, 7), np.nan, np.float32), mask, axis=1)
    assert (np.moveaxis(standardised, 1, -1)[~mask] == 0).all()
    assert np.isnan(np.moveaxis(standardised, 1, -1)[mask]).all()


def test_the_ensemble_is_the_mean_of_its_members_and_the_projection_of_their_joined_latents(ensemble, ndim, random):
    networks, projection = ensemble
    tile = random.normal(size=(2, *[9] * (ndim - 1), 11)).astype(np.float32)
    members = [run_member(network, tile) for network in networks]
    quantiles, spread, embedding = run_ensemble(networks, projection, tile)
    np.testing.assert_allclose(quantiles, np.mean([member for member, _ in members], axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(spread, np.std([member[1] for member, _ in members], axis=0), rtol=1e-4, atol=1e-5)
    joined = np.concatenate([latent for _, latent in members])
    matrix = np.concatenate(projection.matrices, axis=1)
    offset = projection.offset.reshape(-1, *[1] * ndim)
    np.testing.assert_allclose(embedding, np.tensordot(matrix, joined, axes=1) + offset, rtol=1e-4, atol=1e-4)
    sampled = embed(projection, [latent.reshape(len(latent), -1).T for _, latent in members])
    np.testing.assert_allclose(embedding.reshape(len(embedding), -1).T, sampled, rtol=1e-4, atol=1e-4)


def test_a_tile_in_any_memory_layout_gives_the_same_result(ensemble, ndim, random):
    tile = random.normal(size=(2, *[8] * ndim)).astype(np.float32)
    strange = np.asfortranarray(tile.astype(np.float64))[..., ::-1][..., ::-1]
    for one, other in zip(run_ensemble(*ensemble, tile), run_ensemble(*ensemble, strange), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_ensemble_with_a_matrix_too_few_is_refused(ensemble, ndim):
    networks, projection = ensemble
    with pytest.raises(ValueError, match="shorter"):
        run_ensemble(networks, Projection(projection.matrices[:2], projection.offset), np.zeros((2, *[8] * ndim), np.float32))
