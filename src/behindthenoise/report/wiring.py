"""An architecture as a picture and in numbers: arcs between the nodes of a sparse graph, boxes for the levels of a U-Net."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from behindthenoise.core.architecture import Architecture
from behindthenoise.core.graph import Graph
from behindthenoise.core.memory import bytes_per_voxel
from behindthenoise.core.unet import UNet
from behindthenoise.errors import ConfigError
from behindthenoise.io.record import read_json
from behindthenoise.report.style import PAGE_WIDTH, STYLE
from behindthenoise.words import counted

SUFFIXES = (".svg", ".png", ".pdf")
LEAST_HEIGHT = 3.4  # inches
NUMBERED = 24  # hidden nodes that still have room for their numbers inside
SCALES = 12  # dilations that still have a label each beside the colour bar
ARC = np.linspace(0, np.pi, 49)
_PAPER, _DARK, _OUTPUT, _PALE, _BLUE = "#ffffff", "#222222", "#a8a8a8", "#f1f4f6", "#0072b2"


def read(path: Path) -> Architecture:
    """
    Architecture in a `graph.json`.

    Raises
    ------
    StoreError, GraphError
        If there is no such file, or it describes no network.
    """
    return Architecture.from_data(read_json(path))


def write(architecture: Architecture, path: Path) -> None:
    """
    Write the picture in the format of the path's suffix; the same architecture gives the same SVG and PNG.

    Raises
    ------
    ConfigError
        If the suffix is none of svg, png, pdf.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"picture {str(path)!r} ends with {path.suffix!r}; give it one of {', '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure(architecture).savefig(path, metadata=dated.get(path.suffix))


def facts(architecture: Architecture) -> dict[str, str]:
    """What the network is made of and what it costs, in words."""
    wiring = architecture.wiring
    return {
        "kind": f"{wiring.kind}, {architecture.ndim}D, {counted(architecture.in_channels, 'channel')} in, "
        f"{architecture.out_channels} out, latent {architecture.latent}, head {architecture.head}",
        **(_graph_facts(wiring) if isinstance(wiring, Graph) else _unet_facts(wiring)),
        "convolutions": f"{len(architecture.shapes()) - 3}, then encoder, mixer and heads",
        "parameters": f"{architecture.parameters}",
        "receptive radius": counted(architecture.radius, "voxel"),
        "multiply-adds per voxel": f"{architecture.operations:.0f}",
        "bytes per voxel": f"{bytes_per_voxel(architecture)} at most",
    }


def _graph_facts(graph: Graph) -> dict[str, str]:
    entering = sum(edge.source == 0 for edge in graph.edges)
    return {
        "nodes": f"{graph.depth} hidden; fed by the input: {entering}; feeding the latent: {len(graph.outputs)}",
        "edges": f"{len(graph.edges)}, of dilations {', '.join(map(str, _dilations(graph)))}",
    }


def _unet_facts(unet: UNet) -> dict[str, str]:
    widths = ", ".join(str(unet.width * 2**level) for level in range(unet.levels + 1))
    return {"levels": f"{unet.levels} below the first, {widths} channels", "repeats": f"{unet.repeats} at each level, down and up"}


@rc_context(STYLE)
def figure(architecture: Architecture) -> Figure:
    """Picture of the wiring, with its size above it."""
    wiring = architecture.wiring
    drawn = _arcs(wiring, architecture.in_channels) if isinstance(wiring, Graph) else _boxes(wiring, architecture)
    parameters = f"{architecture.parameters:_}".replace("_", "\N{NARROW NO-BREAK SPACE}")
    drawn.axes[0].set_title(f"{wiring.kind}: {parameters} parameters, receptive radius {counted(architecture.radius, 'voxel')}")
    return drawn


def _arcs(graph: Graph, in_channels: int) -> Figure:
    """Nodes on a line, edges between hidden nodes above it, those from the input and to the latent below."""
    figure = Figure(figsize=(PAGE_WIDTH, LEAST_HEIGHT + 0.02 * graph.depth), layout="constrained")
    axes = figure.subplots()
    sink = graph.depth + 1
    hidden = [edge for edge in graph.edges if edge.source > 0]
    entering = [edge for edge in graph.edges if edge.source == 0]
    channels = graph.channels(in_channels)
    thickness = _thickness([*(edge.channels for edge in graph.edges), *(channels[node] for node in graph.outputs)], graph.depth)
    dilations = _dilations(graph)
    colours = _colours(dilations)
    for edges, side, style in ((hidden, 1, "solid"), (entering, -1, "dashed")):
        axes.add_collection(
            LineCollection(
                _bows([(edge.source, edge.target) for edge in edges], side),
                colors=[colours[edge.dilation] for edge in edges],
                linewidths=[thickness(edge.channels) for edge in edges],
                linestyles=style,
                zorder=2,
            )
        )
    axes.add_collection(
        LineCollection(
            _bows([(node, sink) for node in graph.outputs], -1),
            colors=_OUTPUT,
            linewidths=[thickness(channels[node]) for node in graph.outputs],
            zorder=1,
        )
    )
    _draw_nodes(axes, graph)
    _dilation_bar(figure, axes, dilations)
    widths = sorted({edge.channels for edge in graph.edges} | {channels[node] for node in graph.outputs})
    figure.legend(
        handles=[
            Line2D([], [], color=_DARK, linewidth=1.4, label="between hidden nodes"),
            Line2D([], [], color=_DARK, linewidth=1.4, linestyle="dashed", label="from the input"),
            Line2D([], [], color=_OUTPUT, linewidth=1.4, label="to the latent (1x1)"),
            *(
                Line2D([], [], color=_DARK, linewidth=thickness(width), label=counted(width, "channel"))
                for width in widths[:: max(1, len(widths) - 1)]
            ),
        ],
        loc="outside lower center",
        ncols=5,
    )
    return figure


def _bows(ends: Sequence[tuple[int, int]], side: int) -> list[Float[np.ndarray, " point 2"]]:
    """Half ellipses between nodes on one side of the line; the longest is 1 high, short ones are higher than in proportion."""
    longest = max((stop - start for start, stop in ends), default=1)
    return [
        np.column_stack(
            [
                (start + stop) / 2 - (stop - start) / 2 * np.cos(ARC),
                side * ((stop - start) / longest) ** 0.75 * np.sin(ARC),
            ]
        )
        for start, stop in ends
    ]


def _draw_nodes(axes: Axes, graph: Graph) -> None:
    """Input, hidden nodes and latent on a line, with as many numbers as there is room for."""
    sink, numbered = graph.depth + 1, graph.depth <= NUMBERED
    axes.plot(
        range(1, sink),
        np.zeros(graph.depth),
        "o",
        color=_PAPER if numbered else _DARK,
        markeredgecolor=_DARK,
        markersize=15 if numbered else max(6 - 0.02 * graph.depth, 2),
        zorder=3,
    )
    every = 1 if numbered else 5 if graph.depth <= 100 else 50
    for node in range(every, sink, every):
        axes.annotate(
            f"{node}",
            (node, 0),
            xytext=(0, 0 if numbered else -9),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            zorder=4,
            bbox=None if numbered else {"facecolor": _PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
        )
    for name, place, marker, away in (("input", 0, "s", "right"), ("latent", sink, "D", "left")):
        axes.plot([place], [0], marker, color=_DARK, markersize=9, zorder=3)
        offset = -9 if away == "right" else 9
        axes.annotate(name, (place, 0), xytext=(offset, 0), textcoords="offset points", ha=away, va="center")
    room = 0.09 * (sink + 1)
    axes.set_xlim(-room, sink + room)
    axes.set_ylim(-1.08, 1.08)
    axes.set_axis_off()


def _dilation_bar(figure: Figure, axes: Axes, dilations: Sequence[int]) -> None:
    """One field of the colour bar for each dilation."""
    colours = _colours(dilations)
    norm = BoundaryNorm(np.arange(len(dilations) + 1) - 0.5, len(dilations))
    mapped = ScalarMappable(norm, ListedColormap([colours[dilation] for dilation in dilations]))
    every = -(-len(dilations) // SCALES)
    bar = figure.colorbar(mapped, ax=axes, shrink=0.7, aspect=14, pad=0.01, label="dilation (voxels)")
    bar.set_ticks(list(range(0, len(dilations), every)), labels=[str(dilation) for dilation in dilations[::every]])
    bar.ax.minorticks_off()


def _boxes(unet: UNet, architecture: Architecture) -> Figure:
    """One box for each level on the way down and on the way up, with its channels and repeats."""
    figure = Figure(figsize=(PAGE_WIDTH, 1.6 + 1.05 * unet.levels), layout="constrained")
    axes = figure.subplots()
    kernel = "x".join("3" * architecture.ndim)
    right = 2 * unet.levels
    for step in range(right + 1):
        level = min(step, right - step)
        _box(axes, step, level, f"{counted(unet.width * 2**level, 'channel')}\n{unet.repeats} x {kernel}")
    for level in range(unet.levels):
        _arrow(axes, (level, level), (level + 1, level + 1), colour=_DARK)
        _arrow(axes, (right - level - 1, level + 1), (right - level, level), colour=_DARK)
        _arrow(axes, (level, level), (right - level, level), colour=_BLUE, style="dashed")
    for place, text in (
        (-1, f"input\n{counted(architecture.in_channels, 'channel')}"),
        (right + 1, f"latent\n{architecture.latent}"),
    ):
        _box(axes, place, 0, text)
    _arrow(axes, (-1, 0), (0, 0), colour=_DARK)
    _arrow(axes, (right, 0), (right + 1, 0), colour=_OUTPUT)
    for level in range(unet.levels + 1):
        axes.text(-1.5, -level, "every voxel" if level == 0 else f"1 of {2**level}\nalong each axis", ha="right", va="center")
    figure.legend(
        handles=[
            Line2D([], [], color=_DARK, label="halved by max pooling, doubled by repetition"),
            Line2D([], [], color=_BLUE, linestyle="dashed", label="joined on the way up"),
            Line2D([], [], color=_OUTPUT, label="to the latent (1x1)"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    axes.set_xlim(-2.6, right + 1.6)
    axes.set_ylim(-unet.levels - 0.5, 0.5)
    axes.set_axis_off()
    return figure


def _box(axes: Axes, place: int, level: int, text: str) -> None:
    corner, size = (place - 0.36, -level - 0.34), (0.72, 0.68)
    axes.add_patch(
        FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.06", facecolor=_PALE, edgecolor=_DARK, zorder=3)
    )
    axes.text(place, -level, text, ha="center", va="center", fontsize=8, zorder=4)


def _arrow(axes: Axes, start: tuple[int, int], stop: tuple[int, int], *, colour: str, style: str = "solid") -> None:
    """Arrow between two boxes, given by place and level; the boxes hide its ends, so it stops before the second."""
    (left, above), (right, below) = start, stop
    axes.annotate(
        "",
        (right - 0.37, -below if above == below else -below + (0.2 if below > above else -0.2)),
        xytext=(left, -above),
        arrowprops={"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0},
        zorder=2,
    )


def _dilations(graph: Graph) -> list[int]:
    return sorted({edge.dilation for edge in graph.edges})


def _colours(dilations: Sequence[int]) -> dict[int, tuple[float, float, float, float]]:
    """From dark blue for the least dilation to a yellow that can still be seen on white for the largest."""
    places = np.linspace(0, 0.88, len(dilations))
    return {dilation: colormaps["viridis"](float(place)) for dilation, place in zip(dilations, places, strict=True)}


def _thickness(channels: Sequence[int], depth: int) -> Callable[[int], float]:
    """Points of width for a number of channels; its area grows with them, and lines get thinner in deep graphs."""
    widest = 3.6 if depth <= NUMBERED else 2.4
    most = max(channels)
    return lambda count: float(max(widest * (count / most) ** 0.5, 0.4))
