"""
One function per figure: tables or a slice in, a matplotlib figure out.

Figures are made without pyplot, so that nothing is shared between them and no display is needed. Whoever saves them does it
inside `rc_context(STYLE)`, because matplotlib reads some settings only then.
"""

import numpy as np
from jaxtyping import Bool, Float, Real
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter
from matplotlib.typing import RcKeyType

from behindthenoise.report.content import Row, Slice, Table

STYLE: dict[RcKeyType, object] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
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
PIXEL_LIMIT = 1200  # along one axis of one panel; a panel never has more pixels on the page
CUT_LIMIT = 300  # columns in a line cut; with more, band and dots can no longer be told apart

ROLES = ("unused", "training", "calibration", "test")
ROLE_COLOURS = ("#e4e4e4", "#0072b2", "#e69f00", "#009e73")
_TEST = 3
_NO_DATA = "#d9d9d9"
_CLEAR = (0.0, 0.0, 0.0, 0.0)
_VALUES, _WIDTHS = (colormaps[name].with_extremes(bad=_NO_DATA) for name in ("viridis", "magma"))
_GREYS = colormaps["gray"].with_extremes(bad=_CLEAR)
_BLUE, _ORANGE, _GREEN, _DARK = "#0072b2", "#d55e00", "#009e73", "#222222"
_MARKERS = "osD^vPX*<>"

# Okabe and Ito's seven colours, then greedily the colour farthest from all before it, and from white and light grey, in
# OKLab: the least of the distances as seen with normal vision, protanopia and deuteranopia (Machado et al. 2009).
_HEX = (
    "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 5a1e00 002d78 0000ff 784b4b 5a87ff 3c2db4 96c396 b42d87 1e3c4b "
    "b40f00 a5ffa5 0f69f0 ff4b69 5ad2ff 96e187 d21ec3 006978 ff78d2 f0c300 c34b3c e1b4d2 d28700 4b5a00 1ea5ff 4b3c87 "
    "780f2d 78c35a 0000a5 78f0ff 5a3c69 a56996 4b78d2 87b4a5 691ed2 00874b 5a4ba5 c3d2b4 78004b b478c3 d2f0d2 4bff78"
)
TOKEN_COLOURS = tuple(f"#{colour}" for colour in _HEX.split())

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


def token_colour(token: int) -> str:
    """Colour that a token, counted from 1, has in every figure and table; colours repeat after the last one."""
    return TOKEN_COLOURS[(token - 1) % len(TOKEN_COLOURS)]


def structured_cut(plane: Slice) -> tuple[int, slice]:
    """
    Row, and stretch of up to `CUT_LIMIT` columns in it, where the median varies most.

    Where roles are given, only test pixels count, and the stretch holds at least half as many of them as the best one does.
    """
    columns = plane.median.shape[-1]
    length = min(columns, CUT_LIMIT)
    seen = np.isfinite(plane.median)
    if plane.role is not None and np.any(plane.role == _TEST):
        seen = seen & (plane.role == _TEST)
    values = np.ma.masked_array(plane.median.astype(np.float64), mask=~seen)
    # Every channel counts the same, whatever its unit.
    values = values / np.ma.maximum(values.std(axis=(1, 2), keepdims=True), np.finfo(np.float64).tiny)

    starts = {*range(0, columns - length, max(length // 2, 1)), columns - length}
    stretches = [slice(start, start + length) for start in sorted(starts)]
    variation = np.stack([np.ma.filled(values[:, :, s].var(axis=-1).mean(axis=0), 0.0) for s in stretches])
    filled = np.stack([seen[:, :, s].mean(axis=(0, -1)) for s in stretches])
    variation[filled < 0.5 * filled.max()] = -1.0
    best, row = np.unravel_index(int(variation.argmax()), variation.shape)
    return int(row), stretches[int(best)]


@rc_context(STYLE)
def maps(plane: Slice) -> Figure:
    """Images of each channel: noisy, denoised, clean where there is one, and the interval's width."""
    clean = () if plane.clean is None else (("clean", plane.clean),)
    images = (("noisy", plane.noisy), ("denoised", plane.median), *clean)
    names = plane.channel_names[:CHANNEL_LIMIT]
    columns = len(images) + 1

    figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.04, compress=True))
    axes = figure.subplots(len(names), columns, squeeze=False)
    height = _panel_height(plane, (PAGE_WIDTH - 2.6) / columns)
    figure.set_size_inches(PAGE_WIDTH, 0.5 + len(names) * (height + 0.45))
    # Narrow panels stand so close that titles of one line would run into each other.
    separator = ":\n" if _aspect(plane) > 2 else ": "
    for channel, name in enumerate(names):
        panels = axes[channel]
        scale = _robust(images[-1][1][channel])
        for panel, (label, image) in zip(panels, images, strict=False):
            drawn = _image(panel, plane, image[channel], _VALUES, scale)
            panel.set_title(f"{name}{separator}{label}")
        _colour_bar(figure, drawn, panels[len(images) - 1], plane.value_unit)
        width = plane.upper[channel] - plane.lower[channel]
        drawn = _image(panels[-1], plane, width, _WIDTHS, _robust(width))
        panels[-1].set_title(f"{name}{separator}interval width")
        _colour_bar(figure, drawn, panels[-1], plane.value_unit)
    for panel in axes.flat:
        panel.label_outer()
    return figure


@rc_context(STYLE)
def line_cut(plane: Slice) -> Figure:
    """Profile along the row with most structure: interval, median, noisy and clean values, one panel per channel."""
    row, stretch = structured_cut(plane)
    names = plane.channel_names[:CHANNEL_LIMIT]
    position = (np.arange(plane.median.shape[-1])[stretch] + 0.5) * plane.spacing[1]

    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 2.1 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for channel, (name, panel) in enumerate(zip(names, axes, strict=True)):
        _profile(panel, plane, (channel, row, stretch), position)
        panel.set_ylabel(f"{name}\n({plane.value_unit})")
    figure.align_ylabels(axes)
    where = (row + 0.5) * plane.spacing[0]
    axes[0].set_title(f"{plane.axes[0]} = {where:.4g} {_symbol(plane.length_unit)}", loc="left")
    axes[-1].set_xlabel(f"{plane.axes[1]} ({_symbol(plane.length_unit)})")
    axes[-1].set_xlim(position[0] - 0.5 * plane.spacing[1], position[-1] + 0.5 * plane.spacing[1])
    handles = {label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


@rc_context(STYLE)
def coverage_by_channel(rows: Table, nominal: float) -> Figure:
    """Measured coverage of each channel with its confidence interval, against the nominal one."""
    names = [str(row["channel"]) for row in rows]
    coverage, low, high = (_column(rows, key) for key in ("coverage", "coverage_low", "coverage_high"))
    position = np.arange(len(rows))

    figure = Figure(figsize=(HALF_WIDTH, max(2.6, 1.3 + 0.34 * len(rows))), layout="constrained")
    axes = figure.subplots()
    axes.axvline(nominal, color=_DARK, linestyle="--", linewidth=1, label=f"nominal {100 * nominal:g} %")
    axes.hlines(position, low, high, color=_BLUE, linewidth=2)
    axes.plot(coverage, position, "o", color=_BLUE, markersize=7, label="measured, with 95 % interval")
    axes.set_yticks(position, labels=names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*_coverage_limits(np.concatenate([coverage, low, high]), nominal))
    axes.set_xlabel("coverage of test pixels")
    axes.xaxis.set_major_locator(_ticks(5))
    axes.xaxis.set_major_formatter(_percent())
    axes.grid(axis="x", color="#e6e6e6")
    figure.legend(loc="outside upper center", ncols=2)
    return _bare(figure)


@rc_context(STYLE)
def unit_coverage(rows: Table, nominal: float) -> Figure:
    """Coverage of every single test unit, sorted within its channel."""
    figure = Figure(figsize=(HALF_WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    names = _names(rows)
    for index, name in enumerate(names):
        coverage = np.sort(_column(_of(rows, name), "coverage"))
        coverage = coverage[np.isfinite(coverage)]
        axes.plot(
            np.arange(1, coverage.size + 1),
            coverage,
            _MARKERS[index % len(_MARKERS)],
            color=token_colour(index + 5),
            markersize=4.5 if coverage.size < 100 else 3,
            label=name,
        )
    axes.axhline(nominal, color=_DARK, linestyle="--", linewidth=1, label=f"nominal {100 * nominal:g} %")
    axes.set_ylim(*_coverage_limits(_column(rows, "coverage"), nominal))
    axes.yaxis.set_major_locator(_ticks(6))
    axes.yaxis.set_major_formatter(_percent())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("test units, from worst to best covered")
    axes.set_ylabel("coverage")
    axes.grid(axis="y", color="#e6e6e6")
    figure.legend(loc="outside upper center", ncols=min(len(names) + 1, 4))
    return _bare(figure)


@rc_context(STYLE)
def coverage_by_intensity(rows: Table, nominal: float, value_unit: str) -> Figure:
    """Coverage and mean interval width over the predicted median's bins, one column of panels per channel."""
    names = _names(rows)[:CHANNEL_LIMIT]
    figure = Figure(figsize=(PAGE_WIDTH, 4.6), layout="constrained")
    axes = figure.subplots(2, len(names), sharex="col", squeeze=False)
    limits = _coverage_limits(_column(rows, "coverage"), nominal)
    for (top, bottom), name in zip(axes.T, names, strict=True):
        bins = sorted(_of(rows, name), key=lambda row: float(row["bin"]))
        edges = _edges(bins)
        top.axhline(nominal, color=_DARK, linestyle="--", linewidth=1)
        for panel, key, colour in ((top, "coverage", _BLUE), (bottom, "width", _ORANGE)):
            # One step per bin: on an axis of values the many dark bins of a sparse image would fall together.
            panel.stairs(_column(bins, key), np.arange(len(bins) + 1), baseline=None, color=colour, linewidth=1, zorder=2)
            panel.plot(np.arange(len(bins)) + 0.5, _column(bins, key), "o", color=colour, markersize=5)
            panel.grid(axis="y", color="#e6e6e6")
        top.set_title(name)
        every = 1 if len(names) == 1 else 2
        bottom.set_xticks(np.arange(len(edges))[::every], labels=edges[::every])
        bottom.tick_params(axis="x", labelrotation=45)
        top.set_ylim(*limits)
        top.yaxis.set_major_locator(_ticks(6))
        top.yaxis.set_major_formatter(_percent())
        # A width says nothing across channels of different brightness, so its axis is each channel's own.
        bottom.yaxis.set_major_locator(_ticks(5))
        bottom.set_ylim(0, _above(_column(bins, "width")))
    axes[0, 0].set_ylabel("coverage")
    axes[1, 0].set_ylabel(f"mean width ({value_unit})")
    figure.supxlabel(f"predicted median, edges of the bins ({value_unit})", fontsize=9.5)
    return _bare(figure)


@rc_context(STYLE)
def ensemble_curves(rows: Table, value_unit: str) -> Figure:
    """Correlation, interval width and coverage before calibration over the number of averaged members."""
    names = _names(rows)[:CHANNEL_LIMIT]
    quantities = (
        ("correlation", "correlation with clean", _BLUE),
        ("width", f"interval width ({value_unit})", _ORANGE),
        ("coverage", "coverage, uncalibrated", _GREEN),
    )
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 2.0 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(quantities), sharex=True, squeeze=False)
    for panels, name in zip(axes, names, strict=True):
        curve = sorted(_of(rows, name), key=lambda row: float(row["members"]))
        for panel, (key, label, colour) in zip(panels, quantities, strict=True):
            panel.plot(_column(curve, "members"), _column(curve, key), "o-", color=colour, markersize=4, linewidth=1.3)
            panel.set_title(f"{name}: {label}")
            panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
            panel.set_xlim(0.5, float(curve[-1]["members"]) + 0.5)
            panel.yaxis.set_major_locator(_ticks(5))
            # A shared offset such as +9.8e-1 above the axis is easily overlooked.
            panel.ticklabel_format(axis="y", useOffset=False)
            panel.grid(color="#e6e6e6")
        panels[-1].yaxis.set_major_formatter(_percent())
    figure.supxlabel("members averaged", fontsize=9.5)
    return _bare(figure)


@rc_context(STYLE)
def tokens(plane: Slice) -> Figure:
    """
    Map of the tokens beside the first channel's median, with each token's number and share of the map.

    Raises
    ------
    ValueError
        If the slice has no tokens.
    """
    if plane.tokens is None:
        raise ValueError(f"slice {plane.name!r} has no tokens; draw only slices that have")
    present, counts = np.unique(plane.tokens[plane.tokens > 0], return_counts=True)
    total = max(int(counts.sum()), 1)
    highest = int(present.max(initial=1))

    height = _panel_height(plane, 4.2)
    legend_columns = 1 + (present.size - 1) // 24
    per_column = -(-present.size // legend_columns)
    figure = Figure(figsize=(PAGE_WIDTH, max(height + 0.9, 0.6 + 0.19 * (per_column + 1))), layout="compressed")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    cmap = ListedColormap([token_colour(token) for token in range(1, highest + 1)]).with_extremes(bad=_CLEAR)
    for panel in (left, right):
        # Pixels without data let the hatched background through.
        panel.patch.set(facecolor="white", hatch="////", edgecolor="#bbbbbb", linewidth=0)
    _image(left, plane, np.where(plane.tokens > 0, plane.tokens, np.nan), cmap, Normalize(0.5, highest + 0.5))
    left.set_title("tokens")
    drawn = _image(right, plane, plane.median[0], _GREYS, _robust(plane.median[0]))
    right.set_title(f"{plane.channel_names[0]}: denoised")
    right.label_outer()
    _colour_bar(figure, drawn, right, plane.value_unit)
    patches = [
        Patch(facecolor=token_colour(int(token)), label=f"{token}:  {100 * count / total:.1f} %")
        for token, count in zip(present, counts, strict=True)
    ]
    if total < plane.tokens.size:
        patches.append(Patch(facecolor="white", hatch="////", edgecolor="#bbbbbb", label="no data"))
    figure.legend(
        handles=patches,
        loc="outside right upper",
        ncols=legend_columns,
        title="token: share",
        fontsize=8.5,
        handlelength=1.2,
        columnspacing=1.0,
        labelspacing=0.3,
    )
    return figure


@rc_context(STYLE)
def split_map(plane: Slice) -> Figure:
    """
    Map of what each pixel was used for.

    Raises
    ------
    ValueError
        If the slice has no roles.
    """
    if plane.role is None:
        raise ValueError(f"slice {plane.name!r} has no roles; draw only slices that have")
    height = _panel_height(plane, 3.9)
    figure = Figure(figsize=(HALF_WIDTH, max(height + 0.6, 1.8)), layout="compressed")
    axes = figure.subplots()
    _image(axes, plane, plane.role, ListedColormap(ROLE_COLOURS), Normalize(-0.5, len(ROLES) - 0.5))
    shares = np.bincount(plane.role.ravel(), minlength=len(ROLES)) / plane.role.size
    figure.legend(
        handles=[
            Patch(facecolor=colour, label=f"{role}\n{100 * share:.1f} %")
            for colour, role, share in zip(ROLE_COLOURS, ROLES, shares, strict=True)
            if share > 0
        ],
        loc="outside right upper",
    )
    return figure


def _profile(panel: Axes, plane: Slice, where: tuple[int, int, slice], position: Float[np.ndarray, " col"]) -> None:
    lower, median, upper, noisy = (image[where] for image in (plane.lower, plane.median, plane.upper, plane.noisy))
    clean = None if plane.clean is None else plane.clean[where]
    bottom, top = _profile_limits(noisy, [lower, upper] if clean is None else [lower, upper, clean])

    if plane.role is not None:
        inside: Bool[np.ndarray, " col"] = plane.role[where[1:]] == _TEST
        if not inside.all():
            axis = panel.get_xaxis_transform()
            panel.fill_between(position, 0, 1, where=~inside, step="mid", color="#f1f1f1", transform=axis, label="not test data")
    panel.plot(position, noisy, ".", color="#9a9a9a", markersize=4, label="noisy")
    for beyond, marker, edge in ((noisy > top, "^", top), (noisy < bottom, "v", bottom)):
        if beyond.any():
            panel.plot(position[beyond], np.full(beyond.sum(), edge), marker, color="#9a9a9a", markersize=4, clip_on=False)
    panel.fill_between(position, lower, upper, color=_BLUE, alpha=0.28, linewidth=0, label="interval")
    panel.plot(position, median, color=_BLUE, linewidth=1.5, label="median")
    if clean is not None:
        panel.plot(position, clean, color=_DARK, linewidth=0.9, label="clean")
    panel.set_ylim(bottom, top)
    panel.spines[["top", "right"]].set_visible(False)


def _profile_limits(noisy: Float[np.ndarray, " col"], curves: list[Float[np.ndarray, " col"]]) -> tuple[float, float]:
    """Range of the curves with room on both sides, but no more room than the noisy values need."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    span = (high - low) or max(abs(high), 1.0)
    scatter = noisy[np.isfinite(noisy)]
    bottom = min(low, max(float(scatter.min(initial=low)), low - 0.6 * span))
    top = max(high, min(float(scatter.max(initial=high)), high + 0.6 * span))
    return bottom - 0.05 * span, top + 0.05 * span


def _image(
    axes: Axes,
    plane: Slice,
    values: Real[np.ndarray, " row col"],
    cmap: Colormap,
    scale: Normalize,
) -> ScalarMappable:
    """An image with its axes in units of length; every k-th pixel where it has more than the page can show."""
    rows, columns = values.shape
    steps = tuple(slice(None, None, -(-size // PIXEL_LIMIT)) for size in values.shape)
    extent = (0.0, columns * plane.spacing[1], rows * plane.spacing[0], 0.0)
    drawn = axes.imshow(values[steps], cmap=cmap, norm=scale, extent=extent, interpolation="nearest")
    unit = _symbol(plane.length_unit)
    axes.set_xlabel(f"{plane.axes[1]} ({unit})")
    axes.set_ylabel(f"{plane.axes[0]} ({unit})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_ticks(4))
    return drawn


def _aspect(plane: Slice) -> float:
    """Height over width."""
    rows, columns = plane.median.shape[1:]
    return float(rows * plane.spacing[0] / (columns * plane.spacing[1]))


def _panel_height(plane: Slice, width: float) -> float:
    """Height of an image of this width in inches, within what a page can hold; beyond it the image gets narrower."""
    return min(max(width * _aspect(plane), 0.6), 5.5)


def _robust(image: Float[np.ndarray, " row col"]) -> Normalize:
    """Colour scale that leaves out half a percent at either end."""
    values = image[np.isfinite(image)]
    if not values.size:
        return Normalize(0.0, 1.0)
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    # What differs by rounding alone is drawn as one colour.
    if high - low <= 1e-5 * max(abs(low), abs(high)):
        margin = 0.1 * max(abs(low), abs(high)) or 0.5
        return Normalize(low - margin, high + margin)
    return Normalize(low, high)


def _colour_bar(figure: Figure, drawn: ScalarMappable, panel: Axes, unit: str) -> None:
    left, right, bottom, top = (*panel.get_xlim(), *panel.get_ylim())
    wide = abs(top - bottom) < 0.4 * abs(right - left)
    bar = figure.colorbar(drawn, ax=panel, label=unit, extend="both", extendfrac=0.03, aspect=6 if wide else 18, pad=0.02)
    bar.locator = _ticks(1 if wide else 5)
    bar.formatter = ScalarFormatter(useOffset=False)
    bar.update_ticks()


def _bare(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _names(rows: Table) -> list[str]:
    return list(dict.fromkeys(str(row["channel"]) for row in rows))


def _of(rows: Table, channel: str) -> list[Row]:
    return [row for row in rows if row["channel"] == channel]


def _column(rows: Table, key: str) -> Float[np.ndarray, " n"]:
    return np.array([float(row[key]) for row in rows], dtype=np.float64)


def _edges(bins: Table) -> list[str]:
    """Labels of the bins' edges; what is nothing beside the brightest edge reads 0."""
    edges = np.append(_column(bins, "from"), float(bins[-1]["to"]))
    least = 1e-4 * np.abs(edges[np.isfinite(edges)]).max(initial=0.0)
    return ["0" if abs(edge) < least else f"{edge:.3g}".replace("inf", "∞") for edge in edges]


def _above(values: Float[np.ndarray, " n"]) -> float:
    values = values[np.isfinite(values)]
    return 1.1 * float(values.max(initial=0.0)) or 1.0


def _coverage_limits(values: Float[np.ndarray, " n"], nominal: float) -> tuple[float, float]:
    """What there is and the nominal coverage, with some room, and never less than four percent of it."""
    values = np.append(values[np.isfinite(values)], nominal)
    low, high = min(float(values.min()), nominal - 0.02), max(float(values.max()), nominal + 0.02)
    room = 0.08 * (high - low)
    return max(low - room, -0.01), min(high + room, 1.01)


def _ticks(count: int) -> MaxNLocator:
    return MaxNLocator(count, steps=[1, 2, 5, 10])


def _percent() -> FuncFormatter:
    # No more digits than the ticks need; matplotlib's own formatter writes 90.00 %.
    return FuncFormatter(lambda fraction, _: f"{100 * fraction:.6g} %")


def _symbol(unit: str) -> str:
    return _SYMBOLS.get(unit, unit)
