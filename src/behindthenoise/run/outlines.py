"""What people see of regions: their outlines on a map, and the plane that is drawn."""

from collections.abc import Mapping
from math import isfinite, prod
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from behindthenoise.core.components import outline
from behindthenoise.io import stores
from behindthenoise.io.geometry import Geometry
from behindthenoise.io.npz import write_npz
from behindthenoise.io.record import write_json
from behindthenoise.io.tables import Value
from behindthenoise.io.volumes import STATISTICS

DRAWN_EDGE = 1200  # voxels along an axis of the plane that is drawn
OUTLINED = 1 << 24  # voxels of the largest box whose region gets an outline; a larger one gets its box


def write_outlines(path: Path, rows: list[dict[str, Value]], labels: zarr.Array[Any], geometry: Geometry) -> None:
    """GeoJSON of the regions, seen along the leading axes, with x and y in the unit of the volume's coordinates."""
    features = [
        {
            "type": "Feature",
            "id": row["region"],
            "properties": {key: value if isinstance(value, str) or isfinite(value) else None for key, value in row.items()},
            "geometry": {"type": "Polygon", "coordinates": rings_of(row, labels, geometry)},
        }
        for row in rows
    ]
    write_json(path, {"type": "FeatureCollection", "unit": geometry.unit, "features": features}, indent=None)


def rings_of(row: Mapping[str, Value], labels: zarr.Array[Any], geometry: Geometry) -> list[list[list[float]]]:
    """Rings of (x, y) around a region, the outer one first; around its box where that is too large to be read."""
    axes = zip(geometry.space, geometry.origin, geometry.spacing, strict=True)
    ends = [[round((float(row[f"{side}_{axis}"]) - start) / step + 0.5) for side in ("from", "to")] for axis, start, step in axes]
    corner, shape = [first for first, _ in ends], [stop - first for first, stop in ends]
    seen = np.ones(shape[-2:], bool)
    if prod(shape) <= OUTLINED:
        found = np.asarray(labels[tuple(slice(*pair) for pair in ends)]) == row["region"]
        seen = found.any(axis=tuple(range(found.ndim - 2)))
    (top, left), (along, across) = geometry.origin[-2:], geometry.spacing[-2:]
    return [
        [[left + (column + corner[-1] - 0.5) * across, top + (line + corner[-2] - 0.5) * along] for line, column in ring]
        for ring in outline(seen)
    ]


def draw(path: Path, ome: zarr.Group, channel: int, labels: zarr.Array[Any], geometry: Geometry) -> dict[str, Any]:
    """
    Write the plane that is drawn, median and regions, no finer than a page can show; returns what it is.

    It is the whole of a 2D field, and of a volume the plane along the last two axes with most of the regions' voxels.
    """
    regions, lead = da.from_zarr(labels), labels.ndim - 2
    totals = np.asarray((regions > 0).sum(axis=(lead, lead + 1)).compute())
    plane = tuple(int(place) for place in np.unravel_index(int(totals.argmax()), labels.shape[:lead])) if lead else ()
    level = 0
    while max(stores.get_array(ome, str(level)).shape[-2:]) > DRAWN_EDGE:
        level += 1
    image = stores.whole_array(ome, str(level))
    # the pyramid halves an axis or leaves it, and drops what is left over
    factors = [1 << round(np.log2(fine / coarse)) for fine, coarse in zip(labels.shape, image.shape[1:], strict=True)]
    where = tuple(min(place // factor, size - 1) for place, factor, size in zip(plane, factors, image.shape[1:], strict=False))
    median = np.asarray(image[(channel * len(STATISTICS) + STATISTICS.index("median"), *where)])
    drawn = da.coarsen(first_region, regions[plane], dict(enumerate(factors[lead:])), trim_excess=True).compute()
    write_npz(path, {"median": median, "regions": np.asarray(drawn)})
    return {
        "axes": geometry.space[lead:],
        "spacing": [step * factor for step, factor in zip(geometry.spacing[lead:], factors[lead:], strict=True)],
        # the middle of a pixel that stands for several is between theirs
        "origin": [
            start + step * (factor - 1) / 2
            for start, step, factor in zip(geometry.origin[lead:], geometry.spacing[lead:], factors[lead:], strict=True)
        ],
        "unit": geometry.unit,
        "value_unit": geometry.value_unit,
        "where": geometry.place_of(plane),
    }


def first_region(labels: np.ndarray, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """The region with the least number among voxels that are drawn as one; 0 where there is none."""
    # one less than 0 is the largest whole number, which no region has
    return np.asarray((labels - np.uint32(1)).min(axis=axis) + np.uint32(1))
