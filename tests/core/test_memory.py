import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core import patches as patching
from behindthenoise.core import windows
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.graph import Edge, Graph
from behindthenoise.core.memory import (
    ENOUGH_SHARDS,
    LARGEST_CORE,
    LARGEST_SHARD,
    STEP,
    bytes_per_voxel,
    choose_core,
    choose_shard,
    device_core,
    ensemble_cost,
    ensemble_halo,
    lay_out,
    projected_bytes,
    resident_bytes,
    shard_bytes,
)
from behindthenoise.core.unet import UNet
from behindthenoise.errors import MemoryLimitError

# What a job of `infer` does to a tile, several times over, because the heap grows with the first tiles. Prints the peak in bytes
# before the first tile and after the last one, and what was projected.
JOB = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures, memory
from behindthenoise.core.inference import run_ensemble
from behindthenoise.core.network import Network
from behindthenoise.core.embedding import Projection
from behindthenoise.io import stores
from behindthenoise.io.record import peak_memory_bytes

case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
config = NetworkConfig(**case["network"])
core, channels, components = case["core"], case["channels"], 8
drawn = [
    architectures.draw(config, architectures.generator(0, member), ndim=len(core), channels=channels) for member in range(2)
]
networks = [Network(architecture).eval() for architecture in drawn]
projection = Projection((np.ones((components, config.latent), np.float32),) * 2, np.zeros(components, np.float32))
halo, voxel_bytes = memory.ensemble_cost(drawn, components)
shape = [edge + 2 * halo for edge in core]
group = stores.create_group(folder / "tiles.zarr", {})
dims = ["quantile", "channel", *"zyx"[-len(core):]]
target = stores.create_array(group, "values", (3, channels, *core), dtype="float32", chunks=(3, channels, *core), dims=dims)
tile = np.random.default_rng(0).random((channels, *shape), dtype=np.float32)
before = peak_memory_bytes()
for _ in range(case["tiles"]):
    quantiles, _, _ = run_ensemble(networks, projection, tile)
    target[:] = quantiles[(..., *(slice(halo, -halo) for _ in core))]
    stores.digest(target)
print(json.dumps([before, peak_memory_bytes(), memory.projected_bytes(shape, core, halo, voxel_bytes)]))
"""
CASES = {
    "2d": {"core": [320, 320], "channels": 1, "tiles": 4, "network": {}},
    "2d-channels": {"core": [384, 384], "channels": 6, "tiles": 4, "network": {"depth": 3, "width": 1, "latent": 2, "head": 2}},
    "2d-latent": {"core": [384, 384], "channels": 1, "tiles": 4, "network": {"depth": 4, "latent": 64, "head": 64}},
    "3d": {"core": [48, 48, 48], "channels": 1, "tiles": 3, "network": {"depth": 8, "radius_max": 8}},
    "2d-unet": {"core": [320, 320], "channels": 1, "tiles": 4, "network": {"kind": "unet", "radius_max": 64}},
    "3d-unet": {"core": [64, 64, 64], "channels": 1, "tiles": 3, "network": {"kind": "unet", "radius_max": 16}},
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


@given(
    st.builds(
        NetworkConfig,
        kind=st.sampled_from(["smsnet", "unet"]),
        depth=st.integers(1, 30),
        width=st.integers(1, 8).map(lambda width: (width,)),
        radius_max=st.just(16),
        input_output=st.booleans(),
        latent=st.integers(1, 20),
        head=st.integers(1, 20),
    ),
    st.sampled_from([2, 3]),
    st.integers(1, 8),
)
@settings(deadline=None)
def test_a_voxel_costs_at_least_its_feature_maps_latent_and_results(config, ndim, channels):
    made = architectures.draw(config, architectures.generator(0, 0), ndim=ndim, channels=channels)
    *trunk, _, _, _ = made.shapes()
    maps = channels + sum(shape.leaving / shape.scale**ndim for shape in trunk)
    cost = bytes_per_voxel(made, components=8)
    assert cost >= 4 * (maps + made.latent + made.head + 3 * channels + 8)
    assert bytes_per_voxel(made, components=9) > cost
    for more in ("latent", "head", "out_channels"):
        assert bytes_per_voxel(replace(made, **{more: getattr(made, more) + 1}), components=8) > cost


@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_an_ensemble_costs_as_much_as_its_dearest_member_and_needs_the_widest_halo(kind):
    config = NetworkConfig(kind=kind, depth=12, radius_max=40)
    drawn = [architectures.draw(config, architectures.generator(4, member), ndim=2, channels=2) for member in range(6)]
    costs = [bytes_per_voxel(one, 8) for one in drawn]
    assert len(set(costs)) > 1
    halo, voxel_bytes = ensemble_cost(drawn, 8)
    assert voxel_bytes == max(costs)
    assert halo == ensemble_halo(drawn)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4), st.integers(1, 30))
@settings(deadline=None)
def test_the_halo_of_an_ensemble_is_the_least_that_serves_every_radius_and_stride(sizes, radius):
    graph = Graph(1, (Edge(0, radius, 1, 1),), (1,))
    members = [Architecture(wiring, 2, 1, 1, 2, 2) for wiring in (graph, *(UNet(*size, 1) for size in sizes))]
    halo = ensemble_halo(members)
    possible = [edge for edge in range(500) if all(edge >= one.radius and edge % one.wiring.stride == 0 for one in members)]
    assert halo == min(possible)
    assert ensemble_halo(members[:1]) == radius


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(4, 12), st.integers(0, 3)), min_size=2, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@example([(64, 16, 4), (64, 16, 4)], 1, 1, 1, 0)
def test_pairs_and_all_patches_take_no_more_memory_than_projected(axes, images, scans, channels, seed):
    shape, (_, patch, border) = [size for size, _, _ in axes], axes[0]
    random = np.random.default_rng(seed)
    noisy = random.normal(size=(images, scans, channels, *shape)).astype(np.float32)
    clean = random.normal(size=(images, channels, *shape)).astype(np.float32)
    learns, training = random.random((images, *shape)) < 0.5, 1 + seed % images
    trains = np.arange(images).reshape(-1, *[1] * len(shape)) < training
    # those to learn from and those that validate are cut from the same field, and may share windows
    patches = [
        patching.cut(noisy, clean, counts, patch=patch, border=border, border_weight=0.1)
        for counts in (learns & trains, ~learns & trains)
    ]
    mask, role, unit = np.ones_like(learns), np.ones_like(learns, np.uint8), np.ones_like(learns, np.int32)
    held = sum(one.bytes() for one in patches) + sum(array.nbytes for array in (noisy, clean, mask, role, unit))
    steps = [(grid.window, grid.step) for grid in windows.lay_out(shape, patch, border)[0]]
    assert held <= resident_bytes(shape, (images, scans, channels), steps, training)


def test_images_that_do_not_train_take_no_patches():
    few, half, all_of_them = (resident_bytes([512, 512], (16, 1, 1), [(64, 48)] * 2, training) for training in (1, 8, 16))
    patches = 512 * 512 * (64 / 48) ** 2 * 4  # of one array, with their overlap
    assert half - few >= 7 * 2 * patches
    assert all_of_them - half == pytest.approx((half - few) * 8 / 7)


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


def counted(shape, edges):
    return math.prod(-(-size // edge) for size, edge in zip(shape, edges, strict=True))


@given(volumes(), st.integers(1, 4), st.integers(1, 20), st.integers(0, 3_000))
@settings(max_examples=300)
def test_a_shard_is_whole_tiles_that_fit_and_leaves_work_for_many_jobs(volume, channels, components, spare_mb):
    shape, halo, _ = volume
    core, spare = clipped(shape, LARGEST_CORE[len(shape)]), spare_mb * 10**6
    shard = choose_shard(shape, core, halo, (channels, components), spare)
    assert all(edge % tile == 0 for edge, tile in zip(shard, core, strict=True))
    if shard != core:
        assert counted(shape, shard) >= ENOUGH_SHARDS
        assert max(shard) <= LARGEST_SHARD[len(shape)]
        assert shard_bytes(shape, shard, halo, channels, components) <= spare


def test_a_shard_grows_as_long_as_nothing_forbids_it():
    assert choose_shard((4096, 4096), (256, 256), 10, (1, 8), 10**12) == (1024, 1024)
    assert choose_shard((2048, 2048), (256, 256), 10, (1, 8), 10**12) == (512, 512)  # 16 of them
    assert choose_shard((2048, 2047), (256, 256), 10, (1, 8), 10**12) == (512, 512)
    assert choose_shard((1536, 2048), (256, 256), 10, (1, 8), 10**12) == (256, 256)  # 12 would be too few
    assert choose_shard((4096, 4096), (256, 256), 10, (1, 8), 100 * 10**6) == (512, 512)
    # a thin volume: the axis that is whole stays whole
    assert choose_shard((20, 4096, 4096), (20, 64, 64), 10, (1, 8), 10**12) == (20, 128, 128)


def test_what_a_shard_holds_grows_with_everything_in_it():
    cost = shard_bytes((500, 500), (256, 256), 8, 1, 4)
    assert cost >= 4 * 5 * 256 * 256 * (4 + 4)
    assert shard_bytes((500, 500), (512, 512), 8, 1, 4) > cost
    assert shard_bytes((500, 500), (256, 256), 9, 1, 4) > cost
    assert shard_bytes((500, 500), (256, 256), 8, 2, 4) > cost
    assert shard_bytes((500, 500), (256, 256), 8, 1, 5) > cost


@given(st.lists(st.integers(1, 200), min_size=2, max_size=3), st.integers(0, 20), st.integers(1, 2000), st.integers(1, 2**33))
def test_a_tile_on_a_device_fits_it_or_is_refused(shard, halo, voxel_bytes, free):
    try:
        core = device_core(shard, halo, voxel_bytes, free)
    except MemoryLimitError:
        assert voxel_bytes * math.prod(min(edge, STEP) + 2 * halo for edge in shard) > free or max(shard) > STEP
        return
    assert voxel_bytes * math.prod(edge + 2 * halo for edge in core) <= free
    assert all(edge <= whole for edge, whole in zip(core, shard, strict=True))
    assert core == tuple(shard) or voxel_bytes * math.prod(edge + 2 * halo for edge in shard) > free


def test_a_device_without_memory_is_refused():
    with pytest.raises(
        MemoryLimitError, match=r"a tile of 16 voxels with a halo of 10 does not fit into the 0\.00 GB that are free"
    ):
        device_core((128, 128), 10, 1000, 10**6)


@given(volumes(), st.integers(700, 4000))
@settings(max_examples=50, deadline=None)
def test_the_layout_of_a_volume_keeps_to_the_memory(volume, memory_mb):
    shape, _, _ = volume
    config = NetworkConfig(depth=4, width=2, radius_max=6, latent=3, head=4)
    drawn = [architectures.draw(config, architectures.generator(0, member), ndim=len(shape), channels=1) for member in range(2)]
    layout = lay_out(shape, drawn, 4, memory_mb * 10**6, None)
    assert layout.peak_bytes <= memory_mb * 10**6
    assert (layout.halo, layout.voxel_bytes) == ensemble_cost(drawn, 4)
    assert layout.core == choose_core(shape, layout.halo, layout.voxel_bytes, memory_mb * 10**6, None)
