"""Everything that the report draws: tables, small arrays and a few sentences, gathered before anything is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float32, UInt8, UInt32

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
        What is shown, for a heading, e.g. `large_map, z = 3.5 micrometer (slice 32 of 64)`.
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
    colours
        Red, green and blue of the embedding in false colours; 0 where there is no data. None where there are none.
    explained
        Share of the latents' variance that each of the components which they show holds.
    origin
        Where the middle of the first pixel lies, from row to row and along columns.
    unlike
        Size of its voxels and of those that the networks learned from, where they differ; else empty.
    unnamed
        Whether its file does not name each channel, so that they are taken for those of the pairs in their order.
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
    colours: UInt8[np.ndarray, " 3 row col"] | None = None
    explained: tuple[float, ...] = ()
    origin: tuple[float, float] = (0.0, 0.0)
    unlike: str = ""
    unnamed: bool = False


class Certificate(TypedDict):
    """
    What is promised about the intervals, and on what grounds.

    `thresholds` has a row for every channel, class of groups and side: channel, groups, side, threshold, units, pixels,
    effective_samples (independent pixels), blocks (of three correlation radii, in which those were measured), rank; NaN where the
    guarantee does not ask for one. `alternatives` has the same rows with channel, groups, side, and under the name of each
    guarantee the threshold that it would give; NaN where it cannot be given.
    `threshold_unit` is the unit of both; `grouped_by` names what groups depend on, besides the channel.
    """

    sentence: str
    assumptions: Sequence[str]
    checked: Sequence[str]
    warnings: Sequence[str]
    merged: Sequence[str]
    guarantee: str
    grouped_by: Sequence[str]
    threshold_unit: str
    thresholds: Table
    alternatives: Table


class Finding(TypedDict):
    """
    Outcome of one check: what it looked at, probability of such a difference by chance, how large it is, all in words.

    The name is `size` where a volume is too small to be compared.
    """

    name: str
    p_value: float
    effect: float
    sentence: str
    flagged: bool


class Check(TypedDict):
    """What a volume's inputs look like beside the calibration data; `specimen` says what the promise means for it."""

    volume: str
    same_field: bool
    specimen: str
    findings: Sequence[Finding]


@dataclass(frozen=True, eq=False)
class RegionList:
    """
    Regions of one volume where to measure again.

    Attributes
    ----------
    volume, name
        Of which volume, and what the list is called in the configuration.
    facts
        The manifest of the list: what was asked for, what is promised, what was found.
    rows
        The first of the regions.
    median, regions
        One plane, and the number of the region at each pixel, 0 where there is none.
    """

    volume: str
    name: str
    facts: Mapping[str, Any]
    rows: Table
    median: Float32[np.ndarray, " row col"]
    regions: UInt32[np.ndarray, " row col"]


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
        Test data by channel: channel, coverage, coverage_low, coverage_high (95 % interval), pixels, units; unit_least,
        unit_five_percent, unit_median (coverage of single units); missed_below, missed_above (shares of the pixels),
        slab_coverage; gap_tokens, gap_intensity (mean distance from the nominal coverage); width, width_median, noisy_width (mean
        width of the interval that the noisy input alone would need, calibrated likewise), noisy_coverage, width_reduction
        (`noisy_width / width`, larger is better), gaussian_reduction (share of a normal distribution's interval that is saved);
        interval_score, weighted_interval_score, crps (in `value_unit`); ause, width_error_correlation; correlation_noisy,
        correlation, psnr_noisy, psnr (with the clean image; dB).
    token_coverage
        Test data by token: channel, token, coverage, coverage_low, coverage_high, pixels, units, width.
    intensity, widths
        Test data by bin of the predicted median, and of the width: channel, bin (from 0), from, to, then as by token.
    units
        Test data by unit: channel, unit, coverage, pixels.
    reliability
        Test data by nominal coverage: channel, level, coverage, coverage_low, coverage_high, width.
    pit
        Histogram of the probability integral transform: channel, from, to, share.
    reference
        Noise of the clean image, where it is known, by bin of the predicted median: channel, bin, from, to, pixels, noise_variance,
        residual_variance, noise_share, signal_coverage, width_factor.
    ensemble
        The first k members, before calibration: members (k), channel, correlation, width, coverage.
    tokens
        What each token is made of in the training field: token, share (0 to 1), voxels, stability, verdict, novelty, neighbour,
        neighbour_share, then mean_CHANNEL, spread_CHANNEL and width_CHANNEL for every channel.
    token_colours
        Colour of each token, as `#rrggbb`: that of the labels in the volumes.
    stability
        How far other fits agree, for each number of tokens: tokens, memory, agreement_of_seeds, agreement_of_halves,
        agreed_on (yes or no).
    field
        A cut through the field with the slow scan.
    volumes
        Cuts through the other volumes.
    checks
        Of volumes, the field among them, against the calibration data.
    config_text
        The configuration as YAML.
    architecture
        That of the first member; None leaves its picture out.
    regions
        Lists of regions where to measure again.
    displaced
        Which scans do not lie on each other, and by how much, in words.
    scans
        Test data by fast scan, where there are several: channel, scan (from 0, of those that are used), then as by token.
    """

    dataset: str
    version: str
    created: str
    facts: Mapping[str, str]
    certificate: Certificate
    coverage: float
    channels: Table
    token_coverage: Table
    intensity: Table
    widths: Table
    units: Table
    reliability: Table
    pit: Table
    reference: Table
    ensemble: Table
    tokens: Table
    token_colours: Sequence[str]
    stability: Table
    field: Slice
    volumes: tuple[Slice, ...]
    checks: Sequence[Check]
    config_text: str
    architecture: Architecture | None = None
    regions: tuple[RegionList, ...] = ()
    displaced: Sequence[str] = ()
    scans: Table = ()
