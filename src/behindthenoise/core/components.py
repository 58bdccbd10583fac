"""Connected voxels of one class: labelled by block, joined across blocks, measured, outlined. Faces connect, edges do not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Pairs = Int64[np.ndarray, " _ 2"]
# Labels and classes of the voxels on one side of a border.
Face = tuple[Integer[np.ndarray, " *face"], Integer[np.ndarray, " *face"] | Bool[np.ndarray, " *face"]]
Corner = tuple[int, int]
Ring = list[Corner]

# Sides of a pixel, walked with the pixel on the right hand: heading, the pixel beyond, and the corner that it leaves from.
SIDES: tuple[tuple[Corner, Corner, Corner], ...] = (
    ((0, 1), (-1, 0), (0, 0)),
    ((1, 0), (0, 1), (0, 1)),
    ((0, -1), (1, 0), (1, 1)),
    ((-1, 0), (0, -1), (1, 0)),
)


def labelled(
    classes: Integer[np.ndarray, " *space"] | Bool[np.ndarray, " *space"],
) -> tuple[Int64[np.ndarray, " *space"], Int64[np.ndarray, " component"]]:
    """
    Number of the component of each voxel, from 1, and the class of each component; class 0 belongs to none.

    Only voxels of one class are connected.
    """
    found = np.zeros(classes.shape, np.int64)
    kinds: list[int] = []
    for kind in np.unique(classes[classes != 0]).tolist():
        part, count = ndimage.label(classes == kind)
        found += np.where(part, part + len(kinds), 0)
        kinds += [kind] * count
    return found, np.array(kinds, np.int64)


def touching(one: Face, other: Face) -> Pairs:
    """Pairs of components that are one, from what lies on both sides of a border between blocks."""
    meets = (one[0] != 0) & (other[0] != 0) & (one[1] == other[1])
    pairs: Pairs = np.unique(np.stack([one[0][meets], other[0][meets]], axis=1).astype(np.int64), axis=0)
    return pairs


def joined(count: int, pairs: Sequence[Pairs]) -> Int64[np.ndarray, " label"]:
    """For each of `count` labels, and for 0 at the front, a number that joined ones share; from 0, which stays 0."""
    both = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    graph = coo_array((np.ones(len(both), bool), (both[:, 0] - 1, both[:, 1] - 1)), shape=(count, count))
    found = connected_components(graph, directed=False)[1]
    return np.concatenate([[0], found.astype(np.int64) + 1])


@dataclass(frozen=True, eq=False)
class Sums:
    """
    Sums over the voxels of each component, which add up over blocks.

    Attributes
    ----------
    voxels
        Number of voxels.
    first, last
        Corners of the box around them; the last voxel is inside.
    position
        Sum of their positions.
    values, least, largest
        Of each measured quantity the sum, least and largest value.
    """

    voxels: Int64[np.ndarray, " component"]
    first: Int64[np.ndarray, " component axis"]
    last: Int64[np.ndarray, " component axis"]
    position: Float64[np.ndarray, " component axis"]
    values: Float64[np.ndarray, " component quantity"]
    least: Float64[np.ndarray, " component quantity"]
    largest: Float64[np.ndarray, " component quantity"]

    @staticmethod
    def empty(count: int, axes: int, quantities: int) -> "Sums":
        """Of so many components nothing yet."""
        return Sums(
            np.zeros(count, np.int64),
            np.full((count, axes), np.iinfo(np.int64).max),
            np.full((count, axes), -1, np.int64),
            np.zeros((count, axes)),
            np.zeros((count, quantities)),
            np.full((count, quantities), np.inf),
            np.full((count, quantities), -np.inf),
        )

    def add(
        self, labels: Integer[np.ndarray, " *space"], quantities: Float64[np.ndarray, " quantity *space"], corner: Sequence[int]
    ) -> None:
        """Add the voxels of one block, in place; 0 labels nothing."""
        where = np.nonzero(labels)
        # the components of the block alone, so that a block costs what it holds
        present, place = np.unique(labels[where].astype(np.int64), return_inverse=True)
        chosen, count = present - 1, present.size
        order = np.argsort(place, kind="stable")
        runs = np.flatnonzero(np.diff(place[order], prepend=-1))
        self.voxels[chosen] += np.bincount(place, minlength=count)
        for axis, (start, positions) in enumerate(zip(corner, where, strict=True)):
            along = positions[order] + start
            self.position[chosen, axis] += np.add.reduceat(along, runs) if count else 0
            self.first[chosen, axis] = np.minimum(self.first[chosen, axis], np.minimum.reduceat(along, runs) if count else 0)
            self.last[chosen, axis] = np.maximum(self.last[chosen, axis], np.maximum.reduceat(along, runs) if count else 0)
        for row, quantity in enumerate(quantities):
            along = quantity[where][order]
            self.values[chosen, row] += np.add.reduceat(along, runs) if count else 0
            self.least[chosen, row] = np.minimum(self.least[chosen, row], np.minimum.reduceat(along, runs) if count else 0)
            self.largest[chosen, row] = np.maximum(self.largest[chosen, row], np.maximum.reduceat(along, runs) if count else 0)


def outline(mask: Bool[np.ndarray, " row column"]) -> list[Ring]:
    """
    Closed rings of corners (row, column) around a connected mask, along the edges of pixels: the outer one, then those of holes.

    Pixel (i, j) reaches from corner (i, j) to (i + 1, j + 1). Rings turn at every corner that they name, and end where they begin.
    """
    padded = np.pad(mask, 1)
    leaves: dict[Corner, list[Corner]] = {}
    for heading, outside, start in SIDES:
        bare = mask & ~padded[tuple(slice(1 + step, 1 + step + size) for step, size in zip(outside, mask.shape, strict=True))]
        for row, column in np.argwhere(bare).tolist():
            leaves.setdefault((row + start[0], column + start[1]), []).append(heading)
    rings = []
    for start in sorted(leaves):
        while start in leaves:
            rings.append(_ring(leaves, start))
    return sorted(rings, key=lambda ring: -abs(_enclosed(ring)))


def _ring(leaves: dict[Corner, list[Corner]], start: Corner) -> Ring:
    """The ring from a corner back to it out of the edges that leave each corner; its edges are taken out."""
    at, ring = start, [start]
    heading = leaves[at].pop(0)
    while True:
        ahead = (at[0] + heading[0], at[1] + heading[1])
        if not leaves[at]:
            del leaves[at]
        at = ahead
        if at == start:
            return [*ring, start]
        ways = leaves[at]
        # where pixels meet at a corner only, the ring stays with its own pixel: a turn to the right
        right = (heading[1], -heading[0])
        turn = right if right in ways else ways[0]
        ways.remove(turn)
        if turn != heading:
            ring.append(at)
        heading = turn


def _enclosed(ring: Ring) -> float:
    """Signed area of a ring in pixels (the shoelace formula)."""
    rows, columns = np.array(ring, np.float64).T
    return float(np.sum(columns[:-1] * rows[1:] - columns[1:] * rows[:-1]) / 2)
