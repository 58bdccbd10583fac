"""Names of a field's axes; where its voxels lie and how large they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from behindthenoise.config import Selection
from behindthenoise.errors import SourceError, StoreError
from behindthenoise.io import units
from behindthenoise.io.record import read_json, write_json


@dataclass(frozen=True)
class Axes:
    """What the axes and values of a field are called: all that networks need to know of it besides its values."""

    space: tuple[str, ...]
    channels: tuple[str, ...]
    value_unit: str

    def as_data(self) -> dict[str, Any]:
        """Plain data, from which `parse_axes` makes axes."""
        return {"space": list(self.space), "channels": list(self.channels), "value_unit": self.value_unit}

    def measured(self, spacing: Sequence[float] = (), unit: str = "pixel") -> "Geometry":
        """A field with these axes and voxels of some size; of none where nobody knows it yet."""
        return Geometry(self.space, self.channels, self.value_unit, tuple(spacing), unit)


@dataclass(frozen=True)
class Geometry(Axes):
    """
    Where the voxels of a field lie, and how large they are.

    Attributes
    ----------
    spacing
        Size of a voxel along each axis of space, in units of length.
    origin
        Where the middle of the first voxel lies along each axis of space, in units of length.
    """

    spacing: tuple[float, ...]
    unit: str = "pixel"
    origin: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", tuple(self.origin) or (0.0,) * len(self.space))

    @property
    def voxel(self) -> str:
        """Size of a voxel, in words."""
        return " x ".join(f"{step:g}" for step in self.spacing) + f" {self.unit}"

    def extent(self, voxels: int) -> dict[str, float | str]:
        """Area or volume of so many voxels and its unit, as columns of a table."""
        name = "area" if len(self.space) == 2 else "volume"
        return {name: voxels * prod(self.spacing), f"{name}_unit": f"{self.unit}^{len(self.space)}"}

    def place_of(self, plane: Sequence[int]) -> list[str]:
        """Where a plane lies along the axes before its own, in words, by the index along each of them."""
        axes = zip(self.space, self.origin, self.spacing, plane, strict=False)
        return [f"{axis} = {start + step * index:.8g} {self.unit}" for axis, start, step, index in axes]

    def differs(self, other: "Geometry") -> bool:
        """Whether voxels are of another size, by more than a hundredth."""
        factor = units.ratio(self.unit, other.unit)
        return factor is None or not np.allclose(np.multiply(self.spacing, factor), other.spacing, rtol=0.01, atol=0)

    def cropped(self, crop: Mapping[Any, tuple[int, int]]) -> "Geometry":
        """Of a part of the field, by the first voxel and the one after the last along some axes."""
        steps = zip(self.space, self.origin, self.spacing, strict=True)
        return replace(self, origin=tuple(start + step * crop.get(axis, (0, 0))[0] for axis, start, step in steps))


UNNAMED = "channels_by_position"  # a file that does not name each channel is taken to have them in the order of the pairs


def told_by(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Of the attributes of a source, what it tells of its voxels, its own name, and whether not each of its channels has one."""
    return {key: attributes[key] for key in ("origin", "spacing", "position", "unit", UNNAMED) if key in attributes}


def placed(geometry: Geometry, told: Mapping[str, Any], selection: Selection, spacing: Mapping[Any, float]) -> Geometry:
    """
    The geometry of the selected part of a source: voxel sizes and positions as the config gives them, else as the file tells.

    Parameters
    ----------
    geometry
        Names of the axes; its spacing and unit hold where nobody tells any.
    told
        Attributes of the source: `spacing`, `position` and `unit`, or some of them.
    spacing
        By the config, in the unit of `geometry`; empty where it gives none.

    Raises
    ------
    SourceError
        If the config names an axis that is not there, or the spacing of some axes alone.
    """
    expect_axes(geometry.space, selection.origin, spacing, str(told.get("origin", "the fields")))
    sizes, unit = _sizes(geometry, told, spacing)
    places = {**told_positions(told, unit), **selection.origin}
    return replace(
        geometry,
        spacing=tuple(sizes.get(axis, 1.0) for axis in geometry.space),
        unit=units.named(unit),
        origin=tuple(places.get(axis, 0.0) for axis in geometry.space),
    ).cropped(selection.crop)


def expect_axes(space: Sequence[str], origin: Mapping[Any, float], spacing: Mapping[Any, float], where: str = "the fields") -> None:
    """
    Nothing, if the config places axes that there are, and gives a size along all of them or none.

    Raises
    ------
    SourceError
        Names the axis and those that there are.
    """
    for key, given in (("spacing", spacing), ("origin", origin)):
        for axis in given:
            if axis not in space:
                raise SourceError(f"{key} of {axis} does not fit {where}; its axes are {' '.join(space)}")
    if spacing and set(spacing) != set(space):
        raise SourceError(f"spacing gives {' '.join(spacing)}; it must give every axis: {' '.join(space)}")


def _sizes(geometry: Geometry, told: Mapping[str, Any], spacing: Mapping[Any, float]) -> tuple[Mapping[Any, float], str]:
    """Size of a voxel along each axis, as far as anybody tells it, and its unit."""
    usual = dict(zip(geometry.space, geometry.spacing, strict=False))
    if spacing or "spacing" not in told:
        return spacing or usual, geometry.unit
    unit = told.get("unit", geometry.unit)
    factor = units.ratio(geometry.unit, unit)
    # what the file leaves out is as usual
    sizes = {**({axis: step * factor for axis, step in usual.items()} if factor else {}), **told["spacing"]}
    # who tells the size of a pixel, but not the distance of slices, tells no size
    return (sizes, unit) if set(geometry.space) <= set(sizes) else (usual, geometry.unit)


def told_positions(told: Mapping[str, Any], unit: str) -> Mapping[Any, float]:
    """Where a file's first voxel lies, in a unit; nothing if the file's own is unlike it."""
    factor = units.ratio(told.get("unit", unit), unit)
    return {axis: place * factor for axis, place in told.get("position", {}).items()} if factor else {}


def positions(geometry: Geometry, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Where the middle of each voxel lies along each axis of space, in units of length."""
    axes = zip(geometry.space, shape, geometry.spacing, geometry.origin, strict=True)
    return {name: start + np.arange(size) * step for name, size, step, start in axes}


def named_channels(axes: Axes) -> dict[str, Any]:
    """xarray coordinate of the channels."""
    # strings of one fixed length have no place in the specification of Zarr 3
    return {"channel": ("channel", np.array(axes.channels, dtype=object))}


def parse_axes(data: object, where: Path) -> Axes:
    """
    Axes from the plain data of a store.

    Raises
    ------
    StoreError
        If they are not there.
    """
    try:
        named: Any = data
        return Axes(tuple(named["space"]), tuple(named["channels"]), str(named["value_unit"]))
    except (KeyError, TypeError) as problem:
        raise StoreError(f"store {where} has no axes; delete its folder and run the workflow again") from problem


def write_geometry(path: Path, geometry: Geometry) -> None:
    """Write a geometry as plain data."""
    write_json(path, asdict(geometry))


def read_geometry(path: Path) -> Geometry:
    """
    A geometry, as `write_geometry` wrote it.

    Raises
    ------
    StoreError
        If it is not there, or not whole.
    """
    try:
        return TypeAdapter(Geometry).validate_python(read_json(path))
    except ValidationError as problem:
        raise StoreError(f"{path} holds no geometry; delete it and run the workflow again") from problem
