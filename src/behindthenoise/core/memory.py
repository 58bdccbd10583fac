"""What a tile costs in memory, known before the first one is read."""

from collections.abc import Sequence

from behindthenoise.config import NetworkConfig
from behindthenoise.core.graph import Graph
from behindthenoise.core.tiling import read_size
from behindthenoise.errors import MemoryLimitError

FLOAT = 4
# interpreter, torch and zarr with nothing loaded: 320 MB measured; the rest is for the networks and the allocator
BASELINE_BYTES = 600_000_000
REORDERED = 2 * 16  # oneDNN copies what goes in and out, in blocks of 16 channels
STEP = 16  # cores are multiples of this, so that stores have chunks of a sensible size
LARGEST_CORE = {2: 512, 3: 128}  # larger tiles save little halo


def ensemble_cost(graphs: Sequence[Graph], config: NetworkConfig, channels: int, components: int) -> tuple[int, int]:
    """Halo in voxels and bytes per voxel that all networks with these graphs need."""
    return max(graph.radius for graph in graphs), max(
        bytes_per_voxel(graph, channels=channels, latent=config.latent, head=config.head, components=components) for graph in graphs
    )


def bytes_per_voxel(graph: Graph, *, channels: int, latent: int, head: int, components: int) -> int:
    """
    Upper bound of what one voxel of a tile needs while an ensemble runs and its results are stored.

    Every feature map of the largest network is counted as if none were freed, plus the widest one padded and convolved,
    the heads, and eight copies of the results. They are not all there at once, but after some tiles the heap is in pieces
    and holds about that much: measured 0.4 to 1.0 of it.
    """
    widths = graph.channels(channels)
    leaving = sum(widths[node] for node in graph.outputs)
    hidden = sum(widths) + 2 * max(widths) + 2 * graph.width * max(len(targets) for targets in graph.targets)
    heads = 3 * (latent + head) + 4 * 3 * channels
    results = 8 * (3 * channels + components)
    return FLOAT * (hidden + leaving + REORDERED + heads + results)


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


def _clipped(shape: Sequence[int], edge: int) -> tuple[int, ...]:
    return tuple(min(size, edge) for size in shape)
