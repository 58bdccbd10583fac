"""Verb `overlay`: regions of one volume drawn over its median."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt32
from matplotlib import colormaps, patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from behindthenoise.io.npz import read_npz
from behindthenoise.io.record import read_json
from behindthenoise.report.style import DARK, ORANGE, STYLE, extent_of, symbol, ticks
from behindthenoise.stages import Spec
from behindthenoise.words import counted

NUMBERED = 10  # regions with their number beside them
MARGIN = 0.05  # of the picture, in which a number would run over its edge
WIDTH, TALLEST, SHORTEST = 9.5, 6.0, 2.2  # inches
BESIDE, ABOVE = 1.45, 1.1  # inches that the scales, and title and axis, take


def run(spec: Spec, *, regions: Path, view: Path, picture: Path) -> None:
    """Write the picture."""
    facts, arrays = read_json(regions), read_npz(view)
    with rc_context(STYLE):
        overlay(facts, arrays["median"], arrays["regions"]).savefig(picture)


def heading(facts: dict[str, Any]) -> str:
    """What is marked and what is promised of it, in two lines."""
    unit = facts["plane"]["unit"]
    where = "".join(f", {place.replace(unit, symbol(unit))}" for place in facts["plane"]["where"])
    if facts.get("remark"):
        return f"{facts['words']}{where}\nnothing can be marked at a level of {100 * facts['asked']['level']:g} %"
    marked = f"{100 * facts['marked'] / max(facts['voxels'], 1):.2g} % of the area, {counted(facts['regions'], 'region')}"
    if "promise" not in facts:
        return f"{facts['words']}{where}\n{marked}"
    return (
        f"{facts['words']}{where}: {marked}\nat most {100 * facts['asked']['level']:g} % of the marked area false, in expectation"
    )


@rc_context(STYLE)
def overlay(facts: dict[str, Any], median: Float32[np.ndarray, " row col"], regions: UInt32[np.ndarray, " row col"]) -> Figure:
    """
    Median in grey, with the regions outlined, and numbers beside those whose second measurement would tell most.

    Parameters
    ----------
    facts
        The manifest of the regions.
    median
        One plane; NaN where it has no data.
    regions
        Number of the region at each pixel, 0 where there is none.
    """
    plane = facts["plane"]
    (rows, columns), (down, right) = median.shape, plane["spacing"]
    place = (down, right), tuple(plane["origin"])
    height = min(max((WIDTH - BESIDE) * rows * down / (columns * right), SHORTEST), TALLEST)
    figure = Figure(figsize=(WIDTH, height + ABOVE), layout="constrained")
    axes = figure.subplots()
    values = median[np.isfinite(median)]
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
    grey = colormaps["gray"].with_extremes(bad="#d9d9d9")
    drawn = axes.imshow(
        median, cmap=grey, norm=Normalize(low, high), extent=extent_of((rows, columns), *place), interpolation="nearest"
    )
    figure.colorbar(drawn, ax=axes, label=f"{facts['asked']['channel']}, denoised ({plane['value_unit']})", pad=0.02, shrink=0.8)
    _outline(axes, regions, *place)
    _number(axes, regions, *place)
    figure.suptitle(heading(facts), x=0.01, horizontalalignment="left", fontsize=STYLE["axes.titlesize"])
    axes.set_xlabel(f"{plane['axes'][1]} ({symbol(plane['unit'])})")
    axes.set_ylabel(f"{plane['axes'][0]} ({symbol(plane['unit'])})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticks(5))
    return figure


def _outline(
    axes: Axes, regions: UInt32[np.ndarray, " row col"], spacing: tuple[float, float], origin: tuple[float, float]
) -> None:
    """Line around every region: orange on white, which is seen on any grey and by any eye."""
    if not regions.any():
        return
    padded = np.pad(regions > 0, 1).astype(float)
    down, right = (start + np.arange(-1, size - 1) * step for size, step, start in zip(padded.shape, spacing, origin, strict=True))
    limits = axes.axis()
    for colour, width in (("white", 1.8), (ORANGE, 1.0)):
        axes.contour(right, down, padded, levels=[0.5], colors=colour, linewidths=width)
    axes.axis(limits)


def _number(axes: Axes, regions: UInt32[np.ndarray, " row col"], spacing: tuple[float, float], origin: tuple[float, float]) -> None:
    """Number beside the first regions, at the pixel of each that lies highest: above it, or below where the picture ends."""
    height, width = regions.shape
    for number in range(1, NUMBERED + 1):
        rows, columns = np.nonzero(regions == number)
        if rows.size:
            at_the_top = rows[0] < MARGIN * height
            column = min(max(columns[0], MARGIN * width / 2), (1 - MARGIN / 2) * width)
            text = axes.annotate(
                str(number),
                (origin[1] + column * spacing[1], origin[0] + rows[0] * spacing[0]),
                xytext=(0, -3 if at_the_top else 3),
                textcoords="offset points",
                ha="center",
                va="top" if at_the_top else "bottom",
                color=DARK,
                weight="bold",
            )
            text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
            text.set_in_layout(False)
