"""Verb `evaluate`: test voxels → coverage, width, accuracy: by channel, value, token, scan, width, unit, level, ensemble size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration.scores import Score, apply
from behindthenoise.core.calibration.thresholds import Calibration, merging_of
from behindthenoise.core.calibration.units import Units
from behindthenoise.core.metrics.agreement import pearson
from behindthenoise.core.metrics.coverage import coverage, coverage_gap
from behindthenoise.core.sampling import subsample
from behindthenoise.core.split import TEST
from behindthenoise.errors import CalibrationError
from behindthenoise.io import stores, tables
from behindthenoise.io.record import file_digest, log, write_json
from behindthenoise.run import judge
from behindthenoise.run import scored as counts_on_disk
from behindthenoise.run import thresholds as stored
from behindthenoise.run.heldout import HeldOut, Piece
from behindthenoise.run.judge import Judged, Row
from behindthenoise.run.scored import Scored
from behindthenoise.stages import Spec

TABLES = ("channels", "intensity", "tokens", "scans", "widths", "units", "reliability", "pit", "reference", "ensemble")
MOST = 1 << 23  # test voxels that are judged, drawn evenly from all; more would not move any digit that is shown
MOST_OF_MEMBERS = 1 << 20  # of them, those that show what members add, in all channels at once
LEVELS = tuple(level / 100 for level in range(1, 100))


def run(
    spec: Spec,
    *,
    pairs: Path,
    heldout: Path,
    labels: Path,
    scores: Path,
    thresholds: Path,
    members: list[Path],
    folder: Path,
    manifest: Path,
) -> list[Path]:
    """Write the tables and their manifest; returns the tables."""
    config, (calibration, noisy_thresholds) = spec.part("calibration", CalibrationConfig), stored.read(thresholds)
    counted, source = counts_on_disk.read(scores), HeldOut.open(pairs, heldout, labels)
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    every, by_members = list(at_every_level(config, counted)), by_size(source, members)
    for channel, name in enumerate(source.axes.channels):
        test = collect(source, counted, calibration, channel, config)
        widened = np.array([noisy_thresholds[channel]], np.float32)
        noisy = apply(Score("cqr"), np.stack([test.noisy] * 3), widened, config.support)
        reliability, pit, distribution = judge.by_level(test, channel, every, config.support)
        found: dict[str, list[Row]] = {
            "channels": [{**judge.summary(test, noisy, config.miscoverage), **distribution}],
            "intensity": judge.by_intensity(test),
            "tokens": judge.by_token(test),
            "scans": judge.by_scan(test),
            "widths": judge.by_width(test),
            "units": judge.by_unit(test),
            "reliability": reliability,
            "pit": pit,
            "reference": judge.reference_noise(test, source.axes.value_unit, config.miscoverage),
            "ensemble": by_members[channel],
        }
        nominal = 1 - float(config.miscoverage)
        for group in ("intensity", "tokens"):
            found["channels"][0][f"gap_{group}"] = coverage_gap(np.array([row["coverage"] for row in found[group]]), nominal)
        log(f"evaluate: {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found["channels"][0].items()))
        for table, part in found.items():
            rows[table] += [{"channel": name, **row} for row in part]
    written = [folder / f"{name}.csv" for name in TABLES]
    for path in written:
        tables.write(path, rows[path.stem])
    write_json(manifest, {"stage": "evaluate", **{path.stem: file_digest(path) for path in written}})
    return written


def sampled(source: HeldOut, most: int) -> Iterator[tuple[Piece, np.ndarray]]:
    """Test voxels piece by piece, with the places in each of those that are judged: the same whenever they are drawn."""
    random, share = np.random.default_rng(judge.SEED), min(1.0, most / source.voxels(int(TEST)))
    for piece in source.pieces(int(TEST)):
        size = piece.truth.shape[1]
        yield piece, subsample(size, round(share * size), random)


def collect(source: HeldOut, counted: Scored, calibration: Calibration, channel: int, config: CalibrationConfig) -> Judged:
    """Test voxels of one channel, all scans one after another, at most `MOST`."""
    units = Units.of(counted.unit_kind, counted.unit_edge, source.boxes(int(TEST)))
    parts: list[tuple[np.ndarray, ...]] = []
    differences: list[np.ndarray] = []
    for piece, kept in sampled(source, MOST):
        unit = units.ids(piece.image, piece.position[:, kept])
        parts.append(
            (
                piece.quantiles[:, channel, kept],
                *(values[channel, kept] for values in (piece.spread, piece.noisy, piece.truth)),
                piece.token[kept],
                unit,
                np.full(len(kept), piece.scan),
            )
        )
        if piece.difference is not None:
            differences.append(piece.difference[channel, kept])
    quantiles, spread, noisy, truth, token, unit, scan = (np.concatenate(column, axis=-1) for column in zip(*parts, strict=True))
    ends = calibration.interval(channel, quantiles, token, spread, config.support)
    difference = np.concatenate(differences) if differences else None
    return Judged(quantiles, spread, noisy, truth, token, unit, *ends, difference, scan if source.scans > 1 else None)


def at_every_level(config: CalibrationConfig, counted: Scored) -> Iterator[tuple[float, Calibration]]:
    """Nominal coverage and calibration at every level, with the groups of the configured one; infinite where it has none."""
    channels = [counted.counted(channel) for channel in range(len(counted.scores))]
    merging = [merging_of(config, counts) for counts in channels]
    for level in LEVELS:
        asked = config.model_copy(update={"coverage": level})
        found = []
        for counts, classes in zip(channels, merging, strict=True):
            table = np.full((len(counts.sides), len(counts.names)), np.inf, np.float32)
            for members in classes.members:
                for side in range(len(counts.sides)):
                    try:
                        table[side, list(members)] = counts.find(asked, side, members, len(classes.members)).threshold
                    except CalibrationError:
                        continue
            found.append(table)
        yield level, Calibration(counted.scores, counted.groups, tuple(found))


def by_size(source: HeldOut, members: list[Path]) -> list[list[Row]]:
    """By channel, accuracy, width and coverage before calibration of the first k members, for every k."""
    rows: list[list[Row]] = [[] for _ in source.axes.channels]
    total: np.ndarray | None = None
    for count, path in enumerate(members, start=1):
        one = source.of_member(stores.whole_array(stores.open_group(path), "quantiles"))
        pieces = [(piece.quantiles[..., kept], piece.truth[:, kept]) for piece, kept in sampled(one, MOST_OF_MEMBERS)]
        quantiles, truth = (np.concatenate(column, axis=-1) for column in zip(*pieces, strict=True))
        total = quantiles.astype(np.float64) if total is None else total + quantiles
        for found, (lower, median, upper), known in zip(rows, np.moveaxis(total / count, 1, 0), truth, strict=True):
            found.append(
                {
                    "members": count,
                    "correlation": pearson(median, known),
                    "width": judge.mean_width(lower, upper),
                    "coverage": coverage(lower, upper, known),
                }
            )
    return rows
