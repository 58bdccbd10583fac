"""Stores of one volume: its input in canonical form, the ensemble's quantiles, maps of regions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zarr

from behindthenoise.errors import StoreError
from behindthenoise.io import stores
from behindthenoise.io.geometry import Axes, Geometry, parse_axes, positions
from behindthenoise.io.stores import Cut

STATISTICS = ("lower", "median", "upper", "width")
# what `infer` writes, before calibration, and in which type
RAW = {"quantiles": "float32", "spread": "float32", "embedding": "float16"}


@dataclass(frozen=True)
class Volume:
    """The input of one volume, lazily: arrays are read region by region."""

    noisy: zarr.Array[Any]  # (channel, *space)
    mask: zarr.Array[Any]  # (*space)
    axes: Axes
    told: Mapping[str, Any] = field(default_factory=dict)  # by its source, of where voxels lie and how large they are

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(self.mask.shape)


def open_input(path: Path) -> Volume:
    """
    The input of a volume.

    Raises
    ------
    StoreError
        If the store is absent or incomplete.
    """
    group = stores.open_group(path)
    known: dict[str, Any] = dict(group.attrs.asdict())
    axes = parse_axes(known.get("axes"), path)
    return Volume(stores.whole_array(group, "noisy"), stores.whole_array(group, "mask"), axes, known["told"])


def create_quantiles(path: Path, volume: Volume, core: Sequence[int], shard: Sequence[int], components: int) -> None:
    """Lay out the store that the jobs of `infer` fill: a file holds one shard, so no two jobs share one; a chunk holds one tile."""
    space, channels = volume.axes.space, len(volume.axes.channels)
    group = stores.create_group(path, {"instance": stores.new_instance(), "shard": list(shard)})
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


def create_regions(path: Path, shape: Sequence[int], geometry: Geometry, kinds: Mapping[str, str]) -> zarr.Group:
    """
    Lay out maps of a volume beside its finished store, each (*space), with the coordinates that xarray reads.

    Parameters
    ----------
    kinds
        Type of the values of each map, by its name.
    """
    group = stores.create_group(path, {"geometry": asdict(geometry)})
    for name, values in positions(geometry, tuple(shape)).items():
        array = stores.create_array(group, name, (len(values),), dtype="float64", chunks=(len(values),), dims=(name,))
        array.update_attributes({"units": geometry.unit})
        array[:] = values
    cut = Cut([stores.CHUNK[len(shape)]] * len(shape), [stores.SHARD[len(shape)]] * len(shape))
    for name, dtype in kinds.items():
        stores.create_array(group, name, shape, dtype=dtype, chunks=cut, dims=geometry.space)
    return group
