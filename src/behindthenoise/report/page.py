"""The report as one page that needs nothing else: no network, no scripts, no files beside it."""

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from behindthenoise.core.architecture import Architecture
from behindthenoise.core.unet import UNet
from behindthenoise.report import figures, wiring
from behindthenoise.report.content import Content, Row, Slice, Table

Value = float | int | str
Place = Literal["wide", "half", "beside"]


@dataclass(frozen=True)
class Drawing:
    """
    A figure with what is said about it; `vector` ones are stored as SVG, too.

    Its place is the whole width, half of it, or the left half with the caption on the right.
    """

    name: str
    figure: Figure
    alt: str
    caption: str
    place: Place = "wide"
    vector: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawing as the page carries it."""

    uri: str
    alt: str
    caption: str
    place: Place


@dataclass(frozen=True)
class Column:
    """One column of a printed table."""

    key: str
    header: str
    text: Callable[[Value], str]


def write(content: Content, folder: Path) -> Path:
    """
    Path of `report.html` in `folder`, written together with its figures in `folder/figures`.

    The same content gives the same bytes.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    with rc_context(figures.STYLE):
        sections = {name: [_saved(drawing, folder) for drawing in drawings] for name, drawings in _drawings(content).items()}
        volumes = [
            (plane, [_saved(drawing, folder) for drawing in _volume_drawings(plane, index)])
            for index, plane in enumerate(content.volumes, start=1)
        ]
    template = resources.files("behindthenoise.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    page = environment.from_string(template).render(
        content=content,
        pictures=sections,
        volumes=volumes,
        tables=_tables(content),
        worst=_worst(content),
        nominal=f"{100 * content.coverage:g} %",
        shortfall=[row for row in content.channels if float(row["coverage_high"]) < content.coverage],
        token_colour=figures.token_colour,
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


def number(value: Value, *, digits: int = 4) -> str:
    """A number with that many significant digits, thousands set apart by a narrow space; `n/a` for NaN, text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return _grouped(value)
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else f"{value:.0f}".replace("inf", "∞")
    if 1e4 <= abs(value) < 1e9:
        return _grouped(round(value))
    return f"{value:#.{digits}g}".rstrip(".") if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.{digits - 1}e}"


def percent(value: Value) -> str:
    """A fraction as a percentage with one digit after the point; `n/a` for NaN."""
    return "n/a" if math.isnan(float(value)) else f"{100 * float(value):.1f} %"


def _grouped(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _saved(drawing: Drawing, folder: Path) -> Picture:
    """The drawing as the page carries it, after saving it under its name."""
    png = folder / "figures" / f"{drawing.name}.png"
    drawing.figure.savefig(png)
    if drawing.vector:
        drawing.figure.savefig(png.with_suffix(".svg"), metadata={"Date": None})
    uri = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")
    return Picture(uri, drawing.alt, drawing.caption, drawing.place)


def _drawings(content: Content) -> dict[str, Iterable[Drawing]]:
    """Drawings by section, each made when it is asked for, so that only one is held at a time."""
    return {
        "field": _field_drawings(content.field),
        "cut": _cut_drawings(content.field),
        "coverage": _coverage_drawings(content),
        "ensemble": _ensemble_drawings(content),
        "tokens": _token_drawings(content.field, "tokens"),
    }


def _field_drawings(plane: Slice) -> Iterator[Drawing]:
    yield _map_drawing(plane, "maps")
    # a whole image of one role needs no map
    if plane.role is not None and len(np.unique(plane.role)) > 1:
        yield Drawing(
            "split",
            figures.split_map(plane),
            alt=f"Map of training, calibration and test pixels of {plane.title}",
            caption="What each pixel was used for. The networks learned from training pixels, the intervals were calibrated on "
            "calibration pixels, and every number in this report that judges them comes from test pixels. "
            "The unused gaps keep the three apart.",
            place="beside",
        )


def _map_drawing(plane: Slice, name: str) -> Drawing:
    reference = "" if plane.clean is None else ", clean"
    limit = figures.CHANNEL_LIMIT
    count = len(plane.channel_names)
    left_out = f" The first {limit} of {count} channels are shown." if count > limit else ""
    return Drawing(
        name,
        figures.maps(plane),
        alt=f"Noisy, denoised{reference} and interval width images of {plane.title}",
        caption=f"{plane.title}. One row per channel: noisy{reference and ','} {'' if reference else 'and '}denoised"
        f"{reference and ' and clean'} share one colour scale, in which half a percent of the pixels at either end is cut off. "
        "The noisy scan is scaled to the units of the clean one. "
        "The last column is the width of the calibrated interval: dark where the ensemble is sure, bright where it is not. "
        f"Grey pixels carry no data.{left_out}",
    )


def _cut_drawings(plane: Slice) -> Iterator[Drawing]:
    clean = "" if plane.clean is None else " The dark line is the slow, clean scan."
    role = (
        " Where the background is grey, pixels were not used for testing, and the networks may have learned from them."
        if plane.role is not None
        else ""
    )
    yield Drawing(
        "line_cut",
        figures.line_cut(plane),
        alt=f"Profile through {plane.title}: interval, median and noisy values along one row",
        caption="Values along the row with most structure in the median. Grey dots are the fast scan; triangles at the frame "
        "stand for dots beyond it. The blue line is the median of the ensemble, the band its calibrated interval."
        f"{clean}{role}",
        vector=True,
    )


def _coverage_drawings(content: Content) -> Iterator[Drawing]:
    nominal = f"{100 * content.coverage:g} %"
    if content.channels:
        yield Drawing(
            "coverage_by_channel",
            figures.coverage_by_channel(content.channels, content.coverage),
            alt="Measured coverage of each channel against the nominal coverage",
            caption=f"Share of test pixels whose clean value lies inside the interval. The promise is {nominal} (dashed); "
            "the bar says how far chance alone may have moved the point. A bar that ends left of the line means intervals that "
            "are too narrow; one that begins right of it, wider than needed.",
            place="half",
            vector=True,
        )
    if content.units:
        yield Drawing(
            "unit_coverage",
            figures.unit_coverage(content.units, content.coverage),
            alt="Coverage of every test unit, sorted",
            caption="The same for every test unit (an image or a block of one) by itself, sorted. "
            f"The promise of {nominal} is for their mean; a long tail at the left means places where the intervals hold less well.",
            place="half",
            vector=True,
        )
    if content.intensity:
        yield Drawing(
            "coverage_by_intensity",
            figures.coverage_by_intensity(content.intensity, content.coverage, content.field.value_unit),
            alt="Coverage and interval width over the predicted intensity",
            caption="Coverage (top) and mean interval width (bottom) from dark to bright pixels, one step per bin of the "
            f"predicted median. The dashed line is {nominal}: where the steps dip below it, pixels of that brightness are "
            "covered less often than promised.",
            vector=True,
        )


def _ensemble_drawings(content: Content) -> Iterator[Drawing]:
    if content.ensemble:
        yield Drawing(
            "ensemble_curves",
            figures.ensemble_curves(content.ensemble, content.field.value_unit),
            alt="Correlation, interval width and coverage over the number of members",
            caption="What averaging more networks brings, on test pixels and before calibration. Where the curves have become "
            "flat, further members would not help; where they still move, they would.",
            vector=True,
        )
    if content.architecture is not None:
        yield Drawing(
            "wiring",
            wiring.figure(content.architecture),
            alt="Wiring of the first member's network",
            caption=_wiring_caption(content.architecture),
            vector=True,
        )


def _wiring_caption(architecture: Architecture) -> str:
    if isinstance(architecture.wiring, UNet):
        return "The first member. Every box is a level on the way down or up, with its channels and its number of convolutions."
    return (
        "The first member; the others are wired in other ways. A line is a convolution; all that leave a node at one dilation are "
        "computed as one. What arrives at a node is put side by side. The wider a line, the more channels."
    )


def _token_drawings(plane: Slice, name: str) -> Iterator[Drawing]:
    if plane.tokens is not None:
        yield Drawing(
            name,
            figures.tokens(plane),
            alt=f"Map of the tokens of {plane.title} beside its first channel",
            caption=f"{plane.title}. Pixels that the ensemble describes alike have the same token, found without any label. "
            "Tokens are numbered by the rising mean of the first channel in the sample they were fitted on. "
            "The share is that of this map.",
        )


def _volume_drawings(plane: Slice, index: int) -> Iterator[Drawing]:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in plane.name)
    yield _map_drawing(plane, f"volume_{index}_{safe}_maps")
    yield from _token_drawings(plane, f"volume_{index}_{safe}_tokens")


def _tables(content: Content) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Headers and cells of every table."""
    value_unit = content.field.value_unit
    channels = (
        Column("channel", "channel", number),
        Column("coverage", "coverage", percent),
        Column("coverage_low", "95 % interval from", percent),
        Column("coverage_high", "to", percent),
        Column("pixels", "test pixels", number),
        Column("units", "test units", number),
        Column("width", f"width ({value_unit})", number),
        Column("noisy_width", f"noisy width ({value_unit})", number),
        Column("width_reduction", "times narrower", number),
        Column("correlation_noisy", "correlation, noisy", number),
        Column("correlation", "correlation, denoised", number),
        Column("psnr_noisy", "PSNR, noisy (dB)", number),
        Column("psnr", "PSNR, denoised (dB)", number),
    )
    intensity = (
        Column("channel", "channel", number),
        Column("bin", "bin", number),
        Column("from", f"from ({value_unit})", number),
        Column("to", f"to ({value_unit})", number),
        Column("coverage", "coverage", percent),
        Column("pixels", "test pixels", number),
        Column("width", f"width ({value_unit})", number),
    )
    tokens = (
        Column("token", "token", number),
        Column("share", "share", percent),
        Column("voxels", "voxels", number),
        *(
            Column(f"{quantity}_{name}", f"{name}: {quantity} ({value_unit})", number)
            for name in content.field.channel_names
            for quantity in ("mean", "width")
        ),
    )
    certificate = (
        Column("channel", "channel", number),
        Column("units", "calibration units", number),
        Column("pixels", "calibration pixels", number),
        Column("largest_unit", "largest unit (pixels)", number),
        Column("rank", "rank of the threshold", number),
        Column("threshold", "threshold", number),
    )
    return {
        "channels": _cells(content.channels, channels),
        "intensity": _cells(content.intensity, intensity),
        "tokens": _cells(content.tokens, tokens),
        "certificate": _cells(content.certificate["channels"], certificate),
    }


def _cells(rows: Table, columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    return [column.header for column in columns], [[column.text(row[column.key]) for column in columns] for row in rows]


def _worst(content: Content) -> Mapping[str, Row]:
    """Rows with the lowest coverage among the bins of intensity and among the units, where there are any."""
    tables = {"bin": content.intensity, "unit": content.units}
    measured = {name: [row for row in rows if not math.isnan(float(row["coverage"]))] for name, rows in tables.items()}
    return {name: min(rows, key=lambda row: float(row["coverage"])) for name, rows in measured.items() if rows}
