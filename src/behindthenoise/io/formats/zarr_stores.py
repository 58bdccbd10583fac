"""Arrays in Zarr stores, of version 2 or 3, and what OME-Zarr tells of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore

from behindthenoise.errors import SourceError
from behindthenoise.io.formats.channels import CHANNEL_WORDS, names_in
from behindthenoise.io.formats.stored import Stored, choose, parents, reading

# Broken JSON is a ValueError, as are most of zarr's own errors; a key that the metadata lack is a KeyError.
ZARR_ERRORS = (ValueError, KeyError, OSError)


@dataclass(frozen=True)
class OmeLevel:
    """One resolution of an OME-Zarr image: its path below the image's group, and what the group tells of its axes."""

    path: str
    dims: tuple[str, ...]
    units: tuple[str | None, ...]
    spacing: tuple[float, ...]
    position: tuple[float, ...]


def read(files: Sequence[str], wanted: str | None, options: Mapping[str, Any] | None = None) -> Stored:
    """Array of a Zarr folder or URL, with the channel names and the scale that the groups around it tell."""
    with reading(files[0], *ZARR_ERRORS):
        place = files[0] if options is None else FsspecStore.from_url(files[0], dict(options), read_only=True)
        root = zarr.open(place, mode="r")
    if isinstance(root, zarr.Array):
        if wanted is not None:
            raise SourceError(f"{files[0]} is one array and holds no {wanted!r}; leave `array` out")
        return Stored(root, _dims(root), channel_names=tuple(names_in(root.attrs.asdict())))

    with reading(files[0], *ZARR_ERRORS):
        name, node = _array(root, wanted, files[0])
        groups = {parent: _group(root, parent) for parent in parents(name)}
        coordinates = list(_coordinates(next(iter(groups.values()))))
    names = [
        *coordinates,
        *names_in(node.attrs.asdict()),
        *(found for group in groups.values() for found in names_in(group.attrs.asdict())),
    ]
    stored = Stored(node, _dims(node), name, tuple(names))
    for parent, group in groups.items():
        for level in _ome_levels(group, files[0]):
            if _join(parent, level.path) == name:
                return replace(stored, dims=level.dims, spacing=level.spacing, units=level.units, position=level.position)
    return stored


def _array(root: zarr.Group, wanted: str | None, path: str) -> tuple[str, zarr.Array[Any]]:
    """Path and array that `wanted` means: an array, level 0 of an image group, or the only array where it is None."""
    name = (wanted or "").strip("/")
    node = root.get(name) if name else root
    if isinstance(node, zarr.Group) and (levels := _ome_levels(node, path)):
        name = _join(name, levels[0].path)
        node = root.get(name)
    if not isinstance(node, zarr.Array):
        arrays = {key: item for key, item in root.members(max_depth=None) if isinstance(item, zarr.Array)}
        name = choose({key: item.shape for key, item in arrays.items()}, wanted, path)
        node = arrays[name]
    return name, node


def _group(root: zarr.Group, name: str) -> zarr.Group:
    """Group below the root, or the root itself where the name is empty."""
    group = root[name] if name else root
    assert isinstance(group, zarr.Group)
    return group


def _dims(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    """Names of the axes: of Zarr 3, or as xarray writes them into Zarr 2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return tuple(names) if isinstance(names, list | tuple) and len(names) == array.ndim else (None,) * array.ndim


def _coordinates(group: zarr.Group) -> Iterator[tuple[str, ...]]:
    """Coordinates that stand beside an array as xarray writes them, under any of the names of a channel axis."""
    for name in CHANNEL_WORDS:
        node = group.get(name)
        if isinstance(node, zarr.Array) and node.ndim == 1:
            yield tuple(str(value) for value in np.asarray(node[:]))


def _ome_levels(group: zarr.Group, path: str) -> list[OmeLevel]:
    """Levels of the group's first multiscale image, the finest first; none where the group is no OME-Zarr image."""
    attributes = group.attrs.asdict()
    ome: Any = attributes.get("ome", attributes)
    if not isinstance(ome, dict) or not ome.get("multiscales"):
        return []
    with reading(path, KeyError, TypeError, IndexError, ValueError):
        image = ome["multiscales"][0]
        # Version 0.3 writes the names of the axes alone.
        axes = [{"name": axis} if isinstance(axis, str) else axis for axis in image["axes"]]
        dims = tuple(str(axis["name"]) for axis in axes)
        units = tuple(axis.get("unit") for axis in axes)
        return [OmeLevel(str(data["path"]), dims, units, *_ome_place(len(dims), data, image)) for data in image["datasets"]]


def _ome_place(count: int, *holders: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Spacing and position along each axis, by the transformations of a level, then of its image; empty where there is none."""
    spacing, position = [1.0] * count, [0.0] * count
    steps = [step for holder in holders for step in holder.get("coordinateTransformations", ())]
    for step in steps:
        for axis in range(count):
            factor, shift = (float(step[kind][axis]) if kind in step else none for kind, none in (("scale", 1), ("translation", 0)))
            spacing[axis], position[axis] = spacing[axis] * factor, position[axis] * factor + shift
    kinds = {kind for step in steps for kind in step}
    return tuple(spacing) if "scale" in kinds else (), tuple(position) if "translation" in kinds else ()


def _join(parent: str, name: str) -> str:
    """Path of a node below a group, the root being empty."""
    return f"{parent}/{name}" if parent else name
