"""Names, sizes and units of a field's axes."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """Names and sizes of a field's axes."""

    space: tuple[str, ...]
    spacing: tuple[float, ...]
    unit: str
    channels: tuple[str, ...]
    value_unit: str


def coordinates(geometry: Geometry, shape: tuple[int, ...]) -> dict[str, Any]:
    """xarray coordinates of a field: channel names, and positions in units of length."""
    positions = {
        name: (name, np.arange(size) * step, {"units": geometry.unit})
        for name, size, step in zip(geometry.space, shape, geometry.spacing, strict=True)
    }
    # strings of one fixed length have no place in the specification of Zarr 3
    return {"channel": ("channel", np.array(geometry.channels, dtype=object)), **positions}


def read_geometry(data: dict[str, Any]) -> Geometry:
    """Geometry from plain data."""
    return Geometry(tuple(data["space"]), tuple(data["spacing"]), data["unit"], tuple(data["channels"]), data["value_unit"])
