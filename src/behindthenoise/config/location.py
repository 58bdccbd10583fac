"""Where arrays lie that are read, and volumes that are written: paths and URLs."""

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from behindthenoise import remote
from behindthenoise.config.section import ArrayName, Axis, AxisNames, Real, Section

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
