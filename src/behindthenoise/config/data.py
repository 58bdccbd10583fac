"""The sections `pairs`, `synthetic` and `volumes`: what is learned from, and what is denoised."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from behindthenoise.config.location import SourceOrPath
from behindthenoise.config.section import Int, Real, Section, Space, Span


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

    @field_validator("scans")
    @classmethod
    def _scans_differ(cls, scans: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if scans is not None and len(set(scans)) < len(scans):
            raise ValueError(f"scans {', '.join(map(str, scans))} name one twice; each may be used once")
        return scans


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
