"""Verb `regions`: a finished volume → where a value is beyond a limit, or intervals are widest: maps, a table, outlines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor, isfinite, prod
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from behindthenoise.config import RegionConfig
from behindthenoise.core import discovery
from behindthenoise.core.calibration import survey
from behindthenoise.core.calibration.histogram import Tally
from behindthenoise.core.calibration.thresholds import Calibration, Support
from behindthenoise.core.calibration.units import Box, Units
from behindthenoise.core.components import Sums, outline
from behindthenoise.core.discovery import Limit, Table, Unit
from behindthenoise.core.split import CALIBRATION, TEST
from behindthenoise.errors import ConfigError
from behindthenoise.io import stores, tables, volumes
from behindthenoise.io.datasets import fill
from behindthenoise.io.geometry import Axes, Geometry, read_geometry
from behindthenoise.io.npz import write_npz
from behindthenoise.io.record import log, write_json
from behindthenoise.io.tables import Value
from behindthenoise.io.volumes import STATISTICS
from behindthenoise.run import scored
from behindthenoise.run import thresholds as stored
from behindthenoise.run.components import connected, located, measure, renumber
from behindthenoise.run.finish import calibrated
from behindthenoise.run.heldout import HeldOut, Piece
from behindthenoise.run.score import LOSSLESS
from behindthenoise.run.scored import Scored
from behindthenoise.stages import Spec

DRAWN_EDGE = 1200  # voxels along an axis of the plane that is drawn
OUTLINED = 1 << 24  # voxels of the largest box whose region gets an outline; a larger one gets its box
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
    judged = Judged(source, scored.read(rules), calibration, channel, (least, largest), spec.get("inference.relative_error", float))
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


@dataclass(frozen=True, eq=False)
class Judged:
    """
    Held-out voxels of one channel, with intervals as finished volumes have them.

    Attributes
    ----------
    source
        The voxels.
    rules
        What their units are.
    calibration
        Of the channel alone.
    channel
        Its number.
    support
        Least and largest possible value.
    error
        Relative error that finished volumes are rounded to.
    """

    source: HeldOut
    rules: Scored
    calibration: Calibration
    channel: int
    support: Support
    error: float

    def evidence(self, limit: Limit, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Evidence of each voxel of a piece, and whether its true value is beyond the limit."""
        one = slice(self.channel, self.channel + 1)
        lower, median, upper, _ = calibrated(
            piece.quantiles[:, one],
            piece.spread[one],
            piece.token,
            calibration=self.calibration,
            support=self.support,
            error=self.error,
        )
        return limit.evidence(lower, median, upper), limit.is_met(piece.truth[self.channel])

    def table(self, limit: Limit, grounds: "Grounds") -> Table:
        """False voxels of the calibration data by evidence."""
        voxels = self.source.voxels(int(CALIBRATION))
        tally, candidates = Tally(32 if voxels <= LOSSLESS else 16), 0
        for piece in self.source.pieces(int(CALIBRATION)):
            evidence, is_true = self.evidence(limit, piece)
            wrong = evidence[(evidence > 0) & ~is_true]
            tally.update(wrong, np.zeros(wrong.size, np.int64))
            candidates += int((evidence > 0).sum())
        return Table.of(
            tally.histogram(), (voxels, candidates if grounds.unit == "sample" else None), grounds.count, self.source.scans
        )

    def grounds(self, limit: Limit, shape: tuple[int, ...]) -> "Grounds":
        """What units are and how many of them calibrate: as for the intervals, but that a field is worth what false voxels say."""
        boxes, kind = self.source.boxes(int(CALIBRATION)), self.rules.unit_kind
        if kind == "block" and self.rules.dependence.is_known:
            maps = [self.false_map(limit, image, window) for image, window in self.windows()]
            # scans of one field share its truth; a volume is one scan
            alone = [(evidence[np.newaxis], valid) for scans, valid in maps for evidence in scans]
            count = int(self.source.voxels(int(CALIBRATION)) / discovery.effect(maps))
            return Grounds("sample", discovery.cube(discovery.effect(alone), shape), max(1, count))
        units = Units.of(kind, self.rules.unit_edge, boxes)
        seen = np.empty(0, np.int64)
        for piece in self.source.pieces(int(CALIBRATION)):
            seen = np.union1d(seen, units.ids(piece.image, piece.position))
        # a unit of the volume is as large as a block, or as the box around an image's calibration voxels
        extents = np.median([[part.stop - part.start for part in box] for box in boxes if box is not None], axis=0)
        edges = [self.rules.unit_edge] * len(shape) if kind == "block" else extents.astype(int).tolist()
        return Grounds(kind, tuple(map(min, edges, shape)), seen.size)

    def windows(self) -> Iterator[tuple[int, Box]]:
        """A part of each field that fits into memory, as `survey` looks at it."""
        present = [(image, box) for image, box in enumerate(self.source.boxes(int(CALIBRATION))) if box is not None]
        for image, box in present:
            largest = survey.room(len(present), self.source.scans)
            yield image, survey.fullest(np.asarray(self.source.role[image]) == CALIBRATION, box, largest)

    def false_map(self, limit: Limit, image: int, window: Box) -> tuple[np.ndarray, np.ndarray]:
        """Evidence of the false voxels in a part of one field, 0 elsewhere, in every scan; and which voxels calibrate."""
        start = np.array([part.start for part in window])[:, None]
        found = np.zeros((self.source.scans, *(part.stop - part.start for part in window)), np.float32)
        for piece in self.source.pieces(int(CALIBRATION), (image, window)):
            evidence, is_true = self.evidence(limit, piece)
            found[(piece.scan, *(piece.position - start))] = np.where(is_true, 0, np.maximum(evidence, 0))
        where: tuple[int | slice, ...] = (image, *window)
        return found, np.asarray(self.source.role[where]) == CALIBRATION

    def tested(self, limit: Limit, is_marked: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """What the same choice is worth on test voxels, where the truth is known, beside that by the median alone."""
        counts = np.zeros(5, np.int64)
        for piece in self.source.pieces(int(TEST)):
            evidence, is_true = self.evidence(limit, piece)
            marked, candidates = is_marked(evidence), evidence > 0
            counts += [part.sum() for part in (is_true, marked, marked & ~is_true, candidates, candidates & ~is_true)]
        true, found, wrong, above, wrong_above = counts.tolist()
        return {
            "true": true,
            "marked": found,
            "false": wrong,
            "false_share": wrong / found if found else None,
            "found_share": (found - wrong) / true if true else None,
            "false_share_of_median": wrong_above / above if above else None,
        }


@dataclass(frozen=True)
class Grounds:
    """What a unit is, its edges in a volume, and how many units calibrate."""

    unit: Unit
    edges: tuple[int, ...]
    count: int


def beyond(
    judged: Judged, limit: Limit, asked: RegionConfig, bands: Bands, levels: zarr.Array[Any]
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
