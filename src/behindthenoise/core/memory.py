"""What a tile costs in memory, known before the first one is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from behindthenoise.core.architecture import Architecture
from behindthenoise.core.tiling import read_size
from behindthenoise.errors import MemoryLimitError

FLOAT = 4
ROLES_AND_UNITS = 1 + 1 + 4  # bytes of mask, role and unit of a voxel
# interpreter, torch and zarr with nothing loaded: 320 MB measured; the rest is for the networks and the allocator
BASELINE_BYTES = 600_000_000
REORDERED = 2 * 16  # oneDNN copies what goes in and out, in blocks of 16 channels
OPTIMISER = 4 * 6  # numbers for each parameter: six stacks of matrices, padded to four times what they hold at most
STEP = 16  # cores are multiples of this, so that stores have chunks of a sensible size
LARGEST_CORE = {2: 256, 3: 64}  # larger ones save a tenth of the time at best, for several times the memory (decision 0013)
LARGEST_SHARD = {2: 1024, 3: 128}  # files of 100 MB or less
ENOUGH_SHARDS = 16  # for jobs to share
COPIES = 5  # of a shard's results: being filled, being written, and three while they are compressed


def ensemble_cost(architectures: Sequence[Architecture], components: int) -> tuple[int, int]:
    """Halo in voxels and bytes per voxel that all networks with these architectures need."""
    return ensemble_halo(architectures), max(bytes_per_voxel(architecture, components) for architecture in architectures)


def ensemble_halo(architectures: Sequence[Architecture]) -> int:
    """Halo in voxels that is enough for each network, and a multiple of every stride (strides are powers of two)."""
    stride = max(architecture.wiring.stride for architecture in architectures)
    return -(-max(architecture.radius for architecture in architectures) // stride) * stride


def bytes_per_voxel(architecture: Architecture, components: int = 0) -> int:
    """
    Upper bound of what one voxel of a tile needs while an ensemble runs and its results are stored.

    Every feature map of the largest network is counted as if none were freed, plus the widest one padded and convolved,
    the heads, and eight copies of the results. They are not all there at once, but after some tiles the heap is in pieces
    and holds about that much: measured 0.4 to 1.0 of it.
    """
    *trunk, encode, _, _ = architecture.shapes()

    def density(channels: int, scale: int) -> float:
        return float(channels / scale**architecture.ndim)

    maps = architecture.in_channels + sum(density(shape.leaving, shape.scale) for shape in trunk)
    widest = 2 * max(density(shape.entering, shape.scale) for shape in trunk)
    convolved = 2 * max(density(shape.leaving, shape.scale) for shape in trunk)
    heads = 3 * (architecture.latent + architecture.head) + 4 * 3 * architecture.out_channels
    results = 8 * (4 * architecture.out_channels + components)
    return FLOAT * ceil(maps + widest + convolved + encode.entering + REORDERED + heads + results)


def resident_bytes(shape: Sequence[int], fields: tuple[int, int, int], windows: Sequence[tuple[int, int]], training: int) -> int:
    """
    Upper bound of the memory of a process that holds the pairs, their standardised copies and all patches.

    Parameters
    ----------
    shape
        Spatial shape of one image.
    fields
        Images, scans and channels.
    windows
        Window and step of the patches along each axis.
    training
        Images that patches are cut from.
    """
    images, scans, channels = fields
    overlap = float(np.prod([max(window / step, 1) for window, step in windows]))
    values = (scans + 1) * channels
    # while the held-out patches are chosen there are all, those chosen, and those that are learned from, which share windows
    patches = 3 * overlap * (values + 1) * FLOAT
    pairs = 4 * values * FLOAT + 2 * ROLES_AND_UNITS
    return BASELINE_BYTES + ceil(float(np.prod(shape)) * (images * pairs + training * patches))


def step_bytes(architecture: Architecture, batch: int, window: Sequence[int]) -> int:
    """Upper bound of what one training step needs besides: features, their gradients, what convolutions copy, the optimiser."""
    return 3 * bytes_per_voxel(architecture) * batch * int(np.prod(window)) + OPTIMISER * FLOAT * architecture.parameters


def projected_bytes(shape: Sequence[int], core: Sequence[int], halo: int, voxel_bytes: int) -> int:
    """Peak memory of a job that runs tiles with this core, in bytes."""
    return BASELINE_BYTES + voxel_bytes * read_size(shape, core, halo)


def choose_core(shape: Sequence[int], halo: int, voxel_bytes: int, memory_bytes: int, tile: int | None) -> tuple[int, ...]:
    """
    Core of a tile that fits the memory: the one asked for, or the largest in steps of 16 voxels.

    Parameters
    ----------
    shape
        Spatial shape of the volume.
    tile
        Edge asked for; None chooses.

    Raises
    ------
    MemoryLimitError
        If the tile asked for, or the smallest tile, does not fit.
    """

    def fits(edge: int) -> bool:
        return projected_bytes(shape, _clipped(shape, edge), halo, voxel_bytes) <= memory_bytes

    if tile is not None:
        if not fits(tile):
            needed = projected_bytes(shape, _clipped(shape, tile), halo, voxel_bytes)
            raise MemoryLimitError(
                f"a tile of {tile} voxels with a halo of {halo} needs {needed / 1e9:.2f} GB, inference.memory_gb allows "
                f"{memory_bytes / 1e9:.2f}; use a smaller inference.tile, auto, or more memory"
            )
        return _clipped(shape, tile)
    for edge in range(LARGEST_CORE[len(shape)], 0, -STEP):
        if fits(edge):
            return _clipped(shape, edge)
    needed = projected_bytes(shape, _clipped(shape, STEP), halo, voxel_bytes)
    raise MemoryLimitError(
        f"even a tile of {STEP} voxels with a halo of {halo} needs {needed / 1e9:.2f} GB, inference.memory_gb allows "
        f"{memory_bytes / 1e9:.2f}; allow more memory, or use a smaller network.radius_max, depth or width"
    )


def shard_bytes(shape: Sequence[int], shard: Sequence[int], halo: int, channels: int, components: int) -> int:
    """Upper bound of what reading and writing hold of shards, while one is read, one is computed and one is written."""
    results = COPIES * FLOAT * (4 * channels + components) * prod(_clipped_to(shape, shard))
    return results + 2 * (2 * FLOAT * channels + 1) * read_size(shape, shard, halo)


def choose_shard(
    shape: Sequence[int], core: Sequence[int], halo: int, values: tuple[int, int], spare_bytes: int
) -> tuple[int, ...]:
    """
    Region of a volume that one job owns and writes at once: tiles doubled along all axes while it fits and there are many.

    Parameters
    ----------
    core
        Of a tile.
    values
        Channels, and components of the embedding.
    spare_bytes
        What tiles leave of the memory.
    """
    shard = tuple(core)
    while True:
        larger = tuple(edge if edge >= size else 2 * edge for edge, size in zip(shard, shape, strict=True))
        count = prod(-(-size // edge) for size, edge in zip(shape, larger, strict=True))
        if (
            larger == shard
            or count < ENOUGH_SHARDS
            or max(_clipped_to(shape, larger)) > LARGEST_SHARD[len(shape)]
            or shard_bytes(shape, larger, halo, *values) > spare_bytes
        ):
            return shard
        shard = larger


@dataclass(frozen=True)
class Layout:
    """
    How a volume is processed.

    Attributes
    ----------
    core, halo
        Of the tiles that networks see.
    shard
        What one job owns and writes at once.
    voxel_bytes
        Upper bound of what one voxel of a tile needs.
    peak_bytes
        Upper bound of the memory of a job.
    """

    core: tuple[int, ...]
    halo: int
    shard: tuple[int, ...]
    voxel_bytes: int
    peak_bytes: int


def lay_out(
    shape: Sequence[int], architectures: Sequence[Architecture], components: int, memory_bytes: int, tile: int | None
) -> Layout:
    """
    Tiles and shards of a volume that fit the memory of one job.

    Parameters
    ----------
    components
        Of the embedding.
    tile
        Edge of a tile's core asked for; None chooses.

    Raises
    ------
    MemoryLimitError
        If not even the smallest tile fits, or the one asked for does not.
    """
    halo, voxel_bytes = ensemble_cost(architectures, components)
    core = choose_core(shape, halo, voxel_bytes, memory_bytes, tile)
    tile_bytes = projected_bytes(shape, core, halo, voxel_bytes)
    values = (architectures[0].out_channels, components)
    shard = choose_shard(shape, core, halo, values, memory_bytes - tile_bytes)
    held = shard_bytes(shape, shard, halo, *values) if shard != core else 0
    return Layout(core, halo, shard, voxel_bytes, tile_bytes + held)


def device_core(shard: Sequence[int], halo: int, voxel_bytes: int, free_bytes: int) -> tuple[int, ...]:
    """
    Core of a tile on a device of its own memory: the shard, its longest edge halved until it fits.

    Raises
    ------
    MemoryLimitError
        If not even the smallest tile fits.
    """
    core = list(shard)
    while voxel_bytes * prod(edge + 2 * halo for edge in core) > free_bytes:
        longest = core.index(max(core))
        if core[longest] <= STEP:
            raise MemoryLimitError(
                f"a tile of {STEP} voxels with a halo of {halo} does not fit into the {free_bytes / 1e9:.2f} GB that are free on "
                "the device; free it, or use a smaller network.radius_max, depth or width"
            )
        core[longest] = -(-core[longest] // 2)
    return tuple(core)


def _clipped_to(shape: Sequence[int], edges: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(size, edge) for size, edge in zip(shape, edges, strict=True))


def _clipped(shape: Sequence[int], edge: int) -> tuple[int, ...]:
    return tuple(min(size, edge) for size in shape)
