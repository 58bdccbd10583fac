"""
The configuration: what a user may set, what each setting means, and which values make sense.

Nothing heavier than pydantic is imported here, because Snakemake reads the configuration at every start.
"""

import glob
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    Strict,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from behindthenoise import remote
from behindthenoise.errors import ConfigError, RemoteError

Axis = Literal["image", "scan", "channel", "z", "y", "x"]
Role = Literal["train", "calibration", "test"]
Space = Literal["z", "y", "x"]
LEAST_UNET_RADIUS = 5
SPACE_AXES: tuple[Space, ...] = ("z", "y", "x")


def _names(value: object) -> object:
    """Axis names may be written as one string, `scan channel y x`."""
    return tuple(value.split()) if isinstance(value, str) else value


def _counted(value: object) -> object:
    """Arrays that have numbers instead of names may be given by these."""
    return str(value) if type(value) is int else value


def _exponent(value: object) -> object:
    """`1e-3` is a number to everybody but YAML 1.1, which wants `1.0e-3`."""
    written = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if written and isinstance(value, str) else value


# scalars are taken as they are written: "5" is no number, 1 is no truth value; lists become tuples
Int = Annotated[int, Strict()]
Real = Annotated[float, BeforeValidator(_exponent), Strict()]
Flag = Annotated[bool, Strict()]
ArrayName = Annotated[str, BeforeValidator(_counted, json_schema_input_type=str | int)]
AxisNames = Annotated[tuple[Axis, ...], BeforeValidator(_names, json_schema_input_type=tuple[Axis, ...] | str)]
Fractional = Annotated[Real, Field(gt=0, lt=1)]
Span = tuple[Annotated[Int, Field(ge=0)], Annotated[Int, Field(gt=0)]]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """A part of the configuration: immutable, and without room for keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# `token: anon` is how some storage is told that nobody signs in
SECRET = re.compile(r"secret|passw|token|credential|connection_string|account_key|(^|_)(key|sas)$", re.IGNORECASE)


class Location(Section):
    """A path on this machine or a URL."""

    path: str
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="For a URL, what fsspec is told beside it, e.g. {anon: true} or {endpoint_url: ...}. It stands in records and "
        "reports, so secrets do not belong here but in the environment, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )

    @field_validator("path")
    @classmethod
    def _path_is_plain(cls, path: str) -> str:
        if re.search(r"://[^/@]*:[^/@]*@", path):
            raise ValueError("path holds a password; leave it out and put credentials into the environment")
        path = path.removeprefix("file://")
        return path.rstrip("/") if remote.is_url(path) else path

    @field_validator("options")
    @classmethod
    def _options_hold_no_secret(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in _secrets(options):
            raise ValueError(
                f"option {key!r} is a secret, which would stand in records and reports; put it into the environment, for S3 "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a `profile` of your credentials file"
            )
        return options

    @model_validator(mode="after")
    def _options_belong_to_a_url(self) -> "Location":
        if self.options and not remote.is_url(self.path):
            raise ValueError(f"options {list(self.options)} belong to a URL, and {self.path!r} is a path on this machine")
        return self


def _secrets(value: object, key: str = "") -> Iterator[str]:
    """Options, at any depth, that seem to be secrets."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _secrets(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _secrets(part, key)
    elif isinstance(value, str) and SECRET.search(key) and value != "anon":
        yield key


class Source(Location):
    """One array in a file or a set of files."""

    path: str = Field(
        description="File, folder or pattern: .zarr, .ome.zarr, .tif (one stack, or a pattern of slices), .h5, .npy, .npz; also a "
        "URL that fsspec knows, e.g. s3://bucket/key.ome.zarr. Of a Zarr store at a URL only what is used is read, other files are "
        "copied into TMPDIR. A change at a URL is seen by check sum or time, of a Zarr store by those of its metadata alone."
    )
    array: ArrayName | None = Field(
        default=None,
        description="Path of the array inside a Zarr, HDF5 or NPZ container, or number of a TIFF file's series; null where there "
        "is only one.",
    )
    axes: AxisNames | None = Field(
        default=None,
        description="Names of the array's axes in order, out of image, scan, channel, z, y, x; null takes the file's own.",
    )
    channel_names: tuple[str, ...] | None = Field(
        default=None, description="Names of all channels in the file, in order; null takes the file's own."
    )
    factor: Real = Field(default=1.0, description="Stored values are multiplied by this on reading.")

    @field_validator("axes")
    @classmethod
    def _axes_make_sense(cls, axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
        if axes is not None and (len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes)):
            raise ValueError(f"axes {' '.join(axes)!r} must name each axis once and contain y and x")
        return axes

    def files(self) -> list[str]:
        """Existing paths that this source stands for, sorted by name; empty where there are none."""
        if remote.is_url(self.path):
            return [file.url for file in remote.found(self.path, self.options)]
        # a path that exists is meant as it is, also where its name holds brackets
        return [self.path] if Path(self.path).exists() else sorted(glob.glob(self.path))


# a path alone may stand for a source
SourceOrPath = Annotated[
    Source,
    BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value, json_schema_input_type=Source | str),
]


class Target(Location):
    """Where a finished volume is copied to."""

    path: str = Field(
        pattern=r"[^/]\.zarr/?$",
        description="Folder or URL of the copy itself, e.g. s3://bucket/large.ome.zarr; nothing else may stand there.",
    )


TargetOrPath = Annotated[
    Target,
    BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value, json_schema_input_type=Target | str),
]


class Selection(Section):
    """Which part of an array is used, and where the array lies."""

    channels: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Channels to use, by name and in this order; null uses all."
    )
    crop: dict[Space, Span] = Field(
        default_factory=dict, description="First and one-past-last voxel to use along an axis, e.g. {y: [0, 256]}."
    )
    origin: dict[Space, Real] = Field(
        default_factory=dict,
        description="Where the middle of the source's first voxel (before `crop`) lies along an axis, in the unit that the source "
        "has in the results (its own, else pairs.unit): stage coordinates, for example; else as an OME-Zarr file tells, else 0.",
    )

    @field_validator("channels")
    @classmethod
    def _channels_differ(cls, channels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if channels is not None and len(set(channels)) < len(channels):
            raise ValueError(f"channels {', '.join(channels)} name one twice; each may be used once")
        return channels

    @field_validator("crop")
    @classmethod
    def _crop_is_not_empty(cls, crop: dict[str, Span]) -> dict[str, Span]:
        for axis, (start, stop) in crop.items():
            if start >= stop:
                raise ValueError(f"crop of {axis} from {start} to {stop} is empty; the second number must be larger")
        return crop


class PairsConfig(Selection):
    """Fast and slow scans of the same field or fields."""

    noisy: SourceOrPath = Field(description="The fast scans.")
    clean: SourceOrPath = Field(
        description="The slow scan of the same field, voxel by voxel. Several (an axis `scan`) are averaged, and how they differ "
        "is reported as the noise of the reference.",
    )
    mask: SourceOrPath | None = Field(default=None, description="True (or non-zero) where a voxel carries data; null: everywhere.")
    scans: tuple[Annotated[Int, Field(ge=0)], ...] | None = Field(
        default=None, min_length=1, description="Indices of the fast scans to use; null uses all."
    )
    spacing: dict[Space, Annotated[Real, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Size of a voxel along each axis, in `unit`, of the pairs and of all volumes that have none of their own here; "
        "else as each file tells (OME-Zarr, OME-TIFF, ImageJ), else 1.",
    )
    unit: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        default="pixel", description="Unit of `spacing` and `origin`, e.g. micrometer."
    )
    value_unit: str = Field(default="a.u.", description="Unit of the clean image's values, e.g. counts.")


def alike(spacing: Mapping[Any, float]) -> list[Any]:
    """Axes along which voxels are equally large, to a hundredth: the largest group of them."""
    groups = [[axis for axis in spacing if math.isclose(spacing[axis], step, rel_tol=0.01)] for step in spacing.values()]
    return max(groups, key=len, default=[])


class SyntheticConfig(Section):
    """Generated fast and slow scans, for trying things out where the truth is known."""

    shape: tuple[Annotated[Int, Field(ge=8)], ...] = Field(
        default=(64, 64), min_length=2, max_length=3, description="Voxels along [z,] y, x of one image."
    )
    images: Int = Field(default=96, ge=1, description="Independent images.")
    scans: Int = Field(default=1, ge=1, description="Fast scans of each image.")
    channels: Int = Field(default=1, ge=1, description="Channels.")
    phases: Int = Field(default=4, ge=2, description="Materials, each with its own level in every channel.")
    blobs: Int = Field(default=12, ge=1, description="Anisotropic blobs in a field of 64 voxels' edge.")
    noise: Literal["asymmetric", "poisson"] = Field(
        default="asymmetric", description="Skewed, signal-dependent noise (the paper's) or photon counts (EDX)."
    )
    dose: Real = Field(
        default=1.0, gt=0, description="Signal strength of a fast scan: larger is cleaner; for poisson, counts at level 1."
    )
    seed: Int = Field(default=7, ge=0, description="Seed of the generated fields and noise.")


class VolumeConfig(Selection):
    """A field or volume without a clean reference, or a generated one."""

    noisy: SourceOrPath | None = Field(default=None, description="The fast scan; it has the channels of the training pairs.")
    mask: SourceOrPath | None = Field(default=None, description="True (or non-zero) where a voxel carries data; null: everywhere.")
    scan: Int = Field(default=0, ge=0, description="Which scan, where the source has several.")
    spacing: dict[Space, Annotated[Real, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Size of a voxel along each axis, in the unit of the pairs; else pairs.spacing, else as the file tells, else "
        "that of the pairs.",
    )
    synthetic: tuple[Annotated[Int, Field(ge=8)], ...] | None = Field(
        default=None, description="Shape of a field generated like the training pairs; only with `synthetic` pairs."
    )

    @model_validator(mode="after")
    def _has_one_origin(self) -> "VolumeConfig":
        if (self.noisy is None) == (self.synthetic is None):
            raise ValueError("a volume has either `noisy` (a source) or `synthetic` (a shape), not both and not neither")
        if self.synthetic is not None and (
            surplus := [name for name in ("crop", "channels", "mask", "scan", "spacing") if getattr(self, name)]
        ):
            raise ValueError(f"{surplus[0]} is for a volume that is read; a generated one is as large as its shape")
        return self


VolumeOrPath = Annotated[
    VolumeConfig,
    BeforeValidator(lambda value: {"noisy": value} if isinstance(value, str) else value, json_schema_input_type=VolumeConfig | str),
]


class SplitConfig(Section):
    """Which part of space trains, which calibrates, which tests."""

    by: Literal["image", "block", "region"] = Field(
        default="block",
        description="image: whole images (many needed); block: seeded random blocks of one field; region: as drawn in `regions`.",
    )
    train: Fractional = Field(default=0.5, description="Share of the images or blocks that trains.")
    calibration: Fractional = Field(default=0.25, description="Share that calibrates the intervals.")
    test: Fractional = Field(default=0.25, description="Share that only tests.")
    regions: dict[Role, dict[Space, tuple[Real, Real]]] = Field(
        default_factory=dict,
        description="With `by: region`: for each role the span along each axis, as fractions of the field from 0 to 1.",
    )
    block: Int = Field(
        default=64, ge=4, description="Edge of a block in voxels; with `by: region` the calibration units are such blocks."
    )
    gap: Int | Literal["auto"] = Field(
        default="auto", description="Voxels left unused between roles; auto is the receptive field, 2 radius_max + 1."
    )
    seed: Int = Field(default=1, ge=0, description="Seed of the drawing of images or blocks.")

    @model_validator(mode="after")
    def _shares_and_regions_fit(self) -> "SplitConfig":
        total = self.train + self.calibration + self.test
        if self.by != "region" and total > 1 + 1e-9:
            raise ValueError(
                f"train {self.train} + calibration {self.calibration} + test {self.test} = {total:g} of the data; "
                "the three shares may add up to 1 at most"
            )
        if (self.by == "region") != bool(self.regions):
            raise ValueError("`regions` belongs to `by: region`, which needs it for train, calibration and test")
        if self.regions and set(self.regions) != set(get_args(Role)):
            raise ValueError(f"regions are given for {sorted(self.regions)}; train, calibration and test are all needed")
        for role, spans in self.regions.items():
            for axis, (start, stop) in spans.items():
                if not 0 <= start < stop <= 1:
                    raise ValueError(f"region {role} spans {axis} from {start} to {stop}; fractions rise within 0 to 1")
        if isinstance(self.gap, int) and self.gap < 0:
            raise ValueError(f"gap {self.gap} is negative; use auto or a number of voxels")
        return self


def _choices(value: object) -> object:
    """One number may stand for a list with one choice."""
    return (value,) if isinstance(value, int) else value


class NetworkConfig(Section):
    """The architectures that members are drawn from."""

    kind: Literal["smsnet", "unet"] = Field(
        default="smsnet",
        description="smsnet: randomly wired, dilated, mixed-scale networks; unet: U-Nets of random size, for comparison.",
    )
    depth: Int = Field(default=10, ge=1, le=500, description="smsnet: hidden nodes, the one knob that usually needs tuning.")
    width: Annotated[
        tuple[Annotated[Int, Field(ge=1)], ...],
        BeforeValidator(_choices, json_schema_input_type=tuple[Int, ...] | Int),
        Field(min_length=1),
    ] = Field(
        default=(8,),
        description="smsnet: channels of an edge, or a list to draw from; unet: channels at full resolution are 1 to 8 times that.",
    )
    dilations: tuple[Annotated[Int, Field(ge=1)], ...] = Field(
        default=(1, 2, 3, 4), min_length=1, description="smsnet: dilations to draw from."
    )
    dilation_by: Literal["node", "edge"] = Field(
        default="node",
        description="smsnet: node draws one for all edges that leave a node (few, wide convolutions: fast), edge one for each.",
    )
    radius_max: Int = Field(
        default=16,
        ge=1,
        description="Bound on the receptive radius in voxels: sets the halo of a tile and the gap of the split.",
    )
    parameters_max: Int | None = Field(default=None, ge=1, description="Bound on the parameters of a network; null: none.")
    skip_decay: Real = Field(default=0.5, ge=0, le=500, description="smsnet: alpha, a skip over d nodes has weight exp(-alpha d).")
    degree_decay: Real = Field(default=0.5, ge=0, le=50, description="smsnet: gamma, an out-degree k has weight k^-gamma.")
    degree_min: Int = Field(default=1, ge=1, description="smsnet: least out-degree of a hidden node to other hidden nodes.")
    degree_max: Int = Field(default=5, ge=1, description="smsnet: largest out-degree of a hidden node to other hidden nodes.")
    input_share: Real = Field(default=0.25, ge=0, le=1, description="smsnet: share of the optional nodes that also see the input.")
    output_share: Real = Field(
        default=0.25, ge=0, le=1, description="smsnet: share of the optional nodes that also feed the latent."
    )
    input_output: Flag = Field(
        default=False,
        description="smsnet: whether the input itself feeds the latent; the heads see it anyway, and tokens get speckled by it.",
    )
    latent: Int = Field(default=8, ge=1, description="Length of the latent vector of a voxel.")
    head: Int = Field(default=16, ge=1, description="Hidden channels of the three quantile heads together.")

    @model_validator(mode="after")
    def _graphs_exist(self) -> "NetworkConfig":
        if self.degree_min > self.degree_max:
            raise ValueError(f"degree_min {self.degree_min} is larger than degree_max {self.degree_max}; lower it")
        if self.kind == "unet" and self.radius_max < LEAST_UNET_RADIUS:
            raise ValueError(f"radius_max {self.radius_max} is smaller than that of any U-Net; allow at least {LEAST_UNET_RADIUS}")
        if self.kind == "smsnet" and self.depth > 1 and 1 + min(self.dilations) > self.radius_max:
            raise ValueError(
                f"radius_max {self.radius_max} leaves no room for an edge of the least dilation {min(self.dilations)} between "
                f"hidden nodes; allow at least {1 + min(self.dilations)}"
            )
        return self


class EnsembleConfig(Section):
    """How many networks, and from which seed."""

    size: Int = Field(default=20, ge=1, description="Members; raising it trains only the new ones.")
    seed: Int = Field(default=2025, ge=0, description="Member i depends on (seed, i) alone.")


class TrainingConfig(Section):
    """How one member is trained."""

    quantiles: tuple[Fractional, Fractional, Fractional] = Field(
        default=(0.05, 0.5, 0.95), description="Levels of the lower, the median (0.5) and the upper head."
    )
    steps: Int = Field(default=2000, ge=1, description="Optimiser steps at most.")
    batch: Int = Field(default=2, ge=1, description="Patches in a step.")
    patch: Int = Field(default=64, ge=4, description="Edge of a training patch in voxels; shorter axes are used whole.")
    learning_rate: Real = Field(default=0.01, gt=0, description="Peak of the schedule: a short rise, then half a cosine.")
    weight_decay: Real = Field(default=0.0001, ge=0, description="Decoupled weight decay.")
    normalisation: Literal["none", "weight", "batch"] = Field(
        default="none",
        description=(
            "none: one data-dependent initialisation; weight: standardised weights; batch: batch statistics while training, frozen "
            "at its end. All are folded into plain convolutions, so that no result depends on a tile."
        ),
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Arithmetic of the convolutions in training on a GPU; weights and heads, and all on a CPU, stay float32.",
    )
    border_weight: Real = Field(
        default=0.5, ge=0, le=1, description="Weight in the loss of a patch's border, where the network sees padding."
    )
    validation: Fractional = Field(
        default=0.15, description="Share of the training blocks or images that a member keeps to choose its best state."
    )
    patience: Int = Field(
        default=20, ge=1, description="Validations, of 20 in a training, without improvement before it stops; 20 never stops early."
    )
    flips: Flag = Field(default=True, description="Augment by random flips along every axis.")
    turns: Literal["auto", "none"] | tuple[Space, ...] = Field(
        default="auto",
        description=(
            "Augment by random quarter turns: auto among the axes of equal spacing; none; or the axes that may be exchanged, e.g. "
            "[y, x]."
        ),
    )
    memory_gb: Real = Field(
        default=4.0,
        gt=0,
        description="Memory for the pairs and patches of one training; what is larger is read from disk batch by batch.",
    )
    members_per_gpu: Int = Field(
        default=1,
        ge=1,
        description="Trainings that share one GPU, where members are too small to fill it; prediction shares with none.",
    )
    threads: Int = Field(default=1, ge=1, description="CPU threads of one training; part of what makes bits repeatable.")

    @field_validator("quantiles")
    @classmethod
    def _levels_rise(cls, levels: tuple[float, float, float]) -> tuple[float, float, float]:
        if not levels[0] < levels[1] < levels[2]:
            raise ValueError(f"quantiles {list(levels)} must rise: lower, median, upper")
        if levels[1] != 0.5:
            raise ValueError(f"quantiles {list(levels)} must have 0.5 in the middle, the median; the outer two are free")
        return levels


class CalibrationConfig(Section):
    """How intervals are made to hold."""

    coverage: Fractional = Field(default=0.9, description="Share of the new voxels that must lie inside their interval.")
    score: Literal["auto", "cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"] = Field(
        default="auto",
        description="How far a value lies outside its interval. cqr: in units of the image; cqr-r, cqr-m: in widths; asymmetric: "
        "below and above each for itself; ensemble: in widths plus the members' disagreement. auto: asymmetric where "
        "pairs.value_unit is counts, else cqr.",
    )
    guarantee: Literal["pac", "crc", "tolerance", "rcps", "pooled"] = Field(
        default="pac",
        description="What is promised (docs/guarantees.md). pac: mean coverage of new units or voxels, except with probability "
        "`failure`; crc: expected coverage, any dependence; tolerance: most units are covered each; rcps: as pac, without "
        "approximations, and wide; pooled: nothing, where voxels depend on each other.",
    )
    failure: Fractional = Field(default=0.1, description="pac, rcps: accepted probability that the calibration data mislead.")
    shortfall: Fractional = Field(
        default=0.1, description="tolerance: accepted share of new units that are covered less than `coverage`."
    )
    unit: Literal["auto", "image", "block"] = Field(
        default="auto",
        description="What counts as one sample. auto: images where five or more calibrate; else blocks, and for pac all voxels of "
        "the field, counted as what their dependence leaves of them.",
    )
    block: Annotated[Int, Field(ge=4)] | Literal["auto"] = Field(
        default="auto",
        description="Edge of a calibration block in voxels; auto is three times the distance over which misses are correlated.",
    )
    groups: tuple[Literal["intensity", "token"], ...] = Field(
        default=("token",),
        description="Besides the channel, each of these has its own thresholds: bins of predicted median, tokens, or both crossed.",
    )
    intensity_bins: Int = Field(
        default=5, ge=2, le=50, description="Bins of the predicted median, equally filled on training voxels."
    )
    support: tuple[Real | None, Real | None] = Field(
        default=(None, None), description="Least and largest possible value of the clean image, e.g. [0, null] for counts."
    )
    jobs: Int = Field(default=1, ge=1, description="Jobs that share the scoring; thresholds do not depend on it.")

    @field_validator("support")
    @classmethod
    def _support_is_not_empty(cls, support: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        least, largest = support
        if least is not None and largest is not None and least >= largest:
            raise ValueError(f"support from {least:g} to {largest:g} is empty; the second number must be larger, or null")
        return support

    @field_validator("groups")
    @classmethod
    def _groups_differ(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(groups)) < len(groups):
            raise ValueError(f"groups {list(groups)} name one twice; name each once")
        return groups

    @property
    def miscoverage(self) -> Fraction:
        """Accepted share of misses, exact as it was written."""
        return 1 - Fraction(str(self.coverage))

    @property
    def allowed_failure(self) -> Fraction:
        """Accepted probability that the calibration data mislead, exact as it was written."""
        return Fraction(str(self.failure))

    @property
    def allowed_shortfall(self) -> Fraction:
        """Accepted share of units that fall short, exact as it was written."""
        return Fraction(str(self.shortfall))


class TokensConfig(Section):
    """How the latents are clustered."""

    count: Annotated[Int, Field(ge=2, le=255)] | Literal["auto"] = Field(
        default="auto",
        description="Tokens. auto: as many as other seeds and both halves of the ensemble agree on, where neighbours share them; "
        "the report says where they agree on none.",
    )
    finest: Annotated[Int, Field(ge=2, le=255)] = Field(
        default=12, description="Tokens of the finest level, which are joined step by step to `count`; never fewer than `count`."
    )
    classes: dict[Name, Annotated[tuple[Annotated[Int, Field(ge=1, le=255)], ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Names for tokens, which join them: {crack: [3, 7], void: [1]}. Numbered by their names. No network runs.",
    )
    components: Int = Field(default=8, ge=1, le=16, description="Components of the stored embedding.")
    sample: Int = Field(default=100_000, ge=100, description="Training voxels whose latents fit the projection and the tokens.")
    fit_also_on: tuple[Name, ...] = Field(
        default=(),
        description="Volumes whose voxels, as many as `sample` in all, fit the projection and the tokens as well, so that these "
        "know materials that training blocks lack. Novelty is measured from training voxels still. All networks predict again.",
    )
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Seed of the sample and of the clustering.")

    @field_validator("fit_also_on")
    @classmethod
    def _fitted_volumes_hold_no_judges(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "field" in names:
            raise ValueError(
                "tokens may not be fitted on the volume 'field', which holds the calibration and test voxels; its training voxels "
                "take part anyway"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"volumes {', '.join(names)} name one twice; name each once")
        return names

    @model_validator(mode="after")
    def _sample_is_large_enough(self) -> "TokensConfig":
        if max(self.least, self.finest) > self.sample:
            raise ValueError(
                f"{max(self.least, self.finest)} tokens are more than the {self.sample} voxels of `sample`; ask for fewer tokens"
            )
        return self

    @model_validator(mode="after")
    def _classes_are_disjoint(self) -> "TokensConfig":
        if self.classes and self.count == "auto":
            raise ValueError(
                "classes name tokens by their numbers, which may change with `count: auto`; set count to the number that was found "
                "(latents/tokens.csv)"
            )
        owner: dict[int, str] = {}
        for name, members in self.classes.items():
            for token in members:
                if token in owner:
                    raise ValueError(f"token {token} is in the classes {owner[token]} and {name}; a token has one name")
                if self.count != "auto" and token > self.count:
                    raise ValueError(f"class {name} names token {token}, but count is {self.count}; name tokens from 1 to it")
                owner[token] = name
        return self

    @property
    def least(self) -> int:
        """Tokens that there will be at least."""
        return 2 if self.count == "auto" else self.count

    def finest_of(self, voxels: int) -> int:
        """Tokens of the finest level, where so many voxels are sampled."""
        return min(max(self.least, self.finest), voxels)


class InferenceConfig(Section):
    """How whole fields and volumes are processed."""

    jobs: Int = Field(default=2, ge=1, description="Jobs that share one volume.")
    tile: Annotated[Int, Field(ge=16, multiple_of=16)] | Literal["auto"] = Field(
        default="auto", description="Edge of a tile's core in voxels, a multiple of 16; auto fits `memory_gb`."
    )
    memory_gb: Real = Field(default=4.0, gt=0, description="Memory that one job may use.")
    threads: Int = Field(default=1, ge=1, description="CPU threads of one job.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Arithmetic of the convolutions when networks predict; heads and averages stay in float32."
    )

    spread: Flag = Field(default=False, description="Finished volumes also hold how much the members' medians differ.")
    relative_error: Real = Field(
        default=0.0,
        ge=0,
        lt=0.1,
        description="Largest relative error of the values in finished volumes, e.g. 1e-4, which halves the files; 0 stores float32 "
        "as it is. Intervals are rounded outwards, so that they hold what they held.",
    )

    @property
    def memory_bytes(self) -> int:
        """Memory that one job may use, in bytes."""
        return int(self.memory_gb * 1e9)

    @property
    def tile_edge(self) -> int | None:
        """Edge asked for; None leaves the choice to the program."""
        return None if self.tile == "auto" else self.tile


class RegionConfig(Section):
    """Regions worth a second measurement: where the true value lies beyond a limit, or where intervals are widest."""

    channel: str = Field(description="Channel to look at, by name.")
    above: Real | None = Field(default=None, description="Mark where the true value is larger than this, in pairs.value_unit.")
    below: Real | None = Field(default=None, description="Mark where the true value is smaller than this.")
    widest: Fractional | None = Field(
        default=None, description="Mark this share of the area, where intervals are widest, whatever the value, e.g. 0.01."
    )
    level: Fractional = Field(
        default=0.1, description="above, below: share of the marked area that may be false, in expectation; widest: not used."
    )
    smallest: Int = Field(default=9, ge=1, description="Voxels of the smallest region that is listed; smaller ones are left out.")

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> "RegionConfig":
        asked = [name for name in ("above", "below", "widest") if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ValueError(f"exactly one of above, below and widest is needed, not {', '.join(asked) or 'none'}")
        return self


@dataclass(frozen=True)
class Point:
    """One setting of a sweep: sections in which the swept keys have one of their values."""

    network: NetworkConfig
    training: TrainingConfig


# What is no property of a network: where its patches lie, how fast it trains, and the units that all points are judged on.
UNSWEPT = ("border_weight", "members_per_gpu", "memory_gb", "patch", "quantiles", "threads", "validation")


def _swept_keys(section: type[Section]) -> list[str]:
    return [key for key in section.model_fields if key not in UNSWEPT]


def _lists_schema(section: type[Section]) -> dict[str, Any]:
    """JSON schema of a mapping from keys of a section to lists of their values."""
    properties = section.model_json_schema()["properties"]
    lists = {
        key: {
            "type": "array",
            "minItems": 1,
            "description": properties[key]["description"],
            "items": {name: rule for name, rule in properties[key].items() if name not in ("default", "description", "title")},
        }
        for key in _swept_keys(section)
    }
    return {"type": "object", "additionalProperties": False, "properties": lists}


Values = Annotated[tuple[JsonValue, ...], Field(min_length=1)]


class SweepConfig(Section):
    """Settings that `snakemake sweep` compares, by single networks and on validation units alone."""

    network: Annotated[dict[str, Values], WithJsonSchema(_lists_schema(NetworkConfig))] = Field(
        default_factory=dict, description="Values to try for keys of `network`, e.g. {depth: [5, 10, 20]}."
    )
    training: Annotated[dict[str, Values], WithJsonSchema(_lists_schema(TrainingConfig))] = Field(
        default_factory=dict, description="Values to try for keys of `training`, e.g. {learning_rate: [0.005, 0.01, 0.02]}."
    )
    repeats: Int = Field(
        default=3,
        ge=1,
        description="Networks of each setting: members 0, 1, ..., so that all settings share seeds and validation units.",
    )
    mode: Literal["grid", "one"] = Field(
        default="grid",
        description="grid: all combinations; one: one key at a time, the others as configured, and all as configured.",
    )

    @model_validator(mode="after")
    def _keys_exist(self) -> "SweepConfig":
        for name, section in (("network", NetworkConfig), ("training", TrainingConfig)):
            allowed = _swept_keys(section)
            if unknown := sorted(set(getattr(self, name)) - set(allowed)):
                raise ValueError(f"{name} has no key {unknown[0]!r} to sweep; allowed here: {', '.join(allowed)}")
        return self

    def swept(self) -> list[tuple[str, str]]:
        """Section and name of each swept key."""
        return [("network", key) for key in self.network] + [("training", key) for key in self.training]

    def points(self, network: NetworkConfig, training: TrainingConfig) -> dict[str, Point]:
        """
        Every setting by its name, which can stand in a path: `depth-10_width-4`; with `mode: one`, `base` is as configured.

        Raises
        ------
        ValueError
            If a value does not fit its section, or one setting is named twice.
        """
        own = Point(network, training)
        found: dict[str, Point] = {}
        for chosen in self._choices():
            point = Point(
                _with(network, {key: value for (section, key), value in chosen.items() if section == "network"}),
                _with(training, {key: value for (section, key), value in chosen.items() if section == "training"}),
            )
            settings = {where[1]: setting(point, where) for where in chosen if self.mode == "grid" or point != own}
            name = "_".join(f"{key}-{written(value)}" for key, value in settings.items()) or "base"
            if name in found and settings:
                raise ValueError(f"sweep has the setting {name} twice; name each value once")
            found[name] = point
        return found

    def _choices(self) -> Iterator[dict[tuple[str, str], JsonValue]]:
        """Values of the swept keys for each setting."""
        lists: dict[tuple[str, str], tuple[JsonValue, ...]] = {where: getattr(self, where[0])[where[1]] for where in self.swept()}
        if not lists:
            return
        if self.mode == "grid":
            yield from (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
        else:
            yield {}
            yield from ({where: value} for where, values in lists.items() for value in values)


def setting(point: Point, where: tuple[str, str]) -> Any:
    """Value that a key, given by its section and name, has at a point of a sweep."""
    return getattr(getattr(point, where[0]), where[1])


def written(value: Any) -> str:
    """A setting in letters that are safe in a path; a list is joined by dashes, and a list of one is its value."""
    if isinstance(value, tuple):
        return "-".join(written(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


SectionType = TypeVar("SectionType", bound=Section)


def _with(section: SectionType, changes: dict[str, JsonValue]) -> SectionType:
    """The section with some values changed, checked as a whole."""
    try:
        return type(section).model_validate({**section.model_dump(), **changes})
    except ValidationError as problem:
        name = "network" if isinstance(section, NetworkConfig) else "training"
        lines = [f"sweep.{name}: {describe(error, type(section))}" for error in problem.errors()]
        raise ValueError("; ".join(lines)) from None


class Config(Section):
    """Everything that a run depends on."""

    dataset: Name = Field(description="Name of the run; its results stand in results/{dataset}.")
    pairs: PairsConfig | None = Field(default=None, description="Fast and slow scans to learn from; or `synthetic`.")
    synthetic: SyntheticConfig | None = Field(default=None, description="Generated pairs instead of `pairs`.")
    volumes: dict[Name, VolumeOrPath] = Field(
        default_factory=dict, description="Fields and volumes to denoise besides the training field itself."
    )
    publish: dict[Name, TargetOrPath] = Field(
        default_factory=dict,
        description="Finished volumes to copy elsewhere, by name, e.g. {large: s3://bucket/large.ome.zarr}; `field` is that of the "
        "pairs.",
    )
    split: SplitConfig = Field(default_factory=SplitConfig, description="Train, calibration, test.")
    network: NetworkConfig = Field(default_factory=NetworkConfig, description="The random networks.")
    ensemble: EnsembleConfig = Field(default_factory=EnsembleConfig, description="The ensemble.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Training of a member.")
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig, description="Calibration.")
    tokens: TokensConfig = Field(default_factory=TokensConfig, description="Tokens.")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Inference.")
    regions: dict[Name, RegionConfig] = Field(
        default_factory=dict,
        description="Lists of regions of every volume, by name, e.g. {iron: {channel: Fe, above: 0.25}, "
        "unsure: {channel: Fe, widest: 0.01}}.",
    )
    sweep: SweepConfig = Field(default_factory=SweepConfig, description="What `snakemake sweep` compares.")

    @model_validator(mode="after")
    def _parts_fit(self) -> "Config":
        if (self.pairs is None) == (self.synthetic is None):
            raise ValueError("the config has either `pairs` (measured) or `synthetic` (generated), not both and not neither")
        for name, volume in self.volumes.items():
            if name.endswith(".ome.zarr"):
                raise ValueError(f"volume name {name!r} ends like a store; leave .ome.zarr out")
            if name == "field":
                raise ValueError("volume name 'field' is taken by the training field itself; choose another")
            if volume.synthetic is not None and self.synthetic is None:
                raise ValueError(f"volume {name!r} is synthetic but the pairs are measured; give it `noisy`")
            if volume.synthetic is not None and self.synthetic is not None and len(volume.synthetic) != len(self.synthetic.shape):
                raise ValueError(f"volume {name!r} has shape {list(volume.synthetic)}, the pairs {list(self.synthetic.shape)}")
        gap = self.split.gap
        field = 2 * self.network.radius_max + 1
        if self.split.by != "image" and isinstance(gap, int) and gap < field:
            raise ValueError(
                f"split.gap {gap} is smaller than the receptive field of {field} voxels (2 network.radius_max + 1), so training "
                "and calibration would share voxels; use auto, a wider gap or a smaller network.radius_max"
            )
        return self

    @property
    def turns_by_spacing(self) -> tuple[Space, ...] | None:
        """
        What `training.turns: auto` means where `pairs.spacing` decides it; None where the files do, if anybody.

        Square pixels decide nothing, as networks take them for granted: whoever gives their size afterwards trains nothing again.
        """
        if self.training.turns != "auto" or self.pairs is None or not self.pairs.spacing:
            return None
        chosen = alike(self.pairs.spacing)
        return None if set(chosen) == {"y", "x"} == set(self.pairs.spacing) else tuple(chosen)

    @model_validator(mode="after")
    def _turns_exchange_what_is_alike(self) -> "Config":
        turns, spacing = self.training.turns, self.pairs.spacing if self.pairs is not None else {}
        known = {axis: spacing[axis] for axis in turns if axis in spacing} if isinstance(turns, tuple) else {}
        if len(alike(known)) < len(known):
            steps = ", ".join(f"{axis} {step:g}" for axis, step in known.items())
            raise ValueError(f"training.turns would exchange axes of different spacing ({steps}); use auto or none")
        return self

    @model_validator(mode="after")
    def _published_volumes_exist(self) -> "Config":
        for name in self.publish:
            if name != "field" and name not in self.volumes:
                raise ValueError(
                    f"publish names the volume {name!r}, which does not exist; there are {', '.join(['field', *self.volumes])}"
                )
        places = {name: remote.absolute(target.path) for name, target in self.publish.items()}
        for (one, outer), (other, inner) in permutations(places.items(), 2):
            if f"{inner}/".startswith(f"{outer}/"):
                raise ValueError(f"publish copies {one!r} to {outer!r} and {other!r} to {inner!r}; give each a place of its own")
        return self

    @model_validator(mode="after")
    def _lists_and_records_have_names_of_their_own(self) -> "Config":
        if ends := [name for name in self.regions if name.endswith(".run")]:
            raise ValueError(f"regions names a list {ends[0]!r}, and records of runs end like that; leave .run out")
        return self

    @model_validator(mode="after")
    def _volumes_that_tokens_are_fitted_on_exist(self) -> "Config":
        if unknown := [name for name in self.tokens.fit_also_on if name not in self.volumes]:
            there = ", ".join(self.volumes) or "none"
            raise ValueError(
                f"tokens.fit_also_on names the volume {unknown[0]!r}, which does not exist; in `volumes` there are: {there}"
            )
        return self

    @model_validator(mode="after")
    def _sweep_keeps_the_split(self) -> "Config":
        for name, point in self.sweep_points().items():
            if point.network.radius_max > self.network.radius_max:
                raise ValueError(
                    f"setting {name} of sweep has a network.radius_max above the config's own {self.network.radius_max}, for which "
                    "the gap between training and calibration is made; raise that one, or sweep smaller ones"
                )
        return self

    def sweep_points(self) -> dict[str, Point]:
        """Settings of the sweep by name."""
        return self.sweep.points(self.network, self.training)

    def sources(self) -> list[tuple[str, Source]]:
        """Every source with the key that names it."""
        found: list[tuple[str, Source | None]] = []
        if self.pairs is not None:
            found += [("pairs.noisy", self.pairs.noisy), ("pairs.clean", self.pairs.clean), ("pairs.mask", self.pairs.mask)]
        for name, volume in self.volumes.items():
            found += [(f"volumes.{name}.noisy", volume.noisy), (f"volumes.{name}.mask", volume.mask)]
        return [(key, source) for key, source in found if source is not None]


def load(path: str | Path) -> Config:
    """
    Configuration read from a YAML file.

    Raises
    ------
    ConfigError
        If the file is not YAML, or its content is not a valid configuration.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {problem}") from problem
    expect_each_key_once(path)
    return parse(content, origin=str(path))


def expect_each_key_once(path: str | Path) -> None:
    """
    Nothing, if no mapping in a file of valid YAML has a key twice: of two values, YAML would silently take the later one.

    Raises
    ------
    ConfigError
        Names each doubled key with its lines.
    """
    root = yaml.compose(Path(path).read_text(), Loader=yaml.SafeLoader)
    wrong = [
        f"key {key!r} is written {len(lines)} times, in lines {', '.join(map(str, lines))}"
        for key, lines in _lines_of_keys(root).items()
        if len(lines) > 1
    ]
    if wrong:
        raise ConfigError(f"{path}: {'; '.join(wrong)}; keep one of each")


def _lines_of_keys(root: yaml.Node | None) -> dict[str, list[int]]:
    """Lines, from 1, in which each dotted key of a document stands; what an alias repeats counts once."""
    found: dict[str, list[int]] = {}
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        above, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{above}{index}.", inner) for index, inner in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for key, inner in node.value:
                found.setdefault(f"{above}{key.value}", []).append(key.start_mark.line + 1)
                waiting.append((f"{above}{key.value}.", inner))
    return found


def parse(content: object, *, origin: str = "config", check_files: bool = True) -> Config:
    """
    Configuration from plain data, every key and value checked.

    Parameters
    ----------
    content
        What the YAML file holds: a mapping.
    origin
        Name of the file, for the messages.
    check_files
        Whether the source files must exist.

    Raises
    ------
    ConfigError
        Names each wrong key with its value and what is allowed.
    """
    try:
        config = Config.model_validate(content)
    except ValidationError as problem:
        lines = [describe(error, Config) for error in problem.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(dict.fromkeys(lines))) from None
    if check_files:
        try:
            _expect_places(config, origin)
        except RemoteError as problem:
            raise ConfigError(f"{origin}: {problem}") from problem
    return config


def _expect_places(config: Config, origin: str) -> None:
    """
    Nothing, if every source is there, and places to publish to can be reached and hold nothing else.

    Raises
    ------
    ConfigError
        Names the source that is missing.
    RemoteError
        If a URL cannot be reached, or something else stands at one.
    """
    for key, source in config.sources():
        if not source.files():
            where = "" if Path(source.path).is_absolute() or remote.is_url(source.path) else f" (looked for in {Path.cwd()})"
            raise ConfigError(
                f"{origin}: {key}.path {source.path!r} does not exist; give an existing file, folder or pattern{where}"
            )
    for target in config.publish.values():
        remote.expect_ours(remote.place(target.path, target.options))


def describe(error: Any, model: type[BaseModel]) -> str:
    """One line for one of pydantic's findings: the key, the value, what is allowed."""
    location = [str(part) for part in error["loc"]]
    # where one of several types is allowed, pydantic's last part is the type it has tried, which is no key
    if len(location) > 2 and re.fullmatch(r"(constrained-)?int|literal\[.*\]", location[-1]):
        location.pop()
    key = ".".join(location) or "the config"
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_at(location[:-1], model))
        return f"unknown key {key!r}; allowed here: {allowed}"
    if error["type"] == "missing":
        return f"key {key!r} is missing and has no default"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "value_error":
        return f"{key}: {message}" if location else message
    return f"{key} is {error['input']!r}: {message}"


def _fields_at(location: list[str], model: type[BaseModel]) -> list[str]:
    """Keys that the section at `location` knows."""
    fields = model.model_fields
    for part in location:
        if part not in fields:
            continue
        nested = [t for t in _types_in(fields[part].annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if nested:
            fields = nested[0].model_fields
    return list(fields)


def _types_in(annotation: Any) -> list[Any]:
    """A type and everything inside its brackets."""
    return [annotation, *(inner for argument in get_args(annotation) for inner in _types_in(argument))]


def schema() -> dict[str, Any]:
    """JSON schema of the configuration file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
