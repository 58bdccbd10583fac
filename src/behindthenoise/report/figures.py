"""
One function per figure of images, tokens and the ensemble: tables or a slice in, a matplotlib figure out.

Figures are made without pyplot, so that nothing is shared between them and no display is needed. Whoever saves them does it
inside `rc_context(STYLE)`, because matplotlib reads some settings only then.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Real
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from behindthenoise.report.content import Slice, Table
from behindthenoise.report.style import (
    BLUE,
    CHANNEL_LIMIT,
    DARK,
    GREEN,
    GRID,
    HALF_WIDTH,
    ORANGE,
    PAGE_WIDTH,
    STYLE,
    bare,
    channels_of,
    column,
    extent_of,
    percents,
    rows_of,
    symbol,
    ticks,
)

PIXEL_LIMIT = 1200  # along one axis of one panel; a panel never has more pixels on the page
CUT_LIMIT = 300  # columns in a line cut; with more, band and dots can no longer be told apart

ROLES = ("unused", "training", "calibration", "test")
ROLE_COLOURS = ("#e4e4e4", "#0072b2", "#e69f00", "#009e73")
_TEST = 3
_NO_DATA = "#d9d9d9"
_CLEAR = (0.0, 0.0, 0.0, 0.0)
_VALUES, _WIDTHS = (colormaps[name].with_extremes(bad=_NO_DATA) for name in ("viridis", "magma"))
_GREYS = colormaps["gray"].with_extremes(bad=_CLEAR)


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
    position = plane.origin[1] + np.arange(plane.median.shape[-1])[stretch] * plane.spacing[1]

    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 2.1 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for channel, (name, panel) in enumerate(zip(names, axes, strict=True)):
        _profile(panel, plane, (channel, row, stretch), position)
        panel.set_ylabel(f"{name}\n({plane.value_unit})")
    figure.align_ylabels(axes)
    where = plane.origin[0] + row * plane.spacing[0]
    axes[0].set_title(f"{plane.title}, {plane.axes[0]} = {where:.8g} {symbol(plane.length_unit)}", loc="left")
    axes[-1].set_xlabel(f"{plane.axes[1]} ({symbol(plane.length_unit)})")
    axes[-1].set_xlim(position[0] - 0.5 * plane.spacing[1], position[-1] + 0.5 * plane.spacing[1])
    handles = {label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


@rc_context(STYLE)
def ensemble_curves(rows: Table, value_unit: str) -> Figure:
    """Correlation, interval width and coverage before calibration over the number of averaged members."""
    names = channels_of(rows)[:CHANNEL_LIMIT]
    quantities = (
        ("correlation", "correlation with clean", BLUE),
        ("width", f"interval width ({value_unit})", ORANGE),
        ("coverage", "coverage, uncalibrated", GREEN),
    )
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 2.0 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(quantities), sharex=True, squeeze=False)
    for panels, name in zip(axes, names, strict=True):
        curve = sorted(rows_of(rows, name), key=lambda row: float(row["members"]))
        for panel, (key, label, colour) in zip(panels, quantities, strict=True):
            panel.plot(column(curve, "members"), column(curve, key), "o-", color=colour, markersize=4, linewidth=1.3)
            panel.set_title(f"{name}: {label}")
            panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
            panel.set_xlim(0.5, float(curve[-1]["members"]) + 0.5)
            panel.yaxis.set_major_locator(ticks(5))
            # A shared offset such as +9.8e-1 above the axis is easily overlooked.
            panel.ticklabel_format(axis="y", useOffset=False)
            panel.grid(color=GRID)
        panels[-1].yaxis.set_major_formatter(percents())
    figure.supxlabel("members averaged", fontsize=9.5)
    return bare(figure)


@rc_context(STYLE)
def token_stability(rows: Table, count: int) -> Figure:
    """Agreement of other fits, and the memory of a walk through the image, over the number of tokens; the number used is marked."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    numbers = column(rows, "tokens")
    curves = (("agreement_of_seeds", "other seeds", BLUE, "o-"), ("agreement_of_halves", "halves of the ensemble", ORANGE, "s--"))
    for key, label, colour, style in curves:
        left.plot(numbers, column(rows, key), style, color=colour, markersize=4, linewidth=1.3, label=label)
    left.set_ylim(min(0.0, *(float(row[key]) for row in rows for key, *_ in curves if float(row[key]) == float(row[key]))), 1.02)
    left.set_title("adjusted Rand index with")
    right.plot(numbers, column(rows, "memory"), "D-", color=GREEN, markersize=4, linewidth=1.3)
    right.set_ylim(0, 1.02)
    right.set_title("memory of one step through the image")
    for panel in (left, right):
        panel.axvline(count, color="black", linestyle=":", linewidth=1, label="tokens used")
        panel.set_xlabel("number of tokens")
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        panel.grid(color=GRID)
    left.legend(fontsize=8.5)
    return figure


@rc_context(STYLE)
def tokens(plane: Slice, colours: Sequence[str]) -> Figure:
    """
    Map of the tokens, with each token's number and share of the map, beside the embedding and the first channel's median.

    Parameters
    ----------
    colours
        Of each token, from 1.

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

    columns = 2 if plane.colours is None else 3
    height = _panel_height(plane, 8.4 / columns)
    legend_columns = 1 + max(present.size - 1, 0) // 24
    per_column = max(-(-present.size // legend_columns), 1)
    figure = Figure(figsize=(PAGE_WIDTH, max(height + 0.9, 0.6 + 0.19 * (per_column + 1))), layout="compressed")
    left, *middle, right = panels = figure.subplots(1, columns, sharex=True, sharey=True)
    cmap = ListedColormap(list(colours[:highest])).with_extremes(bad=_CLEAR)
    for panel in panels:
        # Pixels without data let the hatched background through.
        panel.patch.set(facecolor="white", hatch="////", edgecolor="#bbbbbb", linewidth=0)
    _image(left, plane, np.where(plane.tokens > 0, plane.tokens, np.nan), cmap, Normalize(0.5, highest + 0.5))
    left.set_title("tokens")
    for panel in middle:
        _false_colours(panel, plane)
    drawn = _image(right, plane, plane.median[0], _GREYS, _robust(plane.median[0]))
    right.set_title(f"{plane.channel_names[0]}: denoised")
    right.label_outer()
    _colour_bar(figure, drawn, right, plane.value_unit)
    patches = [
        Patch(facecolor=colours[int(token) - 1], label=f"{token}:  {100 * count / total:.1f} %")
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
    panel.fill_between(position, lower, upper, color=BLUE, alpha=0.28, linewidth=0, label="interval")
    panel.plot(position, median, color=BLUE, linewidth=1.5, label="median")
    if clean is not None:
        panel.plot(position, clean, color=DARK, linewidth=0.9, label="clean")
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
    values: Real[np.ndarray, " row col *rgba"],
    cmap: Colormap,
    scale: Normalize,
) -> ScalarMappable:
    """An image with its axes in units of length; every k-th pixel where it has more than the page can show."""
    rows, columns = values.shape[:2]
    steps = tuple(slice(None, None, -(-size // PIXEL_LIMIT)) for size in (rows, columns))
    extent = extent_of((rows, columns), plane.spacing, plane.origin)
    drawn = axes.imshow(values[steps], cmap=cmap, norm=scale, extent=extent, interpolation="nearest")
    unit = symbol(plane.length_unit)
    axes.set_xlabel(f"{plane.axes[1]} ({unit})")
    axes.set_ylabel(f"{plane.axes[0]} ({unit})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticks(4))
    return drawn


def _false_colours(axes: Axes, plane: Slice) -> None:
    """The embedding in false colours; pixels without data are clear."""
    assert plane.colours is not None
    opaque = 255 * (plane.colours > 0).all(axis=0, keepdims=True).astype(np.uint8)
    pixels = np.moveaxis(np.concatenate([plane.colours, opaque]), 0, -1)
    _image(axes, plane, pixels, _GREYS, Normalize())
    axes.set_title("embedding in false colours")
    axes.label_outer()


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
    bar.locator = ticks(1 if wide else 5)
    bar.formatter = ScalarFormatter(useOffset=False)
    bar.update_ticks()
