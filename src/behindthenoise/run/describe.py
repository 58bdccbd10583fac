"""Verb `describe`: a finished volume → what its tokens and classes are made of, and the connected regions of each class."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int64

from behindthenoise.config import TokensConfig
from behindthenoise.core.components import Sums
from behindthenoise.io import stores, tables
from behindthenoise.io.geometry import Geometry, read_geometry
from behindthenoise.io.record import log, write_json
from behindthenoise.io.tables import Value
from behindthenoise.io.volumes import STATISTICS
from behindthenoise.run.components import connected, located
from behindthenoise.stages import Spec

Row = dict[str, Value]
SMALLEST = 9  # voxels of a region of a class; what is smaller is speckle, of which there may be millions


def run(spec: Spec, *, finished: Path, geometry: Path, known: Path, coverage: Path, folder: Path, manifest: Path) -> list[Path]:
    """Write `tokens.csv` and, where there are classes, `classes.csv`, `class_regions.csv` and their map; returns the tables."""
    classes = sorted(spec.part("tokens", TokensConfig).classes)
    group, placed = stores.open_group(finished), read_geometry(geometry)
    learned, composed = tables.read(known), described(group, "tokens", placed)
    judged = covered(tables.read(coverage), len(learned))
    total = max(sum(int(row["voxels"]) for row in composed), 1)
    rows = [{**one, **two, **three} for one, two, three in zip(learned, composed, judged, strict=True)]
    of_tokens, of_classes, of_regions = written = [folder / f"{name}.csv" for name in ("tokens", "classes", "class_regions")]
    tables.write(of_tokens, [{**row, "share": int(row["voxels"]) / total} for row in rows])
    log(f"describe: {len(rows)} tokens")
    # those of classes that the config no longer names
    for old in (of_classes, of_regions):
        old.unlink(missing_ok=True)
    shutil.rmtree(of_regions.with_suffix(".zarr"), ignore_errors=True)
    digests = {}
    if classes:
        named = [{"class": name, **row} for name, row in zip(classes, described(group, "classes", placed), strict=True)]
        tables.write(of_classes, [{**row, "share": int(row["voxels"]) / total} for row in named])
        target = map_of_regions(of_regions.with_suffix(".zarr"), group, placed)
        found = regions_of(target, group, classes, placed)
        tables.write(of_regions, found)
        digests["region"] = stores.digest(target)
        log(f"describe: {len(found)} connected regions of {len(classes)} classes")
    write_json(manifest, {"stage": "describe", "tokens": len(rows), "classes": classes, "digests": digests})
    return [path for path in written if path.exists()]


def names_of(channels: Sequence[str]) -> list[str]:
    """Quantities that are summed, in their order: of each channel the median, its square and the width, then the novelty."""
    return [*(f"{what}_{channel}" for channel in channels for what in ("mean", "square", "width")), "novelty"]


def summed(labels: zarr.Array[Any], count: int, image: zarr.Array[Any], channels: int) -> Sums:
    """Sums of all quantities over the voxels of each number from 1, file by file; 0 where masked."""
    sums = Sums.empty(count, labels.ndim, 3 * channels + 1)
    median, width = (STATISTICS.index(name) for name in ("median", "width"))
    for region in stores.blocks(labels):
        found = np.asarray(labels[region])
        if found.any():
            values = np.nan_to_num(np.asarray(image[(slice(None), *region)]).astype(np.float64))
            bands = values[: channels * len(STATISTICS)].reshape(channels, len(STATISTICS), *found.shape)
            each = np.stack([bands[:, median], bands[:, median] ** 2, bands[:, width]], axis=1)
            sums.add(found, np.concatenate([each.reshape(-1, *found.shape), values[-1:]]), [part.start for part in region])
    return sums


def described(group: zarr.Group, name: str, geometry: Geometry) -> list[Row]:
    """
    One row for each number of a label image.

    Its voxels, their area or volume, mean and standard deviation of the medians, mean width and novelty, and the number that shares
    most faces of voxels with it.
    """
    labels = stores.whole_array(group, f"labels/{name}/0")
    metadata: Any = group[f"labels/{name}"].attrs["ome"]
    count = len(metadata["image-label"]["colors"])
    sums = summed(labels, count, stores.whole_array(group, "0"), len(geometry.channels))
    touching = contacts(labels, count)
    rows: list[Row] = []
    for voxels, values, others in zip(sums.voxels.tolist(), sums.values, touching, strict=True):
        mean = dict(zip(names_of(geometry.channels), values / voxels if voxels else values * np.nan, strict=True))
        row: Row = {"voxels": voxels, **geometry.extent(voxels)}
        for channel in geometry.channels:
            middle = float(mean[f"mean_{channel}"])
            row |= {
                f"mean_{channel}": middle,
                f"spread_{channel}": float(np.sqrt(np.maximum(mean[f"square_{channel}"] - middle**2, 0))),
                f"width_{channel}": float(mean[f"width_{channel}"]),
            }
        row |= {
            "value_unit": geometry.value_unit,
            "novelty": float(mean["novelty"]),
            "neighbour": int(others.argmax()) + 1 if others.any() else 0,
            "neighbour_share": float(others.max() / max(others.sum(), 1)),
        }
        rows.append(row)
    return rows


def contacts(labels: zarr.Array[Any], count: int) -> Int64[np.ndarray, " number number"]:
    """Faces that voxels of each two numbers from 1 share; none of a number with itself. File by file."""
    total = np.zeros((count + 1) ** 2, np.int64)
    for region in stores.blocks(labels):
        for axis, part in enumerate(region):
            # one voxel more, which belongs to the next file
            longer = (*region[:axis], slice(part.start, min(part.stop + 1, labels.shape[axis])), *region[axis + 1 :])
            found = np.moveaxis(np.asarray(labels[longer]).astype(np.int64), axis, 0)
            total += np.bincount((found[:-1] * (count + 1) + found[1:]).ravel(), minlength=total.size)
    both = total.reshape(count + 1, count + 1)[1:, 1:]
    both = both + both.T
    np.fill_diagonal(both, 0)
    return both


def covered(rows: list[Row], tokens: int) -> list[Row]:
    """Coverage of the test data in each token, by channel; NaN where no test voxel has it."""
    channels = sorted({str(row["channel"]) for row in rows})
    known = {(int(row["token"]), str(row["channel"])): row["coverage"] for row in rows}
    return [
        {f"test_coverage_{channel}": known.get((token, channel), float("nan")) for channel in channels}
        for token in range(1, tokens + 1)
    ]


def map_of_regions(path: Path, group: zarr.Group, geometry: Geometry) -> zarr.Array[Any]:
    """An empty map like that of the classes."""
    labels = stores.whole_array(group, "labels/classes/0")
    cut = stores.Cut(labels.chunks, stores.files(labels))
    made = stores.create_group(path, {})
    return stores.create_array(made, "region", labels.shape, dtype="uint32", chunks=cut, dims=geometry.space)


def regions_of(target: zarr.Array[Any], group: zarr.Group, classes: Sequence[str], geometry: Geometry) -> list[Row]:
    """Connected regions of every class, the largest first, after numbering them in the target."""
    labels, image = stores.whole_array(group, "labels/classes/0"), stores.whole_array(group, "0")
    count = connected(labels, target, smallest=SMALLEST)
    sums, kinds = summed(target, count, image, len(geometry.channels)), kinds_of(target, labels, count)
    names, rows = names_of(geometry.channels), []
    for region in np.argsort(-sums.voxels, kind="stable").tolist():
        box = np.prod(sums.last[region] - sums.first[region] + 1)
        mean = dict(zip(names, (sums.values[region] / sums.voxels[region]).tolist(), strict=True))
        row: Row = {
            "class": classes[kinds[region] - 1],
            "region": region + 1,
            **located(sums, region, geometry),
            "filled": float(sums.voxels[region] / box),
            **{name: value for name, value in mean.items() if not name.startswith("square_")},
            "value_unit": geometry.value_unit,
        }
        rows.append(row)
    return rows


def kinds_of(target: zarr.Array[Any], labels: zarr.Array[Any], count: int) -> Int64[np.ndarray, " region"]:
    """Class of each region."""
    kinds = np.zeros(count + 1, np.int64)
    for region in stores.blocks(target):
        kinds[np.asarray(target[region])] = np.asarray(labels[region])
    return kinds[1:]
