"""What counts as one sample of the calibration data: an image, or a block of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int64

# From this many images on they are the units; with fewer, what differs between images cannot be told.
ENOUGH_IMAGES = 5

Kind = Literal["image", "block"]
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Units:
    """
    Which unit a voxel belongs to; all scans of one field share its units.

    Attributes
    ----------
    kind
        Whole images, or blocks.
    edge
        Edge of a block in voxels; ignored for images.
    origins
        For every image, the first corner of the box around its calibration voxels: blocks are counted from there, so that the gap
        to training cuts as few of them as it can.
    grid
        Blocks along each axis in the largest box.
    """

    kind: Kind
    edge: int
    origins: Int64[np.ndarray, " image axis"]
    grid: tuple[int, ...]

    @classmethod
    def of(cls, kind: Kind, edge: int, boxes: Sequence[Box | None]) -> "Units":
        """
        Units of fields whose calibration voxels lie in these boxes.

        Parameters
        ----------
        boxes
            For every image, the box around its calibration voxels; None where it has none.
        """
        axes = next(len(box) for box in boxes if box is not None)
        origins = np.array([[part.start for part in box] if box else [0] * axes for box in boxes], np.int64)
        extents = np.array([[part.stop - part.start for part in box] for box in boxes if box])
        return cls(kind, edge, origins, tuple(int(-(-size // edge)) for size in extents.max(axis=0)))

    def ids(self, image: int, positions: Int[np.ndarray, " axis n"]) -> Int64[np.ndarray, " n"]:
        """Id of the unit of each voxel; positions are counted from the image's own corner."""
        if self.kind == "image":
            return np.full(positions.shape[1], image, np.int64)
        # voxels of another role may lie outside the box; they go with the blocks at its border
        cell = np.clip((positions - self.origins[image][:, None]) // self.edge, 0, np.array(self.grid)[:, None] - 1)
        blocks = int(np.prod(self.grid))
        return np.asarray(image * blocks + np.ravel_multi_index(tuple(cell), self.grid), np.int64)


def kind_of(images: int, asked: Literal["auto", "image", "block"]) -> Kind:
    """
    What the units are, for so many images with calibration voxels.

    With `auto`, images where there are enough of them to tell how images differ; else blocks.
    """
    if asked != "auto":
        return asked
    return "image" if images >= ENOUGH_IMAGES else "block"


def blocks_with(chosen: Bool[np.ndarray, " *space"], edge: int) -> int:
    """Blocks of so many voxels' edge that hold some of what is true, counted from the corner of the box around it."""
    box = box_around(chosen)
    if box is None:
        return 0
    found = chosen[box]
    for axis, size in enumerate(found.shape):
        found = np.logical_or.reduceat(found, np.arange(0, size, edge), axis=axis)
    return int(found.sum())


def box_around(chosen: Bool[np.ndarray, " *space"]) -> Box | None:
    """The smallest box around all that is true; None around nothing."""
    if not chosen.any():
        return None
    ends = []
    for axis in range(chosen.ndim):
        along = np.flatnonzero(chosen.any(axis=tuple(other for other in range(chosen.ndim) if other != axis)))
        ends.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(ends)
