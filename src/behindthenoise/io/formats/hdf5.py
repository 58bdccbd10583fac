"""Datasets in HDF5 files."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import h5py

from behindthenoise.io.formats.channels import CHANNEL_WORDS, names_in
from behindthenoise.io.formats.stored import Stored, choose, parents, reading


def read(files: Sequence[str], wanted: str | None) -> Stored:
    """Dataset of an HDF5 file, which stays open as long as the dataset is in use."""
    with reading(files[0], OSError):
        root = h5py.File(files[0], mode="r")
    node: Any = root.get(wanted) if wanted else None
    if not _is_dataset(node):
        shapes: dict[str, tuple[int, ...]] = {}
        root.visititems(lambda name, item: shapes.update({name: item.shape}) if _is_dataset(item) else None)
        node = root[choose(shapes, wanted, files[0])]
    name = node.name.strip("/")
    groups = [root[parent] if parent else root for parent in parents(name)]
    names = [
        *_coordinates(groups[0]),
        *names_in(node.attrs),
        *(found for group in groups for found in names_in(group.attrs)),
    ]
    return Stored(node, tuple(_dim(dim) for dim in node.dims), name, tuple(names))


def _is_dataset(node: object) -> bool:
    """Whether an HDF5 object is an array with a shape."""
    return isinstance(node, h5py.Dataset) and node.shape is not None


def _dim(dim: Any) -> str | None:
    """Name of an axis: its label, otherwise that of the scale attached to it."""
    if dim.label:
        return str(dim.label)
    return PurePosixPath(dim[0].name).name if len(dim) else None


def _coordinates(group: Any) -> Iterator[tuple[str, ...]]:
    """Coordinates that stand beside an array, under any of the names of a channel axis."""
    for name in CHANNEL_WORDS:
        node = group.get(name)
        if _is_dataset(node) and len(node.shape) == 1:
            values = node.asstr()[:] if h5py.check_string_dtype(node.dtype) else node[:]
            yield tuple(str(value) for value in values)
