"""Verb `report`: collected content → figures and one page."""

from pathlib import Path
from typing import Any

from behindthenoise.core.architecture import Architecture
from behindthenoise.io.npz import read_npz
from behindthenoise.io.record import read_json
from behindthenoise.report import page as pages
from behindthenoise.report.content import Content, RegionList, Slice
from behindthenoise.stages import Spec

ARRAYS = ("noisy", "lower", "median", "upper", "clean", "tokens", "role", "colours")


def run(spec: Spec, *, content: Path, slices: Path, page: Path) -> list[Path]:
    """Write the page and, beside it, its figures; returns these."""
    data, arrays = read_json(content), read_npz(slices)
    field, *volumes = [read_slice(meta, arrays) for meta in data.pop("slices")]
    lists = [
        RegionList(**found, median=arrays[f"{name}/median"], regions=arrays[f"{name}/regions"])
        for found in data.pop("regions")
        for name in [f"{found['volume']}/{found['name']}"]
    ]
    architecture = Architecture.from_data(data.pop("architecture"))
    pages.write(Content(**data, field=field, volumes=tuple(volumes), architecture=architecture, regions=tuple(lists)), page.parent)
    return sorted((page.parent / "figures").iterdir())


def read_slice(meta: dict[str, Any], arrays: Any) -> Slice:
    """A slice from its description and the arrays `NAME/FIELD`; absent arrays are None."""
    found: dict[str, Any] = {key: arrays[f"{meta['name']}/{key}"] for key in ARRAYS if f"{meta['name']}/{key}" in arrays}
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.items()}
    return Slice(**given, **found)
