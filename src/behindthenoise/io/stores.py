"""Zarr stores: how arrays are laid out, compressed, protected against damage, and digested."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from behindthenoise.errors import StoreError

CHUNK = {2: 256, 3: 64}  # edge of a chunk by number of spatial dimensions
COMPRESSORS = (BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec())


def create_group(path: Path, attributes: Mapping[str, Any]) -> zarr.Group:
    """A new, empty store; whatever stood there is gone."""
    if path.exists():
        shutil.rmtree(path)
    return zarr.create_group(path, zarr_format=3, attributes=dict(attributes))


def create_array(
    group: zarr.Group, name: str, shape: Sequence[int], *, dtype: str, chunks: Sequence[int], dims: Sequence[str]
) -> zarr.Array[Any]:
    """A new array: compressed, with a check sum on every chunk; floats are NaN and integers 0 until written."""
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(min(chunk, size) for chunk, size in zip(chunks, shape, strict=True)),
        compressors=COMPRESSORS,
        fill_value=float("nan") if dtype.startswith("float") else 0,
        dimension_names=list(dims),
        config={"write_empty_chunks": True},
    )


def open_group(path: Path, mode: str = "r") -> zarr.Group:
    """
    An existing store.

    Raises
    ------
    StoreError
        If there is none.
    """
    try:
        return zarr.open_group(path, mode=mode)  # type: ignore[arg-type]  # zarr spells its modes as literals
    except (OSError, ValueError, zarr.errors.GroupNotFoundError) as problem:
        raise StoreError(f"store {path} cannot be opened ({problem}); delete its folder and run the workflow again") from problem


def get_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """
    An array of a store.

    Raises
    ------
    StoreError
        If the store has no such array.
    """
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise StoreError(f"store {group.store_path} has no array {name!r}; delete its folder and run the workflow again")
    return found


def new_instance() -> str:
    """A token that tells one creation of a store from the next, so that a re-created store is filled again."""
    return uuid.uuid4().hex


def whole(array: zarr.Array[Any] | np.ndarray, core: tuple[slice, ...]) -> tuple[slice, ...]:
    """A region of space with all of the leading axes."""
    return (*(slice(0, size) for size in array.shape[: array.ndim - len(core)]), *core)


def digest(array: zarr.Array[Any], region: tuple[slice, ...] | None = None) -> str:
    """
    SHA-256 of an array's values, read chunk by chunk: it depends on the chunks' shape, but not on their compression.

    Parameters
    ----------
    region
        Part to digest; None digests all.
    """
    bounds = region or tuple(slice(0, size) for size in array.shape)
    total = hashlib.sha256(f"{array.dtype}{[(part.start, part.stop) for part in bounds]}".encode())
    for block in blocks(array, bounds):
        total.update(np.ascontiguousarray(array[block]).tobytes())
    return total.hexdigest()


def blocks(array: zarr.Array[Any], bounds: tuple[slice, ...] | None = None) -> Iterator[tuple[slice, ...]]:
    """Regions of one chunk's size that together are the array, or the part of it within bounds that begins at a chunk."""
    bounds = bounds or tuple(slice(0, size) for size in array.shape)
    axes = [range(part.start, part.stop, chunk) for part, chunk in zip(bounds, array.chunks, strict=True)]
    for corner in product(*axes):
        yield tuple(
            slice(start, min(start + chunk, part.stop)) for start, chunk, part in zip(corner, array.chunks, bounds, strict=True)
        )


def write_dataset(path: Path, dataset: xr.Dataset, space: Sequence[str]) -> dict[str, str]:
    """
    Store labelled arrays so that `xarray.open_zarr` gives them back; returns the digest of each variable.

    Chunks hold one image, scan or channel and a cube of `CHUNK` voxels of space.
    """
    if path.exists():
        shutil.rmtree(path)
    edge = CHUNK[len(space)]
    encoding = {
        name: {
            "chunks": tuple(min(edge, size) if dim in space else 1 for dim, size in variable.sizes.items()),
            "compressors": COMPRESSORS,
        }
        for name, variable in dataset.data_vars.items()
    }
    chunked = dataset.chunk({dim: edge if dim in space else 1 for dim in dataset.dims})
    chunked.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    group = open_group(path)
    return {str(name): digest(get_array(group, str(name))) for name in sorted(map(str, dataset.data_vars))}


def fill(sources: Sequence[da.Array], targets: Sequence[zarr.Array[Any]]) -> None:
    """Write dask arrays into stored ones, a chunk at a time by several threads: no two threads share a chunk."""
    aligned = [source.rechunk(target.chunks) for source, target in zip(sources, targets, strict=True)]
    # dask's types know arrays in memory only as targets
    da.store(aligned, list(targets), lock=False, scheduler="threads")  # type: ignore[arg-type]
