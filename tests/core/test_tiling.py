import numpy as np
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph as graphs
from behindthenoise.core.inference import run_ensemble
from behindthenoise.core.network import Network
from behindthenoise.core.tiling import crop, share, tiles
from behindthenoise.core.tokens import Projection

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
        assert crop(marked[tile.read], tile).all() and crop(marked[tile.read], tile).size == marked.sum()
    assert (written == 1).all()


@given(st.integers(0, 200), st.integers(1, 30))
def test_shares_are_disjoint_and_complete(count, jobs):
    assert [index for job in range(jobs) for index in share(count, job, jobs)] == list(range(count))


def ensemble(ndim, seed):
    """Two networks with random weights and a projection of their latents."""
    config = NetworkConfig(depth=6, width=2, radius_max=6, latent=3, head=4)
    random = torch.Generator().manual_seed(seed)
    networks = []
    for member in range(2):
        graph = graphs.draw(config, graphs.generator(seed, member))
        networks.append(Network(graph, in_channels=1, out_channels=1, ndim=ndim, latent=3, head=4).eval())
        networks[-1].initialise(torch.randn(2, 1, *[12] * ndim, generator=random), random)
    matrices = np.random.default_rng(seed).normal(size=(2, 2, 3)).astype(np.float32)
    return networks, Projection(tuple(matrices), np.ones(2, np.float32))


@given(volumes(), st.integers(0, 3))
@example(((40, 33), (16, 16), 0), 0)
@example(((13, 14, 9), (4, 5, 3), 0), 1)
@quick
def test_tiled_equals_whole(volume, seed):
    shape, core, _ = volume
    networks, projection = ensemble(len(shape), seed)
    halo = max(network.graph.radius for network in networks)
    noisy = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    whole = run_ensemble(networks, projection, noisy)
    tiled = [np.full_like(values, np.nan) for values in whole]
    for tile in tiles(shape, core, halo):
        for target, values in zip(tiled, run_ensemble(networks, projection, noisy[(slice(None), *tile.read)]), strict=True):
            target[(..., *tile.core)] = crop(values, tile)
    for expected, found in zip(whole, tiled, strict=True):
        # a volume of one voxel has no spread of its own
        spread = max(float(expected.std()), float(np.abs(expected).mean()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * spread)


def test_a_halo_that_is_too_small_would_show():
    networks, projection = ensemble(2, 0)
    halo = max(network.graph.radius for network in networks)
    noisy = np.random.default_rng(0).normal(size=(1, 40, 40)).astype(np.float32)
    whole, _ = run_ensemble(networks, projection, noisy)
    worst = 0.0
    for tile in tiles((40, 40), (10, 10), halo - 1):
        values, _ = run_ensemble(networks, projection, noisy[(slice(None), *tile.read)])
        worst = max(worst, float(np.abs(crop(values, tile) - whole[(..., *tile.core)]).max()))
    assert worst > 1e-4 * whole.std()
