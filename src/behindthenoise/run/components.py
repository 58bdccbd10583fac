"""Connected components of stored arrays, block by block: labelled into a store, renumbered, measured; no field is held whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import zarr
from jaxtyping import Int64

from behindthenoise.core import components
from behindthenoise.core.components import Face, Pairs, Sums
from behindthenoise.io import stores
from behindthenoise.io.geometry import Geometry
from behindthenoise.io.tables import Value

# What is read region by region.
Readable = da.Array | zarr.Array[Any] | np.ndarray
Labels = zarr.Array[Any]


@dataclass
class Parts:
    """
    Components of the blocks so far, before those of neighbours are joined.

    Memory grows with their number, and with one layer of faces between blocks.

    Attributes
    ----------
    kinds, sizes, firsts
        Of each: class, voxels, and place of its first voxel in the whole array.
    pairs
        Those that are one.
    faces
        Labels and classes on the last layer of each block that has no neighbour behind it yet, by axis and the neighbour's corner.
    """

    kinds: list[np.ndarray] = field(default_factory=lambda: [np.zeros(1, np.int64)])
    sizes: list[np.ndarray] = field(default_factory=lambda: [np.zeros(1, np.int64)])
    firsts: list[np.ndarray] = field(default_factory=lambda: [np.full(1, -1, np.int64)])
    pairs: list[Pairs] = field(default_factory=list)
    faces: dict[tuple[int, tuple[int, ...]], Face] = field(default_factory=dict)
    count: int = 0

    def add(self, classes: np.ndarray, region: tuple[slice, ...], shape: Sequence[int]) -> Int64[np.ndarray, " *space"]:
        """Labels of one more block, unlike those of all others."""
        found, kinds = components.labelled(classes)
        inside = np.nonzero(found)
        place = np.ravel_multi_index([axis + part.start for axis, part in zip(inside, region, strict=True)], shape)
        label, first = found[inside], np.empty(kinds.size + 1, np.int64)
        first[label[::-1]] = place[::-1]  # of repeated indices the last one stays, which is the first voxel
        self.kinds.append(kinds)
        self.sizes.append(np.bincount(label, minlength=kinds.size + 1)[1:])
        self.firsts.append(first[1:])
        found[inside] += self.count
        self.count += kinds.size
        self._meet(found, classes, region)
        return found

    def _meet(self, found: np.ndarray, classes: np.ndarray, region: tuple[slice, ...]) -> None:
        """Pairs with the blocks before this one along each axis; the far faces are kept for those behind it."""
        corner = tuple(part.start for part in region)
        for axis, part in enumerate(region):
            before = self.faces.pop((axis, corner), None)
            if before is not None:
                self.pairs.append(components.touching(before, (found.take(0, axis), classes.take(0, axis))))
            behind = (*corner[:axis], part.stop, *corner[axis + 1 :])
            self.faces[axis, behind] = found.take(-1, axis), classes.take(-1, axis)

    def numbers(self, smallest: int) -> Int64[np.ndarray, " label"]:
        """Final number of each label, from 1 in the order of the first voxels; 0 where a component is too small."""
        joined = components.joined(self.count, self.pairs)
        sizes = np.bincount(joined, np.concatenate(self.sizes)).astype(np.int64)
        firsts = np.full(sizes.size, np.iinfo(np.int64).max)
        np.minimum.at(firsts, joined, np.concatenate(self.firsts))
        kept = np.flatnonzero(sizes >= smallest)
        kept = kept[kept > 0]
        final = np.zeros(sizes.size, np.int64)
        final[kept[np.argsort(firsts[kept])]] = np.arange(1, kept.size + 1)
        numbers: Int64[np.ndarray, " label"] = final[joined]
        return numbers


def connected(classes: Readable, labels: Labels, *, smallest: int = 1) -> int:
    """
    Write the number of each voxel's component into an empty array of labels; returns how many there are.

    Parameters
    ----------
    classes
        A mask, or a class for each voxel, such as its token; voxels of one class are connected by faces, class 0 is none.
    labels
        Whole numbers, shaped alike. Components are numbered by their first voxel, however the array is cut into files.
    smallest
        Components of fewer voxels get 0.
    """
    parts = Parts()
    for region in stores.blocks(labels):
        labels[region] = parts.add(np.asarray(classes[region]), region, labels.shape)
    numbers = parts.numbers(smallest)
    renumber(labels, numbers)
    return int(numbers.max())


def renumber(labels: Labels, numbers: Int64[np.ndarray, " label"]) -> None:
    """Put another number in the place of each label; that of 0 stands at the front."""
    for region in stores.blocks(labels):
        labels[region] = numbers[np.asarray(labels[region])]


def measure(labels: Labels, count: int, values: Mapping[str, Readable]) -> tuple[Sums, list[str]]:
    """
    Sums over each component, of its voxels and of each quantity, with the quantities' names in the order of the columns.

    Parameters
    ----------
    values
        Arrays shaped as the labels; read only where a block has a component, and finite there.
    """
    sums, names = Sums.empty(count, labels.ndim, len(values)), list(values)
    for region in stores.blocks(labels):
        found = np.asarray(labels[region])
        if found.any():
            quantities = [np.asarray(values[name][region], np.float64) for name in names]
            sums.add(found, np.array(quantities).reshape(len(names), *found.shape), [part.start for part in region])
    return sums, names


def located(sums: Sums, index: int, geometry: Geometry) -> dict[str, Value]:
    """Columns of one component: its voxels, area or volume, centre and box; positions are those of the volume's coordinates."""
    voxels = int(sums.voxels[index])
    row: dict[str, Value] = {"voxels": voxels, **geometry.extent(voxels)}
    for number, (axis, start, step) in enumerate(zip(geometry.space, geometry.origin, geometry.spacing, strict=True)):
        row[f"centre_{axis}"] = start + float(sums.position[index, number]) / voxels * step
        # coordinates are those of the middles of voxels
        row[f"from_{axis}"] = start + (int(sums.first[index, number]) - 0.5) * step
        row[f"to_{axis}"] = start + (int(sums.last[index, number]) + 0.5) * step
    return {**row, "unit": geometry.unit}
