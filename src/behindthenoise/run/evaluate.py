"""Verb `evaluate`: test voxels → coverage, width and accuracy, by channel, intensity, unit and ensemble size."""

from pathlib import Path

import numpy as np

from behindthenoise.config import CalibrationConfig
from behindthenoise.core import calibration, metrics
from behindthenoise.core.split import TEST
from behindthenoise.io import tables
from behindthenoise.io.record import file_digest, log, read_json, write_json
from behindthenoise.io.tables import Value
from behindthenoise.run import heldout as held_out
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.pairs import Pairs
from behindthenoise.stages import Spec

Row = dict[str, Value]
TABLES = ("channels", "intensity", "units", "ensemble")


def run(spec: Spec, *, pairs: Path, heldout: Path, thresholds: Path, members: list[Path], folder: Path, manifest: Path) -> None:
    """Write the tables and their manifest."""
    config, chosen = spec.get("calibration", CalibrationConfig), read_json(thresholds)
    loaded = store_of_pairs.read(pairs)
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    for channel, name in enumerate(loaded.geometry.channels):
        found = held_out.select(loaded, heldout, int(TEST), channel)
        low, median, high = found.quantiles
        lower, upper = calibration.apply(low, median, high, chosen["thresholds"][channel], config.support)
        # an interval that was cut at the support keeps its median inside, as in a finished volume
        found.quantiles[1] = np.clip(median, lower, upper)
        noisy = calibration.apply(found.noisy, found.noisy, found.noisy, chosen["noisy_thresholds"][channel], config.support)
        row = summarise(found, (lower, upper), noisy, config)
        log(f"evaluate: {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
        rows["channels"].append({"channel": name, **row})
        rows["intensity"] += [{"channel": name, **part} for part in by_intensity(found, lower, upper)]
        rows["units"] += [{"channel": name, **part} for part in by_unit(found, lower, upper)]
        rows["ensemble"] += [{"channel": name, **part} for part in by_size(loaded, members, channel)]
    for name, table in rows.items():
        tables.write(folder / f"{name}.csv", table)
    write_json(manifest, {"stage": "evaluate", **{name: file_digest(folder / f"{name}.csv") for name in TABLES}})


def summarise(
    found: HeldOut, interval: tuple[np.ndarray, np.ndarray], noisy: tuple[np.ndarray, np.ndarray], config: CalibrationConfig
) -> dict[str, float]:
    """One channel on all test voxels. The noisy scan's own interval is calibrated by the same method on the same voxels."""
    inside = metrics.covers(*interval, found.truth)
    ids, hits, counts = metrics.unit_coverage(inside, found.unit)
    low, high = metrics.coverage_interval(hits, counts, np.random.default_rng(0))
    width, noisy_width = mean_width(*interval), mean_width(*noisy)
    return {
        "coverage": float(inside.mean()),
        "coverage_low": low,
        "coverage_high": high,
        "pixels": int(found.truth.size),
        "units": len(ids),
        "width": width,
        "noisy_width": noisy_width,
        "width_reduction": noisy_width / width if width > 0 else float("nan"),
        "noisy_coverage": metrics.coverage(*noisy, found.truth),
        "interval_score": metrics.interval_score(*interval, found.truth, config.miscoverage),
        "correlation_noisy": metrics.pearson(found.noisy, found.truth),
        "correlation": metrics.pearson(found.quantiles[1], found.truth),
        "psnr_noisy": metrics.psnr(found.noisy, found.truth),
        "psnr": metrics.psnr(found.quantiles[1], found.truth),
    }


def by_intensity(found: HeldOut, lower: np.ndarray, upper: np.ndarray) -> list[Row]:
    """Coverage and width in tenths of the predicted median."""
    median, width = found.quantiles[1], upper - lower
    edges = metrics.decile_edges(median)
    bins = metrics.coverage_by_bin(median, metrics.covers(lower, upper, found.truth), edges)
    place = np.searchsorted(edges, median, side="right")
    return [
        {
            "bin": index,
            # the outer bins have no end; the data's own ends are what a figure can show
            "from": max(part.low, float(median.min())),
            "to": min(part.high, float(median.max())),
            "coverage": part.coverage,
            "pixels": part.voxels,
            "width": float(width[place == index].mean()),
        }
        for index, part in enumerate(bins)
        # a value that many voxels share, such as a support, can leave its lower bin empty
        if part.voxels
    ]


def by_unit(found: HeldOut, lower: np.ndarray, upper: np.ndarray) -> list[Row]:
    """Coverage of every test block or image."""
    ids, hits, counts = metrics.unit_coverage(metrics.covers(lower, upper, found.truth), found.unit)
    return [
        {"unit": int(unit), "coverage": hit / count, "pixels": int(count)}
        for unit, hit, count in zip(ids, hits.tolist(), counts.tolist(), strict=True)
    ]


def by_size(pairs: Pairs, members: list[Path], channel: int) -> list[Row]:
    """Accuracy, width and coverage before calibration of the first k members, for every k."""
    rows: list[Row] = []
    total: np.ndarray | None = None
    for count, store in enumerate(members, start=1):
        found = held_out.select(pairs, store, int(TEST), channel)
        total = found.quantiles.astype(np.float64) if total is None else total + found.quantiles
        lower, median, upper = total / count
        rows.append(
            {
                "members": count,
                "correlation": metrics.pearson(median, found.truth),
                "width": mean_width(lower, upper),
                "coverage": metrics.coverage(lower, upper, found.truth),
            }
        )
    return rows


def mean_width(lower: np.ndarray, upper: np.ndarray) -> float:
    """Mean width of intervals, in units of the clean image."""
    return float((upper - lower).mean(dtype=np.float64))
