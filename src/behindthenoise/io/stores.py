"""Zarr stores: how arrays are laid out, compressed, protected against damage, found again, and digested."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from behindthenoise.errors import StoreError

DIGEST_LENGTH = 2 * xxhash.xxh3_128().digest_size  # characters
CHUNK = {2: 256, 3: 64}  # edge of a chunk by number of spatial dimensions
SHARD = {2: 1024, 3: 128}  # edge of what one file of a finished volume holds
UNFINISHED = {".partial", ".__lock"}  # of files that Zarr and tensorstore are writing, or that a killed writer has left
COMPRESSORS = (BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec())


def create_group(path: Path, attributes: Mapping[str, Any]) -> zarr.Group:
    """A new, empty store; whatever stood there is gone."""
    if path.exists():
        shutil.rmtree(path)
    return zarr.create_group(path, zarr_format=3, attributes=dict(attributes))


class Cut(NamedTuple):
    """
    How an array is cut into files.

    Attributes
    ----------
    chunk
        Edges of what is compressed at once.
    shard
        Edges of what one file holds; they are made multiples of a chunk's.
    """

    chunk: Sequence[int]
    shard: Sequence[int]

    def of(self, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Chunks and shards of an array of this shape, neither larger than it must be."""
        chunk = tuple(map(min, self.chunk, shape))
        return chunk, tuple(edge * -(-min(size, file) // edge) for edge, file, size in zip(chunk, self.shard, shape, strict=True))


def create_array(
    group: zarr.Group, name: str, shape: Sequence[int], *, dtype: str, chunks: Sequence[int] | Cut, dims: Sequence[str]
) -> zarr.Array[Any]:
    """
    A new array: compressed, with a check sum on every chunk; floats are NaN and integers 0 until written.

    Parameters
    ----------
    chunks
        Edges of chunks, each in a file of its own, or of chunks and shards.
    """
    chunk, shard = chunks.of(shape) if isinstance(chunks, Cut) else (tuple(map(min, chunks, shape)), None)
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=chunk,
        shards=shard,
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


def whole_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """
    An array of a store all of whose files are there: in the place of one that is lost, Zarr reads the value of what is not written.

    Raises
    ------
    StoreError
        If the store has no such array, or files of it are lost.
    """
    array = get_array(group, name)
    folder, expected = folder_of(array), prod(-(-size // edge) for size, edge in zip(array.shape, files(array), strict=True))
    there = sum(name.isdigit() for _, _, names in os.walk(folder / "c") for name in names)
    if there < expected:
        raise StoreError(
            f"{expected - there} of the {expected} files of {folder} are lost; `btn verify` says how they are made again"
        )
    return array


def metadata_digest(store: Path) -> str:
    """SHA-256 of all metadata of a store: what its arrays are called, how they are cut, and their attributes."""
    total = hashlib.sha256()
    for path in sorted(store.rglob("zarr.json")):
        total.update(f"{path.relative_to(store)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def new_instance() -> str:
    """A token that tells one creation of a store from the next, so that a re-created store is filled again."""
    return uuid.uuid4().hex


def whole(array: zarr.Array[Any] | np.ndarray, core: tuple[slice, ...]) -> tuple[slice, ...]:
    """A region of space with all of the leading axes."""
    return (*(slice(0, size) for size in array.shape[: array.ndim - len(core)]), *core)


def files(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Edges of what one file holds: no two writers may share one."""
    return tuple(array.shards or array.chunks)


def index_of(array: zarr.Array[Any], region: Sequence[slice]) -> tuple[int, ...]:
    """Number, along each axis, of the file that a region begins in."""
    return tuple(part.start // edge for part, edge in zip(region, files(array), strict=True))


def folder_of(array: zarr.Array[Any]) -> Path:
    """Where an array lies."""
    return Path(str(array.store_path).removeprefix("file://"))


def file_of(array: zarr.Array[Any], region: Sequence[slice]) -> Path:
    """The file that a region begins in."""
    return folder_of(array) / array.metadata.encode_chunk_key(index_of(array, region))


def digest(array: zarr.Array[Any], region: tuple[slice, ...] | None = None, kind: Callable[[bytes], Any] = xxhash.xxh3_128) -> str:
    """
    Digest of an array's values, read file by file: it depends on the files' shape, but not on their compression.

    Parameters
    ----------
    region
        Part to digest; None digests all.
    kind
        XXH3 finds damage (docs/decisions/0022); what must not be forged takes `hashlib.sha256`.
    """
    bounds = region or tuple(slice(0, size) for size in array.shape)
    return digest_of((np.asarray(array[block]) for block in blocks(array, bounds)), array.dtype, bounds, kind)


def digest_of(
    parts: Iterable[np.ndarray], dtype: np.dtype[Any], bounds: tuple[slice, ...], kind: Callable[[bytes], Any] = xxhash.xxh3_128
) -> str:
    """Digest of the parts, one after another, of what lies within bounds."""
    total = kind(f"{dtype}{[(part.start, part.stop) for part in bounds]}".encode())
    for values in parts:
        total.update(np.ascontiguousarray(values, dtype).data)
    return str(total.hexdigest())


def blocks(array: zarr.Array[Any], bounds: tuple[slice, ...] | None = None) -> Iterator[tuple[slice, ...]]:
    """Regions of one file's size that together are the array, or the part of it within bounds that begins at a file."""
    bounds = bounds or tuple(slice(0, size) for size in array.shape)
    edges = files(array)
    axes = [range(part.start, part.stop, edge) for part, edge in zip(bounds, edges, strict=True)]
    for corner in product(*axes):
        yield tuple(slice(start, min(start + edge, part.stop)) for start, edge, part in zip(corner, edges, bounds, strict=True))
