"""Verb `report`: collected content → figures and one page."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from behindthenoise.core.architecture import Architecture
from behindthenoise.report import page as pages
from behindthenoise.report.content import Content, RegionList, Slice
from behindthenoise.stages import Spec

ARRAYS = ("noisy", "lower", "median", "upper", "clean", "tokens", "role", "colours")


def run(spec: Spec, *, content: Path, slices: Path, page: Path) -> None:
    """Write the page and, beside it, its figures."""
    data = json.loads(content.read_text())
    with np.load(slices) as arrays:
        field, *volumes = [read_slice(meta, arrays) for meta in data.pop("slices")]
        lists = [
            RegionList(**found, **{key: arrays[f"{found['volume']}/{found['name']}/{key}"] for key in ("median", "regions")})
            for found in data.pop("regions")
        ]
    architecture = Architecture.from_data(data.pop("architecture"))
    pages.write(Content(**data, field=field, volumes=tuple(volumes), architecture=architecture, regions=tuple(lists)), page.parent)


def read_slice(meta: dict[str, Any], arrays: Any) -> Slice:
    """A slice from its description and the arrays `NAME/FIELD`; absent arrays are None."""
    found: dict[str, Any] = {key: arrays[f"{meta['name']}/{key}"] for key in ARRAYS if f"{meta['name']}/{key}" in arrays}
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.items()}
    return Slice(**given, **found)
