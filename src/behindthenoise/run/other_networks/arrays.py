"""Other people's arrays, as NPY files or Zarr arrays: opened, checked against each other, read and written block by block."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float32, Int64, Shaped

from behindthenoise.core.calibration.units import Units
from behindthenoise.errors import ConfigError, SourceError
from behindthenoise.io import stores
from behindthenoise.io.formats.numpy_files import NpyFile
from behindthenoise.io.formats.stored import ArrayLike
from behindthenoise.io.formats.zarr_stores import ZARR_ERRORS
from behindthenoise.io.record import file_digest
from behindthenoise.words import in_edges

LAYOUTS = ("y x", "z y x", "image y x", "image z y x")
# Voxels that are computed on at a time: they stay in a processor's cache.
PIECE = 1 << 18
# Kinds of dtype, and in words.
REAL, WHOLE, FLAG = ("fiu", "real or whole numbers"), ("iu", "whole numbers"), ("biu", "true or false, or whole numbers")
KINDS = {"lower": REAL, "median": REAL, "upper": REAL, "truth": REAL, "spread": REAL, "mask": FLAG, "tokens": WHOLE}
QUANTILES = ("lower", "median", "upper")

Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Voxels:
    """
    Voxels of one part of the arrays that are not masked.

    Attributes
    ----------
    corner
        Where the part begins: image, then position.
    chosen
        Which voxels of the part are here.
    given
        Theirs as they are stored, by the name of the array, in the order of `chosen`.
    values
        The same, measured and predicted ones in float32: infinite where that ends.
    """

    corner: Int64[np.ndarray, " axis"]
    chosen: Bool[np.ndarray, " image *space"]
    given: Mapping[str, Shaped[np.ndarray, " n"]]
    values: Mapping[str, Shaped[np.ndarray, " n"]]

    @property
    def quantiles(self) -> Float32[np.ndarray, " 3 n"]:
        """Lower, median and upper."""
        return np.stack([self.values[name] for name in QUANTILES])

    def rounded(self, name: str) -> Bool[np.ndarray, " n"]:
        """Where an array holds numbers that float32 does not."""
        given, values = self.given[name], self.values[name]
        if np.can_cast(given.dtype, values.dtype):
            return np.zeros(given.shape, bool)
        with np.errstate(invalid="ignore"):  # back in whole numbers, infinity has none
            return np.asarray((values.astype(given.dtype) != given) & ~np.isnan(values))

    def units(self, units: Units) -> Int64[np.ndarray, " n"]:
        """Id of the unit of each voxel."""
        image, *start = self.corner.tolist()
        origin = np.array(start, np.int64)[:, None]
        found = [units.ids(image + index, np.stack(np.nonzero(chosen)) + origin) for index, chosen in enumerate(self.chosen)]
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Arrays:
    """
    Arrays of one shape, on disk.

    Attributes
    ----------
    paths
        Where each array is, by its name in `KINDS`.
    stored
        The arrays, not read yet.
    shape
        Images, then space: one image, unless `with_axes` says otherwise.
    """

    paths: Mapping[str, Path]
    stored: Mapping[str, ArrayLike]
    shape: tuple[int, ...]

    @classmethod
    def open(cls, paths: Mapping[str, Path | None]) -> "Arrays":
        """
        Arrays by name, of which those without a path are left out; nothing but their metadata is read.

        Raises
        ------
        SourceError
            If a file is missing or unreadable, is empty, holds another kind of values, or differs in shape from the others.
        """
        given = {name: path for name, path in paths.items() if path is not None}
        stored = {name: open_array(path) for name, path in given.items()}
        first = next(iter(stored))
        for name, array in stored.items():
            kinds, words = KINDS[name]
            if array.dtype.kind not in kinds:
                raise SourceError(f"--{name} {given[name]} holds {array.dtype}, and must hold {words}; save it in such a type")
            if 0 in array.shape or not array.shape:
                raise SourceError(f"--{name} {given[name]} has no voxels ({in_edges(array.shape)}); give an array that has some")
            if array.shape != stored[first].shape:
                raise SourceError(
                    f"--{name} {given[name]} is {in_edges(array.shape)}, but --{first} {given[first]} "
                    f"{in_edges(stored[first].shape)}; all arrays must show the same voxels"
                )
        return cls(given, stored, (1, *stored[first].shape))

    def with_axes(self, axes: str | None) -> "Arrays":
        """
        The same arrays, their first axis taken as it is meant.

        Parameters
        ----------
        axes
            One of `LAYOUTS`; None takes the only one that has so many axes.

        Raises
        ------
        ConfigError
            If the axes are unknown, do not fit, or cannot be guessed.
        """
        shape = self.shape[1:]
        fitting = [layout for layout in LAYOUTS if len(layout.split()) == len(shape)]
        chosen = fitting if axes is None else [layout for layout in fitting if layout.split() == axes.split()]
        if len(chosen) != 1:
            asked = "not given" if axes is None else repr(axes)
            raise ConfigError(
                f"--axes is {asked}, and the arrays are {in_edges(shape)}; use "
                + (" or ".join(repr(layout) for layout in fitting) or f"arrays with the axes {', '.join(map(repr, LAYOUTS))}")
            )
        return replace(self, shape=shape) if "image" in chosen[0] else self

    def only(self, name: str) -> "Arrays":
        """One of them by itself."""
        return replace(self, paths={name: self.paths[name]}, stored={name: self.stored[name]})

    @property
    def chunk(self) -> tuple[int, ...]:
        """What is stored together, in the array whose chunks are largest."""
        known = [chunk for array in self.stored.values() if (chunk := chunk_of(array)) is not None]
        largest = max(known, key=prod, default=())
        return (*(1,) * (len(self.shape) - len(largest)), *largest)

    def blocks(self) -> Iterator[tuple[Region, dict[str, Shaped[np.ndarray, " image *space"]]]]:
        """All values, in regions of whole chunks."""
        for region in regions(self.shape, self.chunk):
            yield region, self.read(region)

    def voxels(self) -> Iterator[Voxels]:
        """All voxels that are not masked, piece by piece."""
        for region, block in self.blocks():
            corner = _corner(region)
            for piece in regions(tuple(part.stop - part.start for part in region)):
                yield _voxels({name: values[piece] for name, values in block.items()}, corner + _corner(piece))

    def valid(self, image: int) -> Bool[np.ndarray, " *space"]:
        """Which voxels of one image are not masked."""
        if "mask" not in self.stored:
            return np.ones(self.shape[1:], bool)
        array, region = self.stored["mask"], (slice(image, image + 1), *(slice(0, size) for size in self.shape[1:]))
        return np.asarray(np.asarray(array[region[-len(array.shape) :]]).reshape(self.shape[1:]) != 0)

    def voxels_in(self, region: Region) -> Voxels:
        """Voxels of a small region that are not masked."""
        return _voxels(self.read(region), _corner(region))

    def read(self, region: Region) -> dict[str, Shaped[np.ndarray, " image *space"]]:
        """Values of all arrays in a region, as they are stored."""
        shape = tuple(part.stop - part.start for part in region)
        return {name: np.asarray(array[region[-len(array.shape) :]]).reshape(shape) for name, array in self.stored.items()}

    def origins(self) -> dict[str, dict[str, str]]:
        """Path and SHA-256 of each array: of the bytes of a file, of the values of a Zarr array."""
        return {
            name: {
                "path": str(self.paths[name]),
                "sha256": stores.digest(array, kind=hashlib.sha256)
                if isinstance(array, zarr.Array)
                else file_digest(self.paths[name]),
            }
            for name, array in self.stored.items()
        }


def open_array(path: Path) -> ArrayLike:
    """
    An NPY file, mapped, or a Zarr array, which may lie in a group.

    Raises
    ------
    SourceError
        If there is none.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give an NPY file or the folder of a Zarr array")
    if not path.is_dir() and path.suffix.lower() != ".npy":
        raise SourceError(f"{path} is neither an NPY file nor the folder of a Zarr array; save the array as one of them")
    try:
        found = zarr.open(path, mode="r") if path.is_dir() else NpyFile(str(path))
    except (*ZARR_ERRORS, EOFError) as problem:
        raise SourceError(f"{path} cannot be read ({type(problem).__name__}: {problem}); save the array anew") from problem
    if isinstance(found, zarr.Group):
        names = ", ".join(str(path / name) for name, _ in sorted(found.arrays())) or "none"
        raise SourceError(f"{path} is a group and no array; give the path of an array inside: {names}")
    return found


def single(values: Shaped[np.ndarray, " *shape"]) -> Float32[np.ndarray, " *shape"]:
    """Numbers as float32, infinite where that ends."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def chunk_of(array: ArrayLike) -> tuple[int, ...] | None:
    """Shape of what is written at once; None where voxels simply follow each other."""
    return getattr(array, "shards", None) or getattr(array, "chunks", None)


def regions(shape: Sequence[int], chunk: Sequence[int] | None = None) -> Iterator[Region]:
    """Parts of as many whole chunks as make a piece, and of one chunk at least, that together are all of a shape."""
    step = [min(part, size) for part, size in zip(chunk or (1,) * len(shape), shape, strict=True)]
    for axis in reversed(range(len(shape))):
        step[axis] = min(shape[axis], step[axis] * max(1, PIECE // prod(step)))
    for corner in product(*(range(0, size, part) for size, part in zip(shape, step, strict=True))):
        yield tuple(slice(start, min(start + part, size)) for start, part, size in zip(corner, step, shape, strict=True))


def writer(path: Path, like: ArrayLike) -> Callable[[Region, Float32[np.ndarray, " *region"]], None]:
    """What fills a new array region by region: float32, stored in the way and in the shape of another."""
    shape = like.shape
    if isinstance(like, zarr.Array):
        array: Any = zarr.create_array(
            path,
            shape=shape,
            dtype="float32",
            chunks=like.chunks,
            shards=like.shards,
            compressors=stores.COMPRESSORS,
            fill_value=float("nan"),
            dimension_names=getattr(like.metadata, "dimension_names", None),
            overwrite=True,
        )
    else:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)

    def write(region: Region, values: Float32[np.ndarray, " *region"]) -> None:
        # mapped anew each time, or all that was written would stay in memory
        target = array if isinstance(like, zarr.Array) else np.lib.format.open_memmap(path, mode="r+")
        own = region[-len(shape) :]
        target[own] = values.reshape([part.stop - part.start for part in own])

    return write


def _voxels(values: Mapping[str, np.ndarray], corner: Int64[np.ndarray, " axis"]) -> Voxels:
    """Those that are not masked."""
    shape = next(iter(values.values())).shape
    chosen = values["mask"] != 0 if "mask" in values else np.ones(shape, bool)
    given = {name: part[chosen] for name, part in values.items() if name != "mask"}
    return Voxels(corner, chosen, given, {name: single(part) if KINDS[name] is REAL else part for name, part in given.items()})


def _corner(region: Region) -> Int64[np.ndarray, " axis"]:
    return np.array([part.start for part in region], np.int64)
