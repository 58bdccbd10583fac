import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.embedding import Projection
from behindthenoise.core.inference import run_ensemble
from behindthenoise.core.memory import STEP, ensemble_halo
from behindthenoise.core.network import Network
from behindthenoise.core.tiling import share, tiles
from behindthenoise.core.unet import UNet

quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def volumes(draw):
    """Shape, core and halo of a small volume."""
    ndim = draw(st.sampled_from([2, 3]))
    largest = {2: 40, 3: 14}[ndim]
    shape = draw(st.tuples(*[st.integers(1, largest)] * ndim))
    core = draw(st.tuples(*[st.integers(1, largest)] * ndim))
    return shape, core, draw(st.integers(0, 12))


@given(volumes())
@settings(deadline=None, max_examples=150)
def test_every_voxel_is_written_exactly_once(volume):
    shape, core, halo = volume
    written = np.zeros(shape, int)
    for tile in tiles(shape, core, halo):
        written[tile.core] += 1
        marked = np.zeros(shape, bool)
        marked[tile.core] = True
        assert marked[tile.read][tile.inside].all()
        assert marked[tile.read][tile.inside].size == marked.sum()
    assert (written == 1).all()


@given(st.integers(0, 200), st.integers(1, 30))
def test_shares_are_disjoint_and_complete(count, jobs):
    assert [index for job in range(jobs) for index in share(count, job, jobs)] == list(range(count))


def ensemble(members, seed):
    """Networks with random weights and a projection of their latents."""
    random = torch.Generator().manual_seed(seed)
    networks = []
    for architecture in members:
        networks.append(Network(architecture).eval())
        networks[-1].initialise(torch.randn(2, 1, *[16] * architecture.ndim, generator=random), random)
    matrices = np.random.default_rng(seed).normal(size=(len(networks), 2, 3)).astype(np.float32)
    return networks, Projection(tuple(matrices), np.ones(2, np.float32))


def sparse(ndim, seed, member):
    config = NetworkConfig(depth=6, width=2, radius_max=6, latent=3, head=4)
    return architectures.draw(config, architectures.generator(seed, member), ndim=ndim, channels=1)


def pyramid(ndim, levels, repeats):
    return Architecture(UNet(levels, repeats, 2), ndim, 1, 1, 3, 4)


def tiled_and_whole(networks, projection, noisy, core, halo):
    """Results of an ensemble tile by tile, and at once."""
    whole = run_ensemble(networks, projection, noisy)
    tiled = [np.full_like(values, np.nan) for values in whole]
    for tile in tiles(noisy.shape[1:], core, halo):
        found = run_ensemble(networks, projection, noisy[(slice(None), *tile.read)], tile.margin)
        for target, values in zip(tiled, found, strict=True):
            target[(..., *tile.core)] = values
    return tiled, whole


def worst(found, expected):
    """Largest difference in units of what is expected to vary; a volume of one voxel has no spread of its own."""
    spread = max(float(expected.std()), float(np.abs(expected).mean()))
    difference = float(np.abs(found - expected).max())
    return difference / spread if spread else difference  # the members of an ensemble of one do not differ


@given(volumes(), st.integers(0, 3))
@example(((40, 33), (16, 16), 0), 0)
@example(((13, 14, 9), (4, 5, 3), 0), 1)
@quick
def test_tiled_equals_whole(volume, seed):
    shape, core, _ = volume
    networks, projection = ensemble([sparse(len(shape), seed, member) for member in range(2)], seed)
    halo = ensemble_halo([network.architecture for network in networks])
    noisy = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    for found, expected in zip(*tiled_and_whole(networks, projection, noisy, core, halo), strict=True):
        assert worst(found, expected) <= 1e-5


@given(
    st.one_of(st.tuples(*[st.integers(1, 90)] * 2), st.tuples(*[st.integers(1, 36)] * 3)),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=2),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 3),
)
@example((83, 70), [(1, 2), (3, 1)], True, 1, 0)
@example((61, 90), [(4, 1)], False, 2, 1)
@example((35, 7, 33), [(1, 1), (2, 1)], True, 1, 2)
@quick
def test_tiled_equals_whole_for_u_nets_of_mixed_strides(shape, sizes, mixed, steps, seed):
    ndim = len(shape)
    members = [pyramid(ndim, *size) for size in sizes] + [sparse(ndim, seed, 0)] * mixed
    networks, projection = ensemble(members, seed)
    # as `choose_core` gives it: a multiple of 16, or the whole of a shorter axis
    core = [min(STEP * steps, size) for size in shape]
    noisy = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    for found, expected in zip(*tiled_and_whole(networks, projection, noisy, core, ensemble_halo(members)), strict=True):
        assert worst(found, expected) <= 1e-5


def test_a_halo_that_is_too_small_would_show():
    networks, projection = ensemble([sparse(2, 0, member) for member in range(2)], 0)
    halo = max(network.architecture.radius for network in networks)
    noisy = np.random.default_rng(0).normal(size=(1, 40, 40)).astype(np.float32)
    tiled, whole = tiled_and_whole(networks, projection, noisy, (10, 10), halo - 1)
    assert worst(tiled[0], whole[0]) > 1e-4


@pytest.mark.parametrize(("core", "wider"), [(16, 1), (18, 0)], ids=["halo", "core"])
def test_tiles_of_a_u_net_that_begin_between_strides_would_show(core, wider):
    members = [pyramid(2, 2, 1)]
    noisy = np.random.default_rng(0).normal(size=(1, 70, 70)).astype(np.float32)
    tiled, whole = tiled_and_whole(*ensemble(members, 0), noisy, (core, core), ensemble_halo(members) + wider)
    assert worst(tiled[0], whole[0]) > 1e-2
