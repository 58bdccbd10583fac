"""Where training patches lie, and how much each voxel of one counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Grid:
    """Windows along one axis: `count` of them, `step` apart, that cover `size` voxels exactly."""

    size: int
    window: int
    step: int
    count: int

    @classmethod
    def covering(cls, size: int, patch: int, border: int) -> "Grid":
        """
        Grid whose windows are `patch` wide, or at most a quarter wider, so that the last one ends where the axis ends.

        Windows overlap by twice the border, so that every voxel is inside some window. An axis no longer than that is one window.
        """
        rest = max(size - patch, 0)
        # qlty cuts nothing but equal steps, so what they leave over widens every window: the widest step that leaves little
        step = next(step for step in range(max(patch - 2 * border, 1), 0, -1) if rest % step <= patch // 4)
        gaps = rest // step
        return cls(size, size - gaps * step, step, gaps + 1)


def lay_out(shape: Sequence[int], patch: int, border: int) -> tuple[list[Grid], int]:
    """Windows along each axis of an image, and the frame in which a network sees padding: at most a quarter of a patch."""
    border = min(border, patch // 4)
    return [Grid.covering(size, patch, border) for size in shape], border


def places(grids: Sequence[Grid]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Number along each axis and region of every window of an image, in the order of qlty's patches."""
    for index in product(*(range(grid.count) for grid in grids)):
        starts = (number * grid.step for number, grid in zip(index, grids, strict=True))
        yield index, tuple(slice(start, start + grid.window) for start, grid in zip(starts, grids, strict=True))


def frame(grids: Sequence[Grid], border: int, border_weight: float, index: Sequence[int]) -> Float[np.ndarray, " *window"]:
    """
    Weights of one window in the loss, before it is known which voxels count; `index` is its number along each axis.

    They are qlty's border weights, but that a frame has full weight where the window ends with the image.
    """
    inside = np.ones([grid.window for grid in grids], bool)
    for axis, (grid, number) in enumerate(zip(grids, index, strict=True)):
        width = min(border, (grid.window - 1) // 2)
        position = np.arange(grid.window)
        low, high = position < width * (number > 0), position >= grid.window - width * (number < grid.count - 1)
        inside &= ~(low | high).reshape([-1 if other == axis else 1 for other in range(len(grids))])
    return np.where(inside, np.float32(1), np.float32(border_weight))
