"""Tiles with a halo: every voxel is written once, and read with everything that it depends on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Segment:
    """A stretch of one axis: `core` is written, `read` is the core with its halo, cut at the ends of the axis."""

    core: slice
    read: slice

    @property
    def inside(self) -> slice:
        """Where the core lies within what was read."""
        return slice(self.core.start - self.read.start, self.core.stop - self.read.start)


@dataclass(frozen=True)
class Tile:
    """A product of segments, one per axis."""

    segments: tuple[Segment, ...]

    @property
    def core(self) -> tuple[slice, ...]:
        """Region that this tile writes."""
        return tuple(segment.core for segment in self.segments)

    @property
    def read(self) -> tuple[slice, ...]:
        """Region that this tile reads."""
        return tuple(segment.read for segment in self.segments)

    @property
    def inside(self) -> tuple[slice, ...]:
        """Where the core lies within what was read."""
        return tuple(segment.inside for segment in self.segments)

    @property
    def margin(self) -> tuple[tuple[int, int], ...]:
        """Voxels that are read before and after the core along each axis."""
        return tuple((segment.core.start - segment.read.start, segment.read.stop - segment.core.stop) for segment in self.segments)


def segments(size: int, core: int, halo: int, within: slice) -> list[Segment]:
    """Segments that cut a part of an axis into cores of `core` voxels; the last may be shorter."""
    return [
        Segment(slice(start, stop), slice(max(start - halo, 0), min(stop + halo, size)))
        for start in range(within.start, within.stop, core)
        for stop in [min(start + core, within.stop)]
    ]


def tiles(shape: Sequence[int], core: Sequence[int], halo: int, within: Sequence[slice] | None = None) -> list[Tile]:
    """
    Tiles of a volume, or of a region of it, in C order.

    Where a tile ends with the volume it has no halo, and the network pads it just as it pads the whole volume; elsewhere
    the halo holds everything that the core depends on. So the result does not depend on the tiling.
    """
    region = within or [slice(0, size) for size in shape]
    axes = [segments(size, edge, halo, part) for size, edge, part in zip(shape, core, region, strict=True)]
    return [Tile(parts) for parts in product(*axes)]


def relative(region: Sequence[slice], origin: Sequence[slice]) -> tuple[slice, ...]:
    """A region counted from the corner of another one."""
    return tuple(slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(region, origin, strict=True))


def share(count: int, job: int, jobs: int) -> range:
    """Indices that job number `job` (from 0) of `jobs` owns: contiguous, disjoint, together all of `count`."""
    return range(count * job // jobs, count * (job + 1) // jobs)


def read_size(shape: Sequence[int], core: Sequence[int], halo: int) -> int:
    """Voxels of the largest tile with its halo."""
    return int(np.prod([min(size, edge + 2 * halo) for size, edge in zip(shape, core, strict=True)]))
