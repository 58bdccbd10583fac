import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph as graphs
from behindthenoise.core.memory import LARGEST_CORE, STEP, bytes_per_voxel, choose_core, ensemble_cost, projected_bytes
from behindthenoise.errors import MemoryLimitError

# What a job of `infer` does to a tile, several times over, because the heap grows with the first tiles. Prints the peak in bytes
# before the first tile and after the last one, and what was projected.
JOB = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph as graphs, memory
from behindthenoise.core.inference import run_ensemble
from behindthenoise.core.network import Network
from behindthenoise.core.tokens import Projection
from behindthenoise.io import stores
from behindthenoise.io.record import peak_memory_bytes

case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
config = NetworkConfig(**case["network"])
core, channels, components = case["core"], case["channels"], 8
drawn = [graphs.draw(config, graphs.generator(0, member)) for member in range(2)]
networks = [
    Network(graph, in_channels=channels, out_channels=channels, ndim=len(core), latent=config.latent, head=config.head).eval()
    for graph in drawn
]
projection = Projection((np.ones((components, config.latent), np.float32),) * 2, np.zeros(components, np.float32))
halo, voxel_bytes = memory.ensemble_cost(drawn, config, channels, components)
shape = [edge + 2 * halo for edge in core]
group = stores.create_group(folder / "tiles.zarr", {})
dims = ["quantile", "channel", *"zyx"[-len(core):]]
target = stores.create_array(group, "values", (3, channels, *core), dtype="float32", chunks=(3, channels, *core), dims=dims)
tile = np.random.default_rng(0).random((channels, *shape), dtype=np.float32)
before = peak_memory_bytes()
for _ in range(case["tiles"]):
    quantiles, _ = run_ensemble(networks, projection, tile)
    target[:] = quantiles[(..., *(slice(halo, -halo) for _ in core))]
    stores.digest(target)
print(json.dumps([before, peak_memory_bytes(), memory.projected_bytes(shape, core, halo, voxel_bytes)]))
"""
CASES = {
    "2d": {"core": [320, 320], "channels": 1, "tiles": 4, "network": {}},
    "2d-channels": {"core": [384, 384], "channels": 6, "tiles": 4, "network": {"depth": 3, "width": 1, "latent": 2, "head": 2}},
    "2d-latent": {"core": [384, 384], "channels": 1, "tiles": 4, "network": {"depth": 4, "latent": 64, "head": 64}},
    "3d": {"core": [48, 48, 48], "channels": 1, "tiles": 3, "network": {"depth": 8, "radius_max": 8}},
    "3d-channels": {"core": [64, 64, 64], "channels": 4, "tiles": 3, "network": {"depth": 2, "width": 1, "latent": 2, "head": 2}},
}


@st.composite
def volumes(draw):
    """Shape, halo and bytes per voxel."""
    shape = draw(st.lists(st.integers(1, 700), min_size=2, max_size=3))
    return shape, draw(st.integers(0, 30)), draw(st.integers(1, 5000))


def clipped(shape, edge):
    return tuple(min(size, edge) for size in shape)


@given(volumes(), st.integers(1, 600), st.integers(0, 200))
def test_the_projection_does_not_fall_as_the_tile_grows(volume, edge, more):
    shape, halo, voxel_bytes = volume
    small, large = (projected_bytes(shape, clipped(shape, size), halo, voxel_bytes) for size in (edge, edge + more))
    assert small <= large


@given(volumes(), st.integers(0, 200_000))
@settings(max_examples=300)
def test_the_core_is_the_largest_that_fits(volume, spare_kb):
    shape, halo, voxel_bytes = volume
    least = projected_bytes(shape, clipped(shape, STEP), halo, voxel_bytes)
    memory = least + 1000 * spare_kb
    core = choose_core(shape, halo, voxel_bytes, memory, None)
    candidates = [clipped(shape, edge) for edge in range(STEP, LARGEST_CORE[len(shape)] + 1, STEP)]
    fitting = [edges for edges in candidates if projected_bytes(shape, edges, halo, voxel_bytes) <= memory]
    assert core == max(fitting)


@given(volumes(), st.sampled_from([16, 48, 128]))
def test_a_tile_that_is_asked_for_and_fits_is_taken(volume, tile):
    shape, halo, voxel_bytes = volume
    needed = projected_bytes(shape, clipped(shape, tile), halo, voxel_bytes)
    assert choose_core(shape, halo, voxel_bytes, needed, tile) == clipped(shape, tile)


def test_a_tile_that_is_too_large_is_refused_with_what_it_needs():
    # 600 MB for the process, 1000 bytes for each of (256 + 2 x 10)^2 voxels
    with pytest.raises(
        MemoryLimitError,
        match=r"a tile of 256 voxels with a halo of 10 needs 0\.68 GB, inference\.memory_gb allows 0\.65; use a smaller",
    ):
        choose_core([1000, 1000], 10, 1000, 650_000_000, 256)


@pytest.mark.parametrize("shape", [(1000, 1000), (200, 200, 200)])
def test_memory_for_not_even_the_smallest_tile_is_refused(shape):
    with pytest.raises(
        MemoryLimitError, match=r"even a tile of 16 voxels with a halo of 16 needs 0\.\d\d GB, .* allows 0\.60; allow more memory"
    ):
        choose_core(shape, 16, 1000, 600_000_000, None)


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 8), st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None)
def test_a_voxel_costs_at_least_its_feature_maps_latent_and_results(depth, width, channels, latent, head):
    config = NetworkConfig(depth=depth, width=width, latent=latent, head=head)
    graph = graphs.draw(config, graphs.generator(0, 0))
    cost = bytes_per_voxel(graph, channels=channels, latent=latent, head=head, components=8)
    assert cost >= 4 * (sum(graph.channels(channels)) + latent + head + 3 * channels + 8)
    for more in ({"channels": channels + 1}, {"latent": latent + 1}, {"head": head + 1}, {"components": 9}):
        arguments = {"channels": channels, "latent": latent, "head": head, "components": 8, **more}
        assert bytes_per_voxel(graph, **arguments) > cost


def test_an_ensemble_costs_as_much_as_its_dearest_member_and_needs_the_widest_halo():
    config = NetworkConfig(depth=12)
    drawn = [graphs.draw(config, graphs.generator(4, member)) for member in range(6)]
    costs = [ensemble_cost([graph], config, 2, 8) for graph in drawn]
    assert len(set(costs)) > 1
    assert ensemble_cost(drawn, config, 2, 8) == tuple(map(max, zip(*costs, strict=True)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how much a process holds depends on the allocator; known for Linux alone")
@pytest.mark.parametrize("name", CASES)
def test_a_job_takes_no_more_memory_than_projected_and_not_a_small_part_of_it(name, tmp_path):
    command = [sys.executable, "-c", JOB, json.dumps(CASES[name]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak, projected = json.loads(done.stdout)
    for_tiles = projected - projected_bytes([0], [0], 0, 0)
    assert peak <= projected
    assert for_tiles <= 6 * (peak - before)
