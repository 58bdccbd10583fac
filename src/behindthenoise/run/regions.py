"""Verb `regions`: a finished volume → where a value is beyond a limit, or intervals are widest: maps, a table, outlines."""

from collections.abc import Callable
from fractions import Fraction
from math import floor, prod
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from behindthenoise.config import RegionConfig
from behindthenoise.core import discovery
from behindthenoise.core.calibration.thresholds import Calibration
from behindthenoise.core.components import Sums
from behindthenoise.core.discovery import Limit, Table
from behindthenoise.errors import ConfigError
from behindthenoise.io import stores, tables, volumes
from behindthenoise.io.datasets import fill
from behindthenoise.io.geometry import Axes, Geometry, read_geometry
from behindthenoise.io.record import log, write_json
from behindthenoise.io.tables import Value
from behindthenoise.io.volumes import STATISTICS
from behindthenoise.run import scored
from behindthenoise.run import thresholds as stored
from behindthenoise.run.components import connected, located, measure, renumber
from behindthenoise.run.evidence import HeldOutChannel
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.outlines import draw, write_outlines
from behindthenoise.stages import Spec

REGION, LEVEL = "region", "level"

Bands = dict[str, da.Array]


def run(
    spec: Spec,
    *,
    pairs: Path,
    heldout: Path,
    labels: Path,
    rules: Path,
    thresholds: Path,
    finished: Path,
    geometry: Path,
    store: Path,
    manifest: Path,
    table: Path,
    outlines: Path,
    view: Path,
) -> None:
    """Write the maps, the table of regions, their outlines, the plane that is drawn, and the manifest."""
    asked = spec.get("regions.{target}", RegionConfig)
    source, ome = HeldOut.open(pairs, heldout, labels), stores.open_group(finished)
    placed = read_geometry(geometry)
    channel = channel_of(asked, source.axes)
    bands = bands_of(ome, channel)
    least, largest = spec.get("calibration.support", list)
    calibration = one_channel(stored.read(thresholds)[0], channel)
    judged = HeldOutChannel(
        source, scored.read(rules), calibration, channel, (least, largest), spec.get("inference.relative_error", float)
    )
    limit = limit_of(asked)
    kinds = {REGION: "uint32"} if limit is None else {REGION: "uint32", LEVEL: "float32"}
    maps = volumes.create_regions(store, bands["median"].shape, placed, kinds)
    if limit is None:
        mask, facts = widest(bands["width"], asked.widest or 0.0)
    else:
        mask, facts = beyond(judged, limit, asked, bands, stores.get_array(maps, LEVEL))
        bands[LEVEL] = da.from_zarr(stores.get_array(maps, LEVEL))
    rows = listed(mask, stores.get_array(maps, REGION), bands, placed, asked)
    log(f"regions: {words(asked, source.axes)}: {len(rows)} regions, {facts['marked']} of {facts['voxels']} voxels")
    tables.write(table, rows)
    write_outlines(outlines, rows, stores.get_array(maps, REGION), placed)
    described = draw(view, ome, channel, stores.get_array(maps, REGION), placed)
    write_json(
        manifest,
        {
            "stage": "regions",
            "asked": asked.model_dump(mode="json"),
            "words": words(asked, source.axes),
            "regions": len(rows),
            **facts,
            "listed": sum(int(str(row["voxels"])) for row in rows),
            "plane": described,
            "digests": {name: stores.digest(stores.get_array(maps, name)) for name in kinds},
            "spec": spec.as_data(),
        },
    )


def channel_of(asked: RegionConfig, axes: Axes) -> int:
    """
    Number of the channel.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if asked.channel not in axes.channels:
        raise ConfigError(f"channel {asked.channel!r} of regions does not exist; there are {', '.join(map(repr, axes.channels))}")
    return axes.channels.index(asked.channel)


def limit_of(asked: RegionConfig) -> Limit | None:
    """The limit, or None where the widest intervals are asked for."""
    if asked.above is not None:
        return Limit(asked.above, above=True)
    return None if asked.below is None else Limit(asked.below, above=False)


def words(asked: RegionConfig, axes: Axes) -> str:
    """What is asked for, in words."""
    limit = limit_of(asked)
    if limit is None:
        return f"{asked.channel}: the widest {100 * (asked.widest or 0):g} % of the intervals"
    return f"{asked.channel} {'above' if limit.above else 'below'} {limit.value:g} {axes.value_unit}"


def bands_of(ome: zarr.Group, channel: int) -> Bands:
    """Ends, median and width of one channel, a file at a time."""
    image = stores.whole_array(ome, "0")
    every = da.from_array(image, chunks=(1, *stores.files(image)[1:]), name=False)
    return {name: every[channel * len(STATISTICS) + index] for index, name in enumerate(STATISTICS)}


def one_channel(calibration: Calibration, channel: int) -> Calibration:
    """The calibration of one channel alone."""
    one = slice(channel, channel + 1)
    return Calibration(calibration.scores[one], calibration.groups[one], calibration.thresholds[one])


def beyond(
    judged: HeldOutChannel, limit: Limit, asked: RegionConfig, bands: Bands, levels: zarr.Array[Any]
) -> tuple[da.Array, dict[str, Any]]:
    """Voxels that are marked at the level asked, after writing the level of every voxel; and what can be said of them."""
    grounds = judged.grounds(limit, levels.shape)
    table = judged.table(limit, grounds)
    evidence = da.map_blocks(limit.evidence, bands["lower"], bands["median"], bands["upper"], dtype=np.float32)
    found = counted(table, evidence, grounds.edges)
    by_step = np.nextafter(discovery.levels(table, found).astype(np.float32), np.float32(2))
    by_step = np.minimum(by_step, np.float32(1))
    fill([da.map_blocks(level_of, evidence, table=table, by_step=by_step, dtype=np.float32)], [levels])
    stands = np.flatnonzero(by_step <= asked.level)
    first, kind = (int(stands[0]) if stands.size else None), grounds.unit
    written, level = words(asked, judged.source.axes), asked.level
    nothing = first is None or not found[0, first]
    facts = {
        "voxels": int(found[0, 0]),
        "candidates": int(found[0, 1]),
        "marked": 0 if first is None else int(found[0, first]),
        "evidence": None if first is None else float(table.starts[first]),
        "expected_false_share": None if first is None else float(by_step[first]),
        "promise": discovery.promise(written, level, table, kind),
        "assumptions": discovery.assumptions(kind),
        "remark": discovery.nothing_found(level, table, found, kind) if nothing else "",
        "units": table.units,
        "unit_kind": kind,
        "unit_edges": list(grounds.edges),
        "test": judged.tested(limit, lambda evidence: level_of(evidence, table, by_step) <= level),
    }
    log(f"regions: {facts['remark'] or facts['promise']}")
    return da.from_zarr(levels) <= level, facts


def level_of(evidence: np.ndarray, table: Table, by_step: np.ndarray) -> np.ndarray:
    """Least level at which each voxel is marked; NaN where there is no data."""
    step = table.step(evidence)
    return np.asarray(np.where(step < 0, np.float32(np.nan), by_step[step]))


def counted(table: Table, evidence: da.Array, unit: tuple[int, ...]) -> np.ndarray:
    """`discovery.count` of a whole volume, in parts that hold whole units."""
    edges = tuple(edge * max(1, file // edge) for edge, file in zip(unit, evidence.chunksize, strict=True))
    parts = evidence.rechunk(edges)
    axes = tuple(range(parts.ndim))

    def count(part: np.ndarray) -> np.ndarray:
        found: np.ndarray = discovery.count(table, part, unit)[(np.newaxis,) * parts.ndim]
        return found

    sums = da.map_blocks(
        count,
        parts,
        dtype=np.float64,
        new_axis=(parts.ndim, parts.ndim + 1),
        chunks=(*((1,) * blocks for blocks in parts.numblocks), (2,), (table.starts.size,)),
    )
    return np.asarray(sums.sum(axis=axes).compute())


def widest(width: da.Array, share: float) -> tuple[da.Array, dict[str, Any]]:
    """Voxels whose intervals are wider than all others: at most this share of those with data, less where many are alike."""
    leading = summed(width, discovery.leading)
    total = int(leading.sum())
    below = total - floor(Fraction(str(share)) * total)  # of 0.29 and 100 floats make 28
    bucket = int(np.searchsorted(leading.cumsum(), below))
    trailing = summed(width, lambda values: discovery.trailing(values, bucket))
    rest = int(np.searchsorted(trailing.cumsum(), below - int(leading[:bucket].sum())))
    threshold = discovery.number_of(bucket, rest)
    mask = width > threshold
    return mask, {"voxels": total, "marked": int(mask.sum().compute()), "width": threshold}


def summed(width: da.Array, count: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Counts of all blocks together, of the voxels with data."""

    def counts(part: np.ndarray) -> np.ndarray:
        found: np.ndarray = count(part[~np.isnan(part)].ravel())[(np.newaxis,) * part.ndim]
        return found

    chunks = (*((1,) * blocks for blocks in width.numblocks), (discovery.BUCKETS,))
    parts = da.map_blocks(counts, width, dtype=np.int64, new_axis=width.ndim, chunks=chunks)
    return np.asarray(parts.sum(axis=tuple(range(width.ndim))).compute())


def listed(
    mask: da.Array, labels: zarr.Array[Any], bands: Bands, geometry: Geometry, asked: RegionConfig
) -> list[dict[str, Value]]:
    """Rows of the regions, those first whose second measurement would tell most; they are numbered in that order."""
    count = connected(mask, labels, smallest=asked.smallest)
    sums, names = measure(labels, count, bands)
    gain = sums.values[:, names.index("width")]
    order = np.argsort(-gain, kind="stable")
    numbers = np.zeros(count + 1, np.int64)
    numbers[order + 1] = np.arange(1, count + 1)
    renumber(labels, numbers)
    return [row_of(rank, index, sums, names, geometry, asked) for rank, index in enumerate(order.tolist(), start=1)]


def row_of(rank: int, index: int, sums: Sums, names: list[str], geometry: Geometry, asked: RegionConfig) -> dict[str, Value]:
    """One region in numbers."""
    voxels = int(sums.voxels[index])
    mean = {name: float(value) / voxels for name, value in zip(names, sums.values[index], strict=True)}
    row: dict[str, Value] = {
        "region": rank,
        "channel": asked.channel,
        **located(sums, index, geometry),
        "expected": mean["median"],
        "lower": mean["lower"],
        "upper": mean["upper"],
        "width": mean["width"],
        "value_unit": geometry.value_unit,
    }
    if LEVEL in names:
        row[LEVEL] = float(sums.least[index, names.index(LEVEL)])
    return {**row, "gain": mean["width"] * voxels * prod(geometry.spacing)}
