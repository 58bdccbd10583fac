"""Verb `sweep`: records of single networks → how their validation depends on the swept settings, as a table and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from behindthenoise.config import NetworkConfig, Point, SweepConfig, TrainingConfig, setting, written
from behindthenoise.io import tables
from behindthenoise.io.record import log, read_json
from behindthenoise.io.tables import Value
from behindthenoise.report.style import HALF_WIDTH, PAGE_WIDTH, STYLE
from behindthenoise.stages import Spec

Where = tuple[str, str]
MEASURED = ("parameters", "radius", "operations_per_voxel", "validation_correlation", "validation_loss", "validation_error")
DRAWN = {
    "validation_correlation": "correlation with clean",
    "validation_loss": "pinball loss\n(standardised image)",
    "seconds": "training time (s)",
}
COLUMNS = 4  # panels side by side that still fit a page
LOGARITHMIC = 4  # largest over smallest value from which an axis is logarithmic
LONG = 24  # letters of all tick labels together, from which they are turned
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")  # Okabe and Ito's, but for yellow
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Series:
    """Networks that differ in one swept setting and in their seeds alone: one value on the x axis for each of its rows."""

    label: str
    values: Sequence[Any]
    rows: Sequence[Mapping[str, Value]]


def run(spec: Spec, *, records: list[Path], table: Path, figure: Path) -> list[Path]:
    """Write the table, the figure, and beside it the same figure as PNG; returns this one."""
    sweep = spec.get("sweep", SweepConfig)
    own = Point(spec.get("network", NetworkConfig), spec.get("training", TrainingConfig))
    points = sweep.points(own.network, own.training)
    rows = [read_row(record, points, sweep.swept()) for record in records]
    tables.write(table, rows)
    with rc_context(STYLE):
        drawn = curves({where: series(rows, points, sweep, own, where) for where in sweep.swept()})
        drawn.savefig(figure, metadata={"Date": None})
        drawn.savefig(figure.with_suffix(".png"))
    best = max(rows, key=lambda row: float(row["validation_correlation"]))
    log(f"sweep: {len(rows)} networks, highest correlation {best['validation_correlation']:.4f} at {best['point']}")
    return [figure.with_suffix(".png")]


def read_row(record: Path, points: Mapping[str, Point], keys: Sequence[Where]) -> dict[str, Value]:
    """Settings and results of one network, whose record stands at POINT/MEMBER/train.json."""
    name, manifest = record.parent.parent.name, read_json(record)
    return {
        "point": name,
        **{where[1]: written(setting(points[name], where)) for where in keys},
        "member": manifest["member"],
        **{key: manifest[key] for key in MEASURED},
        "seconds": float(tables.read(record.with_name("history.csv"))[-1]["time_s"]),
    }


def series(
    rows: Sequence[Mapping[str, Value]], points: Mapping[str, Point], sweep: SweepConfig, own: Point, where: Where
) -> list[Series]:
    """
    Networks by what the other swept keys are set to; all in one series where those are too many to tell apart.

    With one key swept at a time, only the networks in which the others are as configured.
    """
    others = [key for key in sweep.swept() if key != where]

    def group(point: Point) -> str:
        return ", ".join(f"{key[1]} {written(setting(point, key))}" for key in others)

    def gathered(label: str, chosen: Sequence[Mapping[str, Value]]) -> Series:
        return Series(label, [setting(points[str(row["point"])], where) for row in chosen], chosen)

    groups = [group(own)] if sweep.mode == "one" else list(dict.fromkeys(group(point) for point in points.values()))
    if len(groups) > len(COLOURS):
        return [gathered("", rows)]
    return [gathered(label, [row for row in rows if group(points[str(row["point"])]) == label]) for label in groups]


@rc_context(STYLE)
def curves(panels: Mapping[Where, Sequence[Series]]) -> Figure:
    """A column of panels for each swept key: what was measured over its value, a dot for each network, a line through means."""
    columns = min(len(panels), COLUMNS)
    bands = -(-len(panels) // COLUMNS)
    width = HALF_WIDTH if columns == 1 else min(PAGE_WIDTH, 0.8 + 3.4 * columns)
    figure = Figure(figsize=(width, bands * 6.6 + 0.3), layout="constrained")
    grid = figure.subplots(bands * len(DRAWN), columns, squeeze=False, sharey="row")
    for index, (where, found) in enumerate(panels.items()):
        band, column = divmod(index, COLUMNS)
        stack = grid[band * len(DRAWN) : (band + 1) * len(DRAWN), column]
        for axes, (measure, label) in zip(stack, DRAWN.items(), strict=True):
            _panel(axes, found, measure)
            if column == 0:
                axes.set_ylabel(label)
        stack[-1].set_xlabel(".".join(where))
        if len(found) > 1:
            stack[-1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.32))
    for spare in grid[(bands - 1) * len(DRAWN) :, len(panels) - (bands - 1) * COLUMNS :].flat:
        spare.remove()
    figure.suptitle("validation units of the training data; a dot is a network, a line joins means", fontsize=10)
    return figure


def _panel(axes: Axes, found: Sequence[Series], measure: str) -> None:
    values = _ordered([value for part in found for value in part.values])
    numbers = [_number(value) for value in values]
    places = dict(zip(values, range(len(values)) if None in numbers else numbers, strict=True))
    for index, part in enumerate(found):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        measured = np.array([float(row[measure]) for row in part.rows])
        at = np.array([places[value] for value in part.values], dtype=float)
        axes.plot(at, measured, marker, color=colour, markersize=4.5, alpha=0.75, linewidth=0, markeredgewidth=0)
        means = [(place, measured[at == place].mean()) for place in np.unique(at)]
        axes.plot(*np.transpose(means), color=colour, linewidth=1.4)
        axes.plot([], [], marker, color=colour, markersize=4.5, linestyle="solid", linewidth=1.4, label=part.label)
    spread = [number for number in numbers if number is not None]
    if None not in numbers and min(spread) > 0 and max(spread) / min(spread) >= LOGARITHMIC:
        axes.set_xscale("log")
    labels = [written(value) for value in places]
    axes.set_xticks([float(place) for place in places.values() if place is not None], labels=labels)
    if sum(map(len, labels)) > LONG:
        for text in axes.get_xticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.ticklabel_format(axis="y", useOffset=False)
    if measure == "seconds":
        axes.axhline(0, color="#e6e6e6", linewidth=0.8, zorder=0)  # the axis begins there, and still fits its neighbours in the row
    axes.grid(axis="y", color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Each value once: numbers rising, others in the order of the configuration."""
    once = list(dict.fromkeys(values))
    return sorted(once) if all(_number(value) is not None for value in once) else once


def _number(value: Any) -> float | None:
    """A number, also as the only one in a list; None for everything else."""
    if isinstance(value, tuple) and len(value) == 1:
        return _number(value[0])
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
