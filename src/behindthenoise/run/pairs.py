"""The store of the pairs: noisy and clean fields, who uses which voxel, and the constants of their scale."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import zarr
from jaxtyping import Bool

from behindthenoise.config import Selection
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import Split
from behindthenoise.errors import StoreError
from behindthenoise.io.geometry import Axes, Geometry, parse_axes, placed
from behindthenoise.io.stores import get_array, open_group, whole_array

Fields = TypeVar("Fields", np.ndarray, zarr.Array[Any])
Told = Mapping[str, Mapping[str, Any]]  # by the sources `noisy` and `clean`, of their voxels; by none of generated pairs


@dataclass(frozen=True, eq=False)
class Pairs(Generic[Fields]):
    """
    Everything that the networks may learn from and be judged by.

    Attributes
    ----------
    noisy, clean
        Fields (image, scan, channel, *space) and (image, channel, *space), in memory or on disk.
    displaced
        Which scans are displaced against each other, in words.
    """

    noisy: Fields
    clean: Fields
    mask: Bool[np.ndarray, " image *space"]
    split: Split
    scale: Scale
    axes: Axes
    gap: int
    told: Told = field(default_factory=dict)
    displaced: Sequence[str] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of one field."""
        return self.mask.shape[1:]


Loaded: TypeAlias = Pairs[np.ndarray]
Stored: TypeAlias = Pairs[zarr.Array[Any]]


def opened(path: Path) -> Stored:
    """
    The pairs, with the fields on disk, to be read in parts.

    Raises
    ------
    StoreError
        If the store is absent or incomplete, or files of it are lost.
    """
    group = open_group(path)
    known: dict[str, Any] = dict(group.attrs.asdict())
    with _readable(path):
        mask, role, unit = (np.asarray(whole_array(group, name)[...]) for name in ("mask", "role", "unit"))
    return Pairs(
        noisy=whole_array(group, "noisy"),
        clean=whole_array(group, "clean"),
        mask=mask.astype(bool),
        split=Split(role, unit),
        scale=read_scale(path),
        axes=read_axes(path),
        gap=known["gap"],
        told=known["told"],
        displaced=known["displaced"],
    )


def read(path: Path) -> Loaded:
    """
    The pairs, all in memory.

    Raises
    ------
    StoreError
        As of `opened`.
    """
    found = opened(path)
    with _readable(path):
        noisy, clean = (np.asarray(array[...]) for array in (found.noisy, found.clean))
    return Pairs(noisy, clean, found.mask, found.split, found.scale, found.axes, found.gap, found.told, found.displaced)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Reads in here that fail on damaged data name the store."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as problem:
        raise StoreError(f"pairs {path} cannot be read ({problem}); delete the folder and run the workflow again") from problem


def read_scale(path: Path) -> Scale:
    """The constants of the scale alone, without the fields."""
    attributes = open_group(path).attrs.asdict()
    scale = attributes.get("scale")
    if not isinstance(scale, dict):
        raise StoreError(f"pairs {path} hold no scale; delete the folder and run the workflow again")
    return _parse_scale(scale)


def read_axes(path: Path) -> Axes:
    """What the axes are called, without the fields."""
    return parse_axes(open_group(path).attrs.asdict().get("axes"), path)


def read_told(path: Path) -> Told:
    """What the sources tell of their voxels, without the fields."""
    known: dict[str, Any] = dict(open_group(path).attrs.asdict())
    return dict(known.get("told", {}))


def read_geometry_by_files(path: Path) -> Geometry:
    """Where voxels lie and how large they are as far as the sources tell, whatever the configuration says."""
    return placed(read_axes(path).measured(), better_told(read_told(path)), Selection(), {})


def better_told(told: Told) -> Mapping[str, Any]:
    """What the source of the slow scan tells of its voxels, else that of the fast scans."""
    return next((told[name] for name in ("clean", "noisy") if "spacing" in told.get(name, {})), told.get("clean", {}))


def noisy_shape(path: Path) -> tuple[int, ...]:
    """Images, scans, channels and voxels along each axis, without reading a field."""
    return get_array(open_group(path), "noisy").shape


def _parse_scale(data: dict[str, Any]) -> Scale:
    return Scale(**{key: tuple(values) for key, values in data.items()})
