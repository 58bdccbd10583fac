"""What all figures share: settings of matplotlib, sizes, colours, ticks, and rows of tables as arrays."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

from behindthenoise.report.content import Row, Table

STYLE: dict[RcKeyType, object] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.axisbelow": True,
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "image.interpolation": "nearest",
    # Names of channels and units come from the user and may hold a dollar sign.
    "text.parse_math": False,
    # The same content gives the same SVG.
    "svg.hashsalt": "behindthenoise",
}

PAGE_WIDTH = 11.0  # inches: 1320 pixels, shown at up to 1100
HALF_WIDTH = 5.4
CHANNEL_LIMIT = 6  # rows of panels that still fit a page

BLUE, ORANGE, GREEN, DARK, GRID = "#0072b2", "#d55e00", "#009e73", "#222222", "#e6e6e6"
MARKERS = "osD^vPX*<>"

_SYMBOLS = {
    "nanometer": "nm",
    "micrometer": "µm",
    "micron": "µm",
    "um": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "angstrom": "Å",
}


def bare(figure: Figure) -> Figure:
    """The figure without the upper and right frame of its axes."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def channels_of(rows: Table) -> list[str]:
    """Channels of a table, each once, in its order."""
    return list(dict.fromkeys(str(row["channel"]) for row in rows))


def rows_of(rows: Table, channel: str) -> list[Row]:
    """Rows of one channel."""
    return [row for row in rows if row["channel"] == channel]


def column(rows: Table, key: str) -> Float[np.ndarray, " n"]:
    """Values of one column."""
    return np.array([float(row[key]) for row in rows], dtype=np.float64)


def above(values: Float[np.ndarray, " n"]) -> float:
    """Upper end of an axis from 0 that leaves some room above all values."""
    values = values[np.isfinite(values)]
    return 1.1 * float(values.max(initial=0.0)) or 1.0


def coverage_limits(values: Float[np.ndarray, " n"], nominal: float) -> tuple[float, float]:
    """What there is and the nominal coverage, with some room, and never less than four percent of it."""
    values = np.append(values[np.isfinite(values)], nominal)
    low, high = min(float(values.min()), nominal - 0.02), max(float(values.max()), nominal + 0.02)
    room = 0.08 * (high - low)
    return max(low - room, -0.01), min(high + room, 1.01)


def ticks(count: int) -> MaxNLocator:
    """At most so many intervals between round numbers."""
    return MaxNLocator(count, steps=[1, 2, 5, 10])


def percents() -> FuncFormatter:
    """Fractions as percentages."""
    # No more digits than the ticks need; matplotlib's own formatter writes 90.00 %.
    return FuncFormatter(lambda fraction, _: f"{100 * fraction:.6g} %")


def extent_of(
    shape: tuple[int, int], spacing: tuple[float, float], origin: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of an image whose first pixel has its middle at the origin; rows run downwards."""
    (rows, columns), (down, right), (top, left) = shape, spacing, origin
    return left - 0.5 * right, left + (columns - 0.5) * right, top + (rows - 0.5) * down, top - 0.5 * down


def symbol(unit: str) -> str:
    """Short form of a unit of length."""
    return _SYMBOLS.get(unit, unit)
