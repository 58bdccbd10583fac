"""Tables as the page prints them: headers, and numbers as text."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from behindthenoise.report.content import Content, RegionList, Row, Table
from behindthenoise.report.style import symbol

Value = float | int | str


@dataclass(frozen=True)
class Column:
    """One column of a printed table; `wraps` if it holds words that may take several lines."""

    key: str
    header: str
    text: Callable[[Value], str]
    wraps: bool = False


@dataclass(frozen=True)
class Printed:
    """A table as text."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


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


def points(value: Value) -> str:
    """A difference of fractions in percentage points with one digit after the point; `n/a` for NaN."""
    return "n/a" if math.isnan(float(value)) else f"{100 * float(value):.1f}"


def threshold_or_none(value: Value) -> str:
    """A threshold; `none` for NaN, where the guarantee cannot be given."""
    return "none" if isinstance(value, float) and math.isnan(value) else number(value)


def tables(content: Content) -> dict[str, Printed]:
    """Every table of the page."""
    unit = content.field.value_unit
    found = {
        "channels": _printed(content.channels, _coverage_columns()),
        "accuracy": _printed(content.channels, _accuracy_columns(unit)),
        "token_coverage": _printed(content.token_coverage, [Column("token", "token", number), *_judged(("channel",), unit)]),
        "scans": _printed(content.scans, [Column("scan", "scan", number), *_judged(("channel",), unit)]),
        "intensity": _printed(content.intensity, _judged(("channel", "bin", "from", "to"), unit)),
        "widths": _printed(content.widths, _judged(("channel", "bin", "from", "to"), unit)),
        "reference": _printed(content.reference, _reference_columns(unit)),
        "tokens": _printed(content.tokens, _token_columns(content)),
        **{
            f"regions {index}": _printed(found.rows, _region_columns(found)) for index, found in enumerate(content.regions, start=1)
        },
    }
    return found | _certificate_tables(content)


def _coverage_columns() -> Iterable[Column]:
    return (
        Column("channel", "channel", number),
        Column("coverage", "coverage", percent),
        Column("coverage_low", "95 % interval from", percent),
        Column("coverage_high", "to", percent),
        Column("missed_below", "clean below its interval", percent),
        Column("missed_above", "clean above its interval", percent),
        Column("unit_least", "worst unit", percent),
        Column("unit_five_percent", "5 % of units below", percent),
        Column("unit_median", "median unit", percent),
        Column("slab_coverage", "worst slab", percent),
        Column("gap_tokens", "gap, tokens (points)", points),
        Column("gap_intensity", "gap, intensity (points)", points),
        Column("units", "test units", number),
        Column("pixels", "test pixels", number),
    )


def _accuracy_columns(unit: str) -> Iterable[Column]:
    return (
        Column("channel", "channel", number),
        Column("width", f"mean width ({unit})", number),
        Column("width_median", f"median width ({unit})", number),
        Column("noisy_width", f"noisy scan's width ({unit})", number),
        Column("noisy_coverage", "its coverage", percent),
        Column("width_reduction", "times narrower", number),
        Column("gaussian_reduction", "saved of Gaussian", percent),
        Column("interval_score", f"interval score ({unit})", number),
        Column("weighted_interval_score", f"weighted interval score ({unit})", number),
        Column("crps", f"CRPS ({unit})", number),
        Column("ause", "AUSE", number),
        Column("width_error_correlation", "rank correlation", number),
    )


def _judged(first: Iterable[str], unit: str) -> list[Column]:
    """What says where, then coverage and width there."""
    return [
        *(Column(key, f"{key} ({unit})" if key in ("from", "to") else key, number) for key in first),
        Column("coverage", "coverage", percent),
        Column("coverage_low", "95 % interval from", percent),
        Column("coverage_high", "to", percent),
        Column("width", f"width ({unit})", number),
        Column("units", "test units", number),
        Column("pixels", "test pixels", number),
    ]


def _reference_columns(unit: str) -> Iterable[Column]:
    return (
        Column("channel", "channel", number),
        Column("from", f"from ({unit})", number),
        Column("to", f"to ({unit})", number),
        Column("noise_variance", f"noise variance ({unit}²)", number),
        Column("residual_variance", f"residual variance ({unit}²)", number),
        Column("noise_share", "noise in it", percent),
        Column("signal_coverage", "implied coverage of the true signal", percent),
        Column("width_factor", "width that would do", percent),
        Column("pixels", "test pixels", number),
    )


def _token_columns(content: Content) -> Iterable[Column]:
    unit = content.field.value_unit
    return (
        Column("token", "token", number),
        Column("share", "share", percent),
        Column("voxels", "voxels", number),
        Column("stability", "found again by other fits", percent),
        Column("verdict", "which means", number, wraps=True),
        Column("novelty", "mean novelty", percent),
        Column("neighbour", "touches most", number),
        *(
            Column(f"{quantity}_{name}", f"{name}: {quantity} ({unit})", number)
            for name in content.field.channel_names
            for quantity in ("mean", "spread", "width")
        ),
    )


def _place(value: Value) -> str:
    """A position: stage coordinates are large beside a voxel."""
    return f"{float(value):.8g}"


def _region_columns(found: RegionList) -> Iterable[Column]:
    length, value = symbol(found.facts["plane"]["unit"]), found.facts["plane"]["value_unit"]
    present = found.rows[0] if found.rows else {}
    measure, size = ("volume", f"{length}³") if "volume" in present else ("area", f"{length}²")
    return (
        Column("region", "region", number),
        Column(measure, f"{measure} ({size})", number),
        *(Column(key, f"{key.removeprefix('centre_')} ({length})", _place) for key in present if key.startswith("centre_")),
        Column("expected", f"expected ({value})", number),
        Column("lower", f"mean lower ({value})", number),
        Column("upper", f"mean upper ({value})", number),
        *(Column(key, "least level it is marked at", percent) for key in ("level",) if key in present),
        Column("gain", f"width times size ({value} {size})", number),
    )


def _certificate_tables(content: Content) -> dict[str, Printed]:
    certificate = content.certificate
    header = f"threshold ({certificate['threshold_unit']})"
    place = (
        Column("channel", "channel", number),
        Column("groups", "pixels of", number, wraps=True),
        Column("side", "side", number),
    )
    grounds = (
        Column("threshold", header, number),
        Column("units", "calibration units", number),
        Column("pixels", "calibration pixels", number),
        Column("effective_samples", "effective samples (independent pixels)", number),
        Column("blocks", "blocks that show dependence", number),
        Column("rank", "rank", number),
    )
    guarantees = [key for row in certificate["alternatives"][:1] for key in row if key not in ("channel", "groups", "side")]
    others = (
        Column(name, f"{name} (this one)" if name == certificate["guarantee"] else name, threshold_or_none) for name in guarantees
    )
    # not every guarantee asks for every one of them
    known = [column for column in grounds if _is_known(certificate["thresholds"], column.key)]
    return {
        "thresholds": _printed(certificate["thresholds"], (*place, *known)),
        "alternatives": _printed(certificate["alternatives"], (*place, *others)),
    }


def _is_known(rows: Table, key: str) -> bool:
    return any(not math.isnan(float(row[key])) for row in rows)


def _printed(rows: Table, columns: Iterable[Column]) -> Printed:
    columns = list(columns)
    return Printed(columns, [_texts(row, columns) for row in rows])


def _texts(row: Row, columns: Sequence[Column]) -> list[str]:
    return [column.text(row[column.key]) for column in columns]


def _grouped(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
