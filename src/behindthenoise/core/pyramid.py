"""Shapes of an image pyramid."""

from collections.abc import Sequence

SMALLEST = 64  # an axis this short is not halved


def shapes_of_levels(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Spatial shape of each level: axes longer than 64 voxels are halved, rounding down, until none is left."""
    levels = [tuple(shape)]
    while any(size > SMALLEST for size in levels[-1]):
        levels.append(tuple(size // 2 if size > SMALLEST else size for size in levels[-1]))
    return levels
