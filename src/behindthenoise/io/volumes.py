"""Stores of one volume: its input in canonical form, the ensemble's quantiles, maps of regions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from behindthenoise.errors import StoreError
from behindthenoise.io import stores
from behindthenoise.io.geometry import Geometry, coordinates, read_geometry
from behindthenoise.io.stores import Cut

STATISTICS = ("lower", "median", "upper", "width")
# what `infer` writes, before calibration, and in which type
RAW = {"quantiles": "float32", "spread": "float32", "embedding": "float16"}


@dataclass(frozen=True)
class Volume:
    """The input of one volume, lazily: arrays are read region by region."""

    noisy: zarr.Array[Any]  # (channel, *space)
    mask: zarr.Array[Any]  # (*space)
    geometry: Geometry

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(self.mask.shape)


def write_input(path: Path, noisy: xr.DataArray, mask: xr.DataArray, geometry: Geometry) -> dict[str, str]:
    """Copy a volume into a store of our own, chunk by chunk; returns the digest of each variable."""
    dims = ("channel", *geometry.space)
    variables = {
        "noisy": (dims, noisy.transpose(*dims).astype(np.float32).data),
        "mask": (geometry.space, mask.transpose(*geometry.space).data),
    }
    shape = tuple(noisy.sizes[name] for name in geometry.space)
    dataset = xr.Dataset(variables, coordinates(geometry, shape), {"geometry": asdict(geometry)})
    return stores.write_dataset(path, dataset, geometry.space)


def open_input(path: Path) -> Volume:
    """
    The input of a volume.

    Raises
    ------
    StoreError
        If the store is absent or incomplete.
    """
    group = stores.open_group(path)
    data = group.attrs.asdict().get("geometry")
    if not isinstance(data, dict):
        raise StoreError(f"store {path} has no geometry; delete its folder and run the workflow again")
    return Volume(stores.whole_array(group, "noisy"), stores.whole_array(group, "mask"), read_geometry(data))


def create_quantiles(path: Path, volume: Volume, core: Sequence[int], shard: Sequence[int], components: int) -> None:
    """Lay out the store that the jobs of `infer` fill: a file holds one shard, so no two jobs share one; a chunk holds one tile."""
    space, channels = volume.geometry.space, len(volume.geometry.channels)
    group = stores.create_group(
        path, {"instance": stores.new_instance(), "shard": list(shard), "geometry": asdict(volume.geometry)}
    )
    leading = {"quantiles": (3, channels), "spread": (channels,), "embedding": (components,)}
    names = {"quantiles": ("quantile", "channel"), "spread": ("channel",), "embedding": ("component",)}
    for name, dtype in RAW.items():
        shape, *cut = ((*leading[name], *edges) for edges in (volume.shape, core, shard))
        stores.create_array(group, name, shape, dtype=dtype, chunks=Cut(*cut), dims=(*names[name], *space))


@dataclass(frozen=True)
class Layout:
    """How the store of the quantiles was laid out: which creation of it, and the edges of a shard, which one job writes at once."""

    instance: str
    shard: tuple[int, ...]


def read_layout(group: zarr.Group) -> Layout:
    """
    Layout of a store of quantiles.

    Raises
    ------
    StoreError
        If it has none.
    """
    data: dict[str, Any] = dict(group.attrs.asdict())
    try:
        return Layout(data["instance"], tuple(data["shard"]))
    except (KeyError, TypeError) as problem:
        raise StoreError(f"store {group.store_path} has no layout; delete its folder and run the workflow again") from problem


def create_regions(path: Path, volume: Volume, kinds: Mapping[str, str]) -> zarr.Group:
    """
    Lay out maps of a volume beside its finished store, each (*space), with the coordinates that xarray reads.

    Parameters
    ----------
    kinds
        Type of the values of each map, by its name.
    """
    geometry, edges = volume.geometry, stores.CHUNK[len(volume.shape)]
    group = stores.create_group(path, {"geometry": asdict(geometry)})
    positions = coordinates(geometry, volume.shape)
    for name in geometry.space:
        _, values, attributes = positions[name]
        array = stores.create_array(group, name, (len(values),), dtype="float64", chunks=(len(values),), dims=(name,))
        array.update_attributes(attributes)
        array[:] = values
    cut = Cut([edges] * len(volume.shape), [stores.SHARD[len(volume.shape)]] * len(volume.shape))
    for name, dtype in kinds.items():
        stores.create_array(group, name, volume.shape, dtype=dtype, chunks=cut, dims=geometry.space)
    return group
