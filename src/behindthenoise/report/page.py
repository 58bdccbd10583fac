"""The report as one page that needs nothing else: no network, no scripts, no files beside it."""

import base64
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from behindthenoise.report import coverage, figures, notices, wiring
from behindthenoise.report.cells import number, percent, tables
from behindthenoise.report.content import Content, RegionList, Row, Slice
from behindthenoise.report.regions import overlay
from behindthenoise.report.style import CHANNEL_LIMIT, PAGE_WIDTH, STYLE

Place = Literal["wide", "half", "beside"]
TOLD_FROM = 0.005  # of the marked voxels
PRIMARIES = ("red", "green", "blue")


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


def write(content: Content, folder: Path) -> Path:
    """
    Path of `report.html` in `folder`, written together with its figures in `folder/figures`.

    The same content gives the same bytes.
    """
    shutil.rmtree(folder / "figures", ignore_errors=True)  # those of former volumes would stay
    (folder / "figures").mkdir(parents=True)
    with rc_context(STYLE):
        pictures = {name: [_saved(drawing, folder) for drawing in drawings] for name, drawings in _drawings(content).items()}
    path = folder / "report.html"
    path.write_text(rendered(content, pictures), encoding="utf-8", newline="\n")
    return path


def rendered(content: Content, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The page as HTML, with pictures by section; `volume 1`, `volume 2` ... are those of the volumes."""
    template = resources.files("behindthenoise.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    return environment.from_string(template).render(
        content=content,
        pictures=defaultdict(tuple, pictures),
        tables=tables(content),
        checks={check["volume"]: check for check in content.checks},
        notices=notices.notices(content),
        doubt=notices.doubt(content),
        at_the_top=notices.AT_THE_TOP,
        worst=_worst(content),
        token_range=_token_range(content),
        nominal=notices.nominal(content),
        shortfall=notices.short(content.channels, content.coverage),
        token_colour=lambda token: content.token_colours[token - 1],
    )


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
        "width": _width_drawings(content),
        "levels": _level_drawings(content),
        "reference": _reference_drawings(content),
        "ensemble": _ensemble_drawings(content),
        "tokens": [*_token_drawings(content.field, "tokens", content.token_colours), *_stability_drawings(content)],
        **{f"regions {index}": _region_drawings(found, index) for index, found in enumerate(content.regions, start=1)},
        **{
            f"volume {index}": _volume_drawings(plane, index, content.token_colours)
            for index, plane in enumerate(content.volumes, start=1)
        },
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
    count = len(plane.channel_names)
    left_out = f" The first {CHANNEL_LIMIT} of {count} channels are shown." if count > CHANNEL_LIMIT else ""
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
    nominal, unit, left_out = notices.nominal(content), content.field.value_unit, _left_out(content)
    if content.channels:
        yield Drawing(
            "coverage_by_channel",
            coverage.by_channel(content.channels, content.coverage),
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
            coverage.by_unit(content.units, content.coverage),
            alt="Coverage of every test unit, sorted",
            caption="The same for every test unit (an image or a block of one) by itself, sorted. "
            "A long tail at the left means places where the intervals hold less well.",
            place="half",
            vector=True,
        )
    if content.token_coverage:
        figure = coverage.by_token(content.token_coverage, content.coverage, unit, content.token_colours)
        yield Drawing(
            "coverage_by_token",
            figure,
            alt="Coverage and interval width of every token",
            caption="By token, that is, by what the pixels look like to the ensemble: coverage with its 95 % interval "
            f"(top; {nominal} dashed) and mean interval width (bottom). Colours are those of the token map below. A token whose "
            f"bar ends below the line is covered less often than {nominal}, even where its channel as a whole is not.{left_out}",
            place="beside" if figure.get_figwidth() < PAGE_WIDTH else "wide",
            vector=True,
        )
    if content.intensity:
        yield Drawing(
            "coverage_by_intensity",
            coverage.by_intensity(content.intensity, content.coverage, unit),
            alt="Coverage and interval width over the predicted intensity",
            caption="Coverage with its 95 % interval (top) and mean interval width (bottom) from dark to bright pixels, one step "
            f"per tenth of the predicted medians. The dashed line is {nominal}: where the steps dip below it, pixels of that "
            f"brightness are covered less often.{left_out}",
            vector=True,
        )


def _width_drawings(content: Content) -> Iterator[Drawing]:
    if content.widths:
        yield Drawing(
            "coverage_by_width",
            coverage.by_width(content.widths, content.coverage, content.field.value_unit),
            alt="Coverage over the width of the interval",
            caption="Coverage with its 95 % interval from narrow to wide intervals, one step per tenth of them. If the widths say "
            "how uncertain a pixel is, the steps follow the dashed line; if they rise, narrow intervals are too narrow and wide "
            f"ones too wide.{_left_out(content)}",
            vector=True,
        )


def _level_drawings(content: Content) -> Iterator[Drawing]:
    place: Place = "half" if len(content.channels) == 1 else "wide"
    if content.reliability:
        yield Drawing(
            "reliability",
            coverage.reliability(content.reliability, content.coverage),
            alt="Measured over nominal coverage at all levels from 1 to 99 %",
            caption="The same networks, calibrated for every coverage from 1 to 99 %: measured against nominal. Above the "
            "diagonal, intervals are wider than needed, as the margin of a guarantee makes them; below it, too narrow. Levels that "
            f"the calibration data cannot promise are left out.{_left_out(content)}",
            place=place,
            vector=True,
        )
    if content.pit:
        yield Drawing(
            "pit",
            coverage.pit(content.pit),
            alt="Histogram of the probability integral transform",
            caption="Where the clean values fall in what was predicted for them. Flat at the dashed line: right at every level. "
            "A hill in the middle: intervals too wide; high ends: too narrow; a slope: predictions too high or too low."
            f"{_left_out(content)}",
            place=place,
            vector=True,
        )


def _reference_drawings(content: Content) -> Iterator[Drawing]:
    if content.reference:
        yield Drawing(
            "reference_noise",
            coverage.reference_noise(content.reference, content.coverage, content.field.value_unit),
            alt="Noise of the clean scan over intensity, and what it implies",
            caption="How much of the variance between clean and denoised scan is the clean scan's own noise (top; dotted: all of "
            f"it), and how often the intervals then hold the true signal (bottom; dashed: {notices.nominal(content)}). No step at "
            "the bottom where the noise would be all of it or more: nothing follows from that."
            f"{_left_out(content)}",
            vector=True,
        )


def _left_out(content: Content) -> str:
    """What to add below a figure of more channels than it shows."""
    count = len(content.field.channel_names)
    return f" The first {CHANNEL_LIMIT} of {count} channels are shown." if count > CHANNEL_LIMIT else ""


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


def _token_drawings(plane: Slice, name: str, colours: Sequence[str]) -> Iterator[Drawing]:
    if plane.tokens is not None:
        yield Drawing(
            name,
            figures.tokens(plane, colours),
            alt=f"Map of the tokens of {plane.title} beside its first channel",
            caption=f"{plane.title}. Pixels that the ensemble describes alike have the same token, found without any label. "
            "Tokens are numbered by the rising mean of the first channel in the sample they were fitted on. "
            f"The share is that of this map.{_told_of_colours(plane)}",
        )


def _told_of_colours(plane: Slice) -> str:
    """What the false colours beside the tokens mean."""
    if plane.colours is None:
        return ""
    count, shares = len(plane.explained), ", ".join(percent(share) for share in plane.explained) or "none"
    what = f"the first {count} components" if count > 1 else "the first component"
    return (
        f" In false colours: {what} of the embedding that tokens are made from, with {shares} of the latents' variance, as "
        f"{', '.join(PRIMARIES[: max(count, 1)])}. Pixels that the networks describe alike have alike colours, in every volume "
        "of this run; a colour has no meaning and no scale beyond that. Each component fills its colour, so that one of small "
        "variance may be mostly noise. Where tokens cut, colours may pass gradually."
    )


def _stability_drawings(content: Content) -> Iterator[Drawing]:
    if content.stability:
        yield Drawing(
            "token_stability",
            figures.token_stability(content.stability, len(content.tokens)),
            alt="Agreement of other clusterings, and memory, over the number of tokens",
            caption="Left: how far tokens depend on the seed of their clustering, and on which half of the members they come from; "
            "1 is no difference, 0 is chance. Right: how much of the last distinction between so many tokens a step of 2 to 5 "
            "voxels leaves; after the number of phases it falls. Tokens are joined from finer ones, so that every number has its "
            "map without any network: set tokens.count.",
        )


def _region_drawings(found: RegionList, index: int) -> Iterator[Drawing]:
    promised = found.facts.get("remark") or found.facts.get("promise") or "The widest intervals, whatever the value."
    yield Drawing(
        f"regions_{index}_{found.volume}_{found.name}",
        overlay(dict(found.facts), found.median, found.regions),
        alt=f"Regions of {found.facts['words']} in {found.volume}",
        caption=" ".join([str(promised), *_left_out_as_small(found), *_tested(found)]),
    )


def _left_out_as_small(found: RegionList) -> Iterator[str]:
    """How much of what is marked the list does not hold."""
    marked, smallest = found.facts["marked"], found.facts["asked"]["smallest"]
    if marked and (share := 1 - found.facts["listed"] / marked) >= TOLD_FROM:
        yield f"{percent(share)} of the marked voxels are in regions of fewer than {smallest}, the smallest that is listed."


def _tested(found: RegionList) -> Iterator[str]:
    """What the same choice is worth on test voxels, where the truth is known."""
    test = found.facts.get("test", {})
    if test.get("false_share") is not None:
        yield (
            f"On test voxels of the pairs, chosen in the same way, {percent(test['false_share'])} of those marked are false, and "
            f"{percent(test['found_share'] or 0.0)} of what is true is marked; by the median alone "
            f"{percent(test['false_share_of_median'])} would be false."
        )


def _volume_drawings(plane: Slice, index: int, colours: Sequence[str]) -> Iterator[Drawing]:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in plane.name)
    yield _map_drawing(plane, f"volume_{index}_{safe}_maps")
    yield from _token_drawings(plane, f"volume_{index}_{safe}_tokens", colours)


def _token_range(content: Content) -> Mapping[str, tuple[float, float]]:
    """Least and largest coverage of a token, for each channel that has several."""
    found: dict[str, list[float]] = {}
    for row in content.token_coverage:
        found.setdefault(str(row["channel"]), []).append(float(row["coverage"]))
    return {channel: (min(values), max(values)) for channel, values in found.items() if len(values) > 1}


def _worst(content: Content) -> Mapping[str, Row]:
    """Rows with the lowest coverage among tokens, bins of intensity and units, where there are any."""
    judged = {"token": content.token_coverage, "bin": content.intensity, "unit": content.units}
    measured = {name: [row for row in rows if not math.isnan(float(row["coverage"]))] for name, rows in judged.items()}
    return {name: min(rows, key=lambda row: float(row["coverage"])) for name, rows in measured.items() if rows}
