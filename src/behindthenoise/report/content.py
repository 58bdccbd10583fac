"""Everything that the report draws: tables, small arrays and a few sentences, gathered before anything is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Float32, UInt8

from behindthenoise.core.architecture import Architecture

Row = Mapping[str, float | int | str]
Table = Sequence[Row]


@dataclass(frozen=True, eq=False)
class Slice:
    """
    One 2D cut through a field or volume. Values are in `value_unit`; NaN where there is no data.

    Attributes
    ----------
    name
        Short name, unique in a report; figures are called after it.
    title
        What is shown, for a heading, e.g. `large_map, z = 31 of 64`.
    channel_names
        One name per channel.
    value_unit
        Unit of the clean image, into which the noisy one has been scaled, too.
    length_unit
        Unit of `spacing`, e.g. `micrometer`.
    spacing
        Size of a pixel along rows (from one row to the next) and along columns.
    axes
        Names of the axes that rows and columns are numbered along, e.g. `("y", "x")`.
    noisy
        One fast scan.
    lower, median, upper
        The ensemble's calibrated interval and its centre.
    clean
        The slow scan; None where there is none.
    tokens
        Token of each pixel from 1; 0 where there is no data. None where there are no tokens.
    role
        What each pixel was used for: 0 nothing, 1 training, 2 calibration, 3 test. None where nothing was.
    """

    name: str
    title: str
    channel_names: tuple[str, ...]
    value_unit: str
    length_unit: str
    spacing: tuple[float, float]
    axes: tuple[str, str]
    noisy: Float32[np.ndarray, " c row col"]
    lower: Float32[np.ndarray, " c row col"]
    median: Float32[np.ndarray, " c row col"]
    upper: Float32[np.ndarray, " c row col"]
    clean: Float32[np.ndarray, " c row col"] | None = None
    tokens: UInt8[np.ndarray, " row col"] | None = None
    role: UInt8[np.ndarray, " row col"] | None = None


class Certificate(TypedDict):
    """
    What is promised about the intervals, and on what grounds.

    `channels` has one row per channel: channel, units, pixels, largest_unit, rank, threshold.
    """

    sentence: str
    assumptions: Sequence[str]
    channels: Table


@dataclass(frozen=True, eq=False)
class Content:
    """
    Everything that a report shows. NaN in a table means that the number does not exist; an empty table is left out.

    Attributes
    ----------
    dataset, version, created
        Name of the data set, version of this package, and the time to print; the page has no other clock.
    facts
        What was run, in the order to print: members, parameters, receptive radius, split, run time, packages.
    certificate
        The promise and its grounds.
    coverage
        Nominal coverage, in (0, 1).
    channels
        Test data by channel: channel, coverage, coverage_low, coverage_high (95 % interval), pixels, units, width,
        noisy_width (mean width of the interval that the noisy input alone would need), width_reduction
        (`noisy_width / width`, larger is better), correlation_noisy, correlation, psnr_noisy, psnr (with the clean image; dB).
    intensity
        Test data by bin of the predicted median: channel, bin (0 is the darkest), from, to, coverage, pixels, width.
    units
        Test data by unit: channel, unit, coverage, pixels.
    ensemble
        The first k members, before calibration: members (k), channel, correlation, width, coverage.
    tokens
        By token: token, share (0 to 1), voxels, then mean_CHANNEL and width_CHANNEL for every channel.
    field
        A cut through the field with the slow scan.
    volumes
        Cuts through the other volumes.
    config_text
        The configuration as YAML.
    architecture
        That of the first member; None leaves its picture out.
    """

    dataset: str
    version: str
    created: str
    facts: Mapping[str, str]
    certificate: Certificate
    coverage: float
    channels: Table
    intensity: Table
    units: Table
    ensemble: Table
    tokens: Table
    field: Slice
    volumes: tuple[Slice, ...]
    config_text: str
    architecture: Architecture | None = None
