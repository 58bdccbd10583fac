"""Images in TIFF files, and stacks of such files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tifffile
import zarr

from behindthenoise.errors import SourceError
from behindthenoise.io.formats import tiff_metadata
from behindthenoise.io.formats.stored import Stored, choose, reading, size

# Letters of tifffile; its I (pages) and Q (other) say nothing about the meaning of an axis, so they have no name here.
TIFF_AXES: Mapping[str, str] = {"X": "x", "Y": "y", "Z": "z", "C": "channel", "S": "channel", "T": "scan"}


class TiffSeries(NamedTuple):
    """What tells whether two TIFF images can be stacked."""

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{size(self.shape)} {self.axes} {self.dtype}"


def read(files: Sequence[str], wanted: str | None) -> Stored:
    """One series of a TIFF file, or of many alike that are stacked along a new first axis."""
    first = _series(files[0])
    choice = choose({str(i): series.shape for i, series in enumerate(first)}, wanted, files[0])
    index = int(choice)
    for file in files[1:]:
        others = _series(file)
        if others[index : index + 1] != [first[index]]:
            found = ", ".join(str(one) for one in others)
            raise SourceError(f"{file} holds {found}, but {files[0]} {first[index]}; files that are stacked must be alike")
    one = files[0] if len(files) == 1 else list(files)
    with reading(files[0], tifffile.TiffFileError, OSError):
        store = tifffile.imread(one, aszarr=True, series=index, level=0)
        values = zarr.open_array(store, mode="r")
    dims: tuple[str | None, ...] = tuple(TIFF_AXES.get(letter) for letter in first[index].axes)
    told = tiff_metadata.read(files[0], index)
    stack = (None,) * (len(files) > 1)
    return Stored(
        values,
        (*stack, *dims),
        choice if len(first) > 1 else "",
        (told.channels,) if told.channels else (),
        (*(math.nan for _ in stack), *(told.spacing.get(name, math.nan) for name in dims)),
        (*stack, *(told.units.get(name) for name in dims)),
    )


def _series(file: str) -> list[TiffSeries]:
    """Series of a TIFF file, each of which can be decoded here."""
    with reading(file, tifffile.TiffFileError, OSError), tifffile.TiffFile(file) as tiff:
        for series in tiff.series:
            compression = series.keyframe.compression
            # Without this the first pixel would fail, deep inside tifffile.
            if compression != tifffile.COMPRESSION.NONE and compression not in tifffile.TIFF.DECOMPRESSORS:
                name = tifffile.COMPRESSION(compression).name
                raise SourceError(f"{file} is compressed with {name}; install imagecodecs, or save it with zlib or none")
        return [TiffSeries(series.axes, series.shape, series.dtype) for series in tiff.series]
