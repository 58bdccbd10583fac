"""Names, sizes and units of a field's axes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from behindthenoise.io import units


@dataclass(frozen=True)
class Geometry:
    """
    Names and sizes of a field's axes.

    Attributes
    ----------
    origin
        Where the middle of the first voxel lies along each axis of space, in units of length.
    """

    space: tuple[str, ...]
    spacing: tuple[float, ...]
    unit: str
    channels: tuple[str, ...]
    value_unit: str
    origin: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", tuple(self.origin) or (0.0,) * len(self.space))

    @property
    def voxel(self) -> str:
        """Size of a voxel, in words."""
        return " x ".join(f"{step:g}" for step in self.spacing) + f" {self.unit}"

    def differs(self, other: "Geometry") -> bool:
        """Whether voxels are of another size, by more than a hundredth."""
        factor = units.ratio(self.unit, other.unit)
        return factor is None or not np.allclose(np.multiply(self.spacing, factor), other.spacing, rtol=0.01, atol=0)

    def cropped(self, crop: Mapping[Any, tuple[int, int]]) -> "Geometry":
        """Of a part of the field, by the first voxel and the one after the last along some axes."""
        steps = zip(self.space, self.origin, self.spacing, strict=True)
        return replace(self, origin=tuple(start + step * crop.get(axis, (0, 0))[0] for axis, start, step in steps))


def coordinates(geometry: Geometry, shape: tuple[int, ...]) -> dict[str, Any]:
    """xarray coordinates of a field: channel names, and positions in units of length."""
    positions = {
        name: (name, start + np.arange(size) * step, {"units": geometry.unit})
        for name, size, step, start in zip(geometry.space, shape, geometry.spacing, geometry.origin, strict=True)
    }
    # strings of one fixed length have no place in the specification of Zarr 3
    return {"channel": ("channel", np.array(geometry.channels, dtype=object)), **positions}


def read_geometry(data: dict[str, Any]) -> Geometry:
    """Geometry from plain data."""
    return Geometry(
        tuple(data["space"]),
        tuple(data["spacing"]),
        data["unit"],
        tuple(data["channels"]),
        data["value_unit"],
        tuple(data.get("origin", ())),
    )
