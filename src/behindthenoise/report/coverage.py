"""One function per figure that judges the intervals on test pixels: tables in, a matplotlib figure out, as in `figures`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from behindthenoise.core.palette import colour
from behindthenoise.report.content import Table
from behindthenoise.report.style import (
    BLUE,
    CHANNEL_LIMIT,
    DARK,
    GREEN,
    GRID,
    HALF_WIDTH,
    MARKERS,
    ORANGE,
    PAGE_WIDTH,
    STYLE,
    above,
    bare,
    channels_of,
    column,
    coverage_limits,
    percents,
    rows_of,
    ticks,
)

LABELLED_TOKENS = 24  # numbers that fit below one panel; of more tokens every second or third is numbered
FEW_TOKENS = 12  # of one channel: half the page holds them
_FAINT = "#b9c2ca"


@rc_context(STYLE)
def by_channel(rows: Table, nominal: float) -> Figure:
    """Measured coverage of each channel with its confidence interval, against the nominal one."""
    names = [str(row["channel"]) for row in rows]
    coverage, low, high = (column(rows, key) for key in ("coverage", "coverage_low", "coverage_high"))
    position = np.arange(len(rows))

    figure = Figure(figsize=(HALF_WIDTH, max(2.6, 1.3 + 0.34 * len(rows))), layout="constrained")
    axes = figure.subplots()
    axes.axvline(nominal, color=DARK, linestyle="--", linewidth=1, label=f"nominal {100 * nominal:g} %")
    axes.hlines(position, low, high, color=BLUE, linewidth=2)
    axes.plot(coverage, position, "o", color=BLUE, markersize=7, label="measured, with 95 % interval")
    axes.set_yticks(position, labels=names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*coverage_limits(np.concatenate([coverage, low, high]), nominal))
    axes.set_xlabel("coverage of test pixels")
    axes.xaxis.set_major_locator(ticks(5))
    axes.xaxis.set_major_formatter(percents())
    axes.grid(axis="x", color=GRID)
    figure.legend(loc="outside upper center", ncols=2)
    return bare(figure)


@rc_context(STYLE)
def by_unit(rows: Table, nominal: float) -> Figure:
    """Coverage of every single test unit, sorted within its channel."""
    figure = Figure(figsize=(HALF_WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    names = channels_of(rows)
    for index, name in enumerate(names):
        coverage = np.sort(column(rows_of(rows, name), "coverage"))
        coverage = coverage[np.isfinite(coverage)]
        axes.plot(
            np.arange(1, coverage.size + 1),
            coverage,
            MARKERS[index % len(MARKERS)],
            color=colour(index + 4),
            markersize=4.5 if coverage.size < 100 else 3,
            label=name,
        )
    axes.axhline(nominal, color=DARK, linestyle="--", linewidth=1, label=f"nominal {100 * nominal:g} %")
    _coverage_axis(axes, coverage_limits(column(rows, "coverage"), nominal))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("test units, from worst to best covered")
    axes.set_ylabel("coverage")
    axes.grid(axis="y", color=GRID)
    figure.legend(loc="outside upper center", ncols=min(len(names) + 1, 4))
    return bare(figure)


@rc_context(STYLE)
def by_token(rows: Table, nominal: float, value_unit: str, colours: Sequence[str]) -> Figure:
    """Coverage of every token with its confidence interval above the mean width there, one pair of panels per channel."""
    names = channels_of(rows)[:CHANNEL_LIMIT]
    most = max(len(rows_of(rows, name)) for name in names)
    narrow = len(names) == 1 and most <= FEW_TOKENS
    figure, panels = _stacks(names, (2.1, 1.3), least=max(2.7, 0.16 * most + 0.9), width=HALF_WIDTH if narrow else PAGE_WIDTH)
    limits = _limits_of(rows, nominal)
    for name, (top, bottom) in panels.items():
        part = sorted(rows_of(rows, name), key=lambda row: float(row["token"]))
        places, tokens = np.arange(len(part)), [int(row["token"]) for row in part]
        filled = [colours[token - 1] if token else _FAINT for token in tokens]
        top.axhline(nominal, color=DARK, linestyle="--", linewidth=1)
        top.vlines(places, column(part, "coverage_low"), column(part, "coverage_high"), color=DARK, linewidth=1.2)
        # pale colours need a rim to be seen on paper
        top.scatter(places, column(part, "coverage"), s=36, c=filled, edgecolors=DARK, linewidths=0.7, zorder=3)
        bottom.bar(places, column(part, "width"), 0.7, color=filled, edgecolor=DARK, linewidth=0.5)
        _coverage_axis(top, limits)
        _width_axis(bottom, part)
        every = -(-len(part) // LABELLED_TOKENS)
        for panel in (top, bottom):
            panel.set_xticks(places[::every], labels=[str(token) for token in tokens[::every]])
            panel.set_xlim(-0.6, len(part) - 0.4)
            panel.grid(axis="y", color=GRID)
    _label_rows(panels, ("coverage", f"mean width\n({value_unit})"))
    figure.supxlabel("token", fontsize=9.5)
    return bare(figure)


@rc_context(STYLE)
def by_intensity(rows: Table, nominal: float, value_unit: str) -> Figure:
    """Coverage with its interval, and mean width, over tenths of the predicted median, one pair of panels per channel."""
    figure, panels = _stacks(channels_of(rows)[:CHANNEL_LIMIT], (2.1, 1.5))
    limits = _limits_of(rows, nominal)
    for name, (top, bottom) in panels.items():
        part = _bins_of(rows, name)
        top.axhline(nominal, color=DARK, linestyle="--", linewidth=1)
        _steps(top, part, "coverage", BLUE)
        _interval_bars(top, part)
        _steps(bottom, part, "width", ORANGE)
        _coverage_axis(top, limits)
        # A width says nothing across channels of different brightness, so its axis is each channel's own.
        _width_axis(bottom, part)
        _edge_axis([top, bottom], part)
    _label_rows(panels, ("coverage", f"mean width\n({value_unit})"))
    figure.supxlabel(f"predicted median, edges of the bins ({value_unit})", fontsize=9.5)
    return bare(figure)


@rc_context(STYLE)
def by_width(rows: Table, nominal: float, value_unit: str) -> Figure:
    """Coverage with its interval over tenths of the interval's width, one panel per channel."""
    figure, panels = _stacks(channels_of(rows)[:CHANNEL_LIMIT], (2.3,))
    limits = _limits_of(rows, nominal)
    for name, (panel,) in panels.items():
        part = _bins_of(rows, name)
        panel.axhline(nominal, color=DARK, linestyle="--", linewidth=1)
        _steps(panel, part, "coverage", BLUE)
        _interval_bars(panel, part)
        _coverage_axis(panel, limits)
        _edge_axis([panel], part)
    _label_rows(panels, ("coverage",))
    figure.supxlabel(f"width of the interval, edges of the bins ({value_unit})", fontsize=9.5)
    return bare(figure)


@rc_context(STYLE)
def reliability(rows: Table, nominal: float) -> Figure:
    """Measured over nominal coverage at every level, with its 95 % band, one panel per channel."""
    names = channels_of(rows)[:CHANNEL_LIMIT]
    figure, panels = _stacks(names, (2.9,), width=_page_width(names))
    for name, (panel,) in panels.items():
        part = sorted(rows_of(rows, name), key=lambda row: float(row["level"]))
        level = column(part, "level")
        panel.axvline(nominal, color=_FAINT, linestyle=":", linewidth=1.2, label=f"the promised {100 * nominal:g} %")
        panel.plot([0, 1], [0, 1], color=DARK, linestyle="--", linewidth=1, label="as promised")
        low, high = column(part, "coverage_low"), column(part, "coverage_high")
        panel.fill_between(level, low, high, color=BLUE, alpha=0.28, linewidth=0, label="95 % band")
        panel.plot(level, column(part, "coverage"), color=BLUE, linewidth=1.5, label="measured")
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal coverage")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(ticks(5))
            axis.set_major_formatter(percents())
        panel.grid(color=GRID)
    _label_rows(panels, ("coverage of test pixels",))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(names) == 1 else 4)
    return bare(figure)


@rc_context(STYLE)
def pit(rows: Table) -> Figure:
    """Histogram of the probability integral transform with the line that it should follow, one panel per channel."""
    names = channels_of(rows)[:CHANNEL_LIMIT]
    figure, panels = _stacks(names, (2.9 if len(names) == 1 else 2.2,), width=_page_width(names))
    for name, (panel,) in panels.items():
        part = sorted(rows_of(rows, name), key=lambda row: float(row["from"]))
        start, share = column(part, "from"), column(part, "share")
        panel.bar(start, share, column(part, "to") - start, align="edge", color=_FAINT, edgecolor="white", linewidth=0.5)
        panel.axhline(1 / len(part), color=DARK, linestyle="--", linewidth=1, label=f"calibrated: 1 in {len(part)}")
        panel.set(
            xlim=(0, 1), ylim=(0, above(np.append(share, 1 / len(part)))), xlabel="predicted probability below the clean value"
        )
        panel.yaxis.set_major_locator(ticks(5))
        panel.yaxis.set_major_formatter(percents())
    _label_rows(panels, ("share of test pixels",))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center")
    return bare(figure)


@rc_context(STYLE)
def reference_noise(rows: Table, nominal: float, value_unit: str) -> Figure:
    """Share of the reference's own noise in the residuals, and coverage of the true signal that follows, over intensity."""
    figure, panels = _stacks(channels_of(rows)[:CHANNEL_LIMIT], (1.8, 1.8))
    signal = column(rows, "signal_coverage")
    limits = (min(nominal, float(np.nanmin(signal, initial=nominal))) - 0.01, 1.005)
    for name, (top, bottom) in panels.items():
        part = _bins_of(rows, name)
        top.axhline(1, color=DARK, linestyle=":", linewidth=1)
        bottom.axhline(nominal, color=DARK, linestyle="--", linewidth=1)
        _steps(top, part, "noise_share", ORANGE)
        _steps(bottom, part, "signal_coverage", GREEN)
        top.set_ylim(0, max(above(column(part, "noise_share")), 1.1))
        top.yaxis.set_major_locator(ticks(5))
        top.yaxis.set_major_formatter(percents())
        _coverage_axis(bottom, limits)
        _edge_axis([top, bottom], part)
    _label_rows(panels, ("noise in the\nresidual variance", "implied coverage\nof the true signal"))
    figure.supxlabel(f"predicted median, edges of the bins ({value_unit})", fontsize=9.5)
    return bare(figure)


def _stacks(
    names: Sequence[str], heights: Sequence[float], *, least: float = 2.7, width: float = PAGE_WIDTH
) -> tuple[Figure, Mapping[str, list[Axes]]]:
    """A stack of panels of these heights for each name, as many stacks beside each other as have the least width."""
    fitting = max(1, int(width / least))
    rows = -(-len(names) // fitting)
    columns = -(-len(names) // rows)
    figure = Figure(figsize=(width, rows * (sum(heights) + 0.35) + 0.55), layout="constrained")
    axes = figure.subplots(rows * len(heights), columns, height_ratios=list(heights) * rows, squeeze=False)
    panels = {}
    for index in range(rows * columns):
        row, place = divmod(index, columns)
        stack = list(axes[row * len(heights) : (row + 1) * len(heights), place])
        if index >= len(names):
            for panel in stack:
                panel.set_axis_off()
            continue
        stack[0].set_title(names[index])
        for panel in stack[:-1]:
            panel.tick_params(labelbottom=False)
        panels[names[index]] = stack
    return figure, panels


def _label_rows(panels: Mapping[str, Sequence[Axes]], labels: Sequence[str]) -> None:
    """Names of the vertical axes, at the left of the page alone."""
    for stack in panels.values():
        for panel, label in zip(stack, labels, strict=True):
            place = panel.get_subplotspec()
            if place is not None and place.is_first_col():
                panel.set_ylabel(label)


def _page_width(names: Sequence[str]) -> float:
    """One panel takes half of the page, more take all of it."""
    return HALF_WIDTH if len(names) == 1 else PAGE_WIDTH


def _bins_of(rows: Table, channel: str) -> Table:
    return sorted(rows_of(rows, channel), key=lambda row: float(row["bin"]))


def _limits_of(rows: Table, nominal: float) -> tuple[float, float]:
    return coverage_limits(np.concatenate([column(rows, key) for key in ("coverage", "coverage_low", "coverage_high")]), nominal)


def _steps(panel: Axes, bins: Table, key: str, colour: str) -> None:
    """One step per bin: on an axis of values the many dark bins of a sparse image would fall together."""
    panel.stairs(column(bins, key), color=colour, linewidth=2, baseline=None)


def _interval_bars(panel: Axes, bins: Table) -> None:
    """The 95 % interval in the middle of each bin's step."""
    panel.vlines(np.arange(len(bins)) + 0.5, column(bins, "coverage_low"), column(bins, "coverage_high"), color=BLUE, linewidth=1.2)


def _edge_axis(stack: Sequence[Axes], bins: Table) -> None:
    """Edges of the bins as ticks of all panels, as labels of the lowest."""
    edges = np.append(column(bins, "from"), float(bins[-1]["to"]))
    # what is nothing beside the largest edge reads 0
    least = 1e-4 * np.abs(edges[np.isfinite(edges)]).max(initial=0.0)
    labels = ["0" if abs(edge) < least else f"{edge:.3g}".replace("inf", "∞") for edge in edges]
    for panel in stack:
        panel.set_xlim(-0.2, len(bins) + 0.2)
        panel.set_xticks(np.arange(len(edges)))
        panel.grid(axis="y", color=GRID)
    stack[-1].set_xticklabels(labels, rotation=45, ha="right", rotation_mode="anchor")


def _coverage_axis(panel: Axes, limits: tuple[float, float]) -> None:
    panel.set_ylim(*limits)
    panel.yaxis.set_major_locator(ticks(6))
    panel.yaxis.set_major_formatter(percents())


def _width_axis(panel: Axes, rows: Table) -> None:
    panel.set_ylim(0, above(column(rows, "width")))
    panel.yaxis.set_major_locator(ticks(4))
