"""Verb `describe`: a finished volume → what its tokens and classes are made of, and the connected regions of each class."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from jaxtyping import Int64

from behindthenoise.config import TokensConfig
from behindthenoise.io import stores, tables, volumes
from behindthenoise.io.geometry import Geometry
from behindthenoise.io.record import log, write_json
from behindthenoise.io.tables import Value
from behindthenoise.io.volumes import STATISTICS
from behindthenoise.run.components import connected, measure
from behindthenoise.stages import Spec

Row = dict[str, Value]


def run(spec: Spec, *, finished: Path, known: Path, coverage: Path, folder: Path, manifest: Path) -> None:
    """Write `tokens.csv` and, where there are classes, `classes.csv` and `class_regions.csv`."""
    classes = spec.part("tokens", TokensConfig).classes
    volume = volumes.open_input(finished.with_name(finished.name.removesuffix(".ome.zarr")) / "input.zarr")
    group, geometry = stores.open_group(finished), volume.geometry
    quantities = measured(group, geometry)
    learned, composed = tables.read(known), described(group, "tokens", quantities, geometry, "token")
    judged = covered(tables.read(coverage), len(learned))
    rows = [{**one, **two, **three} for one, two, three in zip(learned, composed, judged, strict=True)]
    tables.write(folder / "tokens.csv", rows)
    log(f"describe: {len(rows)} tokens")
    # those of classes that the config no longer names
    for old in ("classes.csv", "class_regions.csv"):
        (folder / old).unlink(missing_ok=True)
    shutil.rmtree(folder / "class_regions.zarr", ignore_errors=True)
    if classes:
        composed = described(group, "classes", quantities, geometry, "class")
        tables.write(folder / "classes.csv", [{**row, "class": name} for name, row in zip(classes, composed, strict=True)])
        found = regions_of(group, list(classes), quantities, geometry, folder)
        tables.write(folder / "class_regions.csv", found)
        log(f"describe: {len(found)} connected regions of {len(classes)} classes")
    write_json(manifest, {"stage": "describe", "tokens": len(rows), "classes": list(classes)})


def measured(group: zarr.Group, geometry: Geometry) -> dict[str, da.Array]:
    """Median and its square, and width of every channel, and the novelty, a file at a time; 0 where masked."""
    image = stores.get_array(group, "0")
    every = da.nan_to_num(da.from_array(image, chunks=(1, *stores.files(image)[1:]), name=False))
    found: dict[str, da.Array] = {}
    for position, channel in enumerate(geometry.channels):
        median, width = (every[position * len(STATISTICS) + STATISTICS.index(name)] for name in ("median", "width"))
        found |= {f"mean_{channel}": median, f"square_{channel}": median.astype(np.float64) ** 2, f"width_{channel}": width}
    return {**found, "novelty": every[-1]}


def described(group: zarr.Group, name: str, quantities: Mapping[str, da.Array], geometry: Geometry, what: str) -> list[Row]:
    """
    One row for each number of a label image.

    Its share of the labelled voxels, its area or volume, mean and standard deviation of the medians, mean width and novelty, and
    the number of which most voxels touch it.
    """
    labels = stores.get_array(group, f"labels/{name}/0")
    metadata: Any = group[f"labels/{name}"].attrs["ome"]
    count = len(metadata["image-label"]["colors"])
    sums, names = measure(labels, count, quantities)
    size = float(np.prod(geometry.spacing))
    touching = contacts(labels, count)
    rows: list[Row] = []
    for number, (voxels, values) in enumerate(zip(sums.voxels.tolist(), sums.values, strict=True), start=1):
        mean = dict(zip(names, values / voxels if voxels else np.full(len(names), np.nan), strict=True))
        row: Row = {what: number, "share": voxels / max(int(sums.voxels.sum()), 1), "voxels": voxels, "size": voxels * size}
        for channel in geometry.channels:
            middle = float(mean[f"mean_{channel}"])
            row |= {
                f"mean_{channel}": middle,
                f"spread_{channel}": float(np.sqrt(np.maximum(mean[f"square_{channel}"] - middle**2, 0))),
                f"width_{channel}": float(mean[f"width_{channel}"]),
            }
        others = touching[number - 1]
        row |= {
            "novelty": float(mean["novelty"]),
            "neighbour": int(others.argmax()) + 1 if others.any() else 0,
            "neighbour_share": float(others.max() / max(others.sum(), 1)),
        }
        rows.append(row)
    return rows


def contacts(labels: zarr.Array[Any], count: int) -> Int64[np.ndarray, " number number"]:
    """Faces that voxels of each two numbers from 1 share; none of a number with itself."""
    every = da.from_array(labels, chunks=stores.files(labels), name=False).astype(np.int64)
    total = np.zeros((count + 1) ** 2, np.int64)
    for axis in range(labels.ndim):
        ahead = (slice(None),) * axis
        both = every[(*ahead, slice(0, -1))] * (count + 1) + every[(*ahead, slice(1, None))]
        if both.size:
            total += np.asarray(da.bincount(both.ravel(), minlength=total.size).compute())
    found = total.reshape(count + 1, count + 1)[1:, 1:]
    found = found + found.T
    np.fill_diagonal(found, 0)
    return found


def covered(rows: list[Row], tokens: int) -> list[Row]:
    """Coverage of the test data in each token, by channel; NaN where no test voxel has it."""
    channels = sorted({str(row["channel"]) for row in rows})
    known = {(int(row["token"]), str(row["channel"])): row["coverage"] for row in rows}
    return [
        {f"coverage_{channel}": known.get((token, channel), float("nan")) for channel in channels} for token in range(1, tokens + 1)
    ]


def regions_of(
    group: zarr.Group, classes: list[str], quantities: Mapping[str, da.Array], geometry: Geometry, folder: Path
) -> list[Row]:
    """Connected regions of every class, the largest first: size, position and box in units of length, elongation of the box."""
    labels = stores.get_array(group, "labels/classes/0")
    space = geometry.space
    target = stores.create_array(
        stores.create_group(folder / "class_regions.zarr", {}),
        "region",
        labels.shape,
        dtype="uint32",
        chunks=stores.Cut(labels.chunks, stores.files(labels)),
        dims=space,
    )
    count = connected(labels, target)
    means = {name: values for name, values in quantities.items() if not name.startswith("square_")}
    sums, names = measure(target, count, {"class": da.from_zarr(labels), **means})
    spacing = np.array(geometry.spacing)
    rows: list[Row] = []
    for region in np.argsort(-sums.voxels, kind="stable").tolist():
        voxels = int(sums.voxels[region])
        centre, box = sums.position[region] / voxels * spacing, (sums.last[region] - sums.first[region] + 1) * spacing
        mean = dict(zip(names, (sums.values[region] / voxels).tolist(), strict=True))
        rows.append(
            {
                "class": classes[round(mean.pop("class")) - 1],
                "region": region + 1,
                "voxels": voxels,
                "size": voxels * float(spacing.prod()),
                **{f"centre_{axis}": float(value) for axis, value in zip(space, centre, strict=True)},
                **{f"from_{axis}": float(value) for axis, value in zip(space, sums.first[region] * spacing, strict=True)},
                **{f"extent_{axis}": float(value) for axis, value in zip(space, box, strict=True)},
                "filled": voxels / float(np.prod(sums.last[region] - sums.first[region] + 1)),
                **mean,
            }
        )
    return rows
