"""
Source files as lazy arrays with our names of axes and channels.

Readers in `formats` know one format each and nothing of our names; `open_source` knows our names and nothing of formats.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar, get_args

import dask.array as da
import numpy as np
import xarray as xr

from behindthenoise import remote
from behindthenoise.config import SPACE_AXES, Axis, Source
from behindthenoise.errors import SourceError
from behindthenoise.io import units
from behindthenoise.io.copies import copies, named_by_url
from behindthenoise.io.formats import hdf5, numpy_files, tiff, zarr_stores
from behindthenoise.io.formats.channels import CHANNEL_WORDS
from behindthenoise.io.formats.stored import ArrayLike, Stored, size
from behindthenoise.io.record import log

ALIASES: Mapping[str, Axis] = {
    **{axis: axis for axis in get_args(Axis)},
    **dict.fromkeys(CHANNEL_WORDS, "channel"),
    **dict.fromkeys(("frame", "t", "time"), "scan"),
    **dict.fromkeys(("slice", "plane"), "z"),
    "row": "y",
    "column": "x",
}
# What xarray and netCDF write where nobody gave a name.
PLACEHOLDER = re.compile(r"(phony_)?dim_\d+|")
# Small beside the memory of a job, large beside the cost of a dask task.
BLOCK_BYTES = 32 * 2**20

SpaceName = TypeVar("SpaceName", bound=str)

READERS: Mapping[str, Callable[[Sequence[str], str | None], Stored]] = {
    ".zarr": zarr_stores.read,
    ".tif": tiff.read,
    ".tiff": tiff.read,
    ".h5": hdf5.read,
    ".hdf5": hdf5.read,
    ".nxs": hdf5.read,
    ".npy": numpy_files.read_npy,
    ".npz": numpy_files.read_npz,
}


def open_source(source: Source) -> xr.DataArray:
    """
    Lazy array of a source, its axes in the file's order under our names.

    Nothing but metadata is read, except from NPZ, which cannot be read in parts and is loaded whole.

    Parameters
    ----------
    source
        Zarr (2 or 3), OME-Zarr (level 0, unless `array` names another), TIFF (one file, or a pattern of files that are
        stacked along a new first axis in natural order), HDF5, NPY or NPZ. Zarr at a URL is read in place, block by block; other
        files are copied first.

    Returns
    -------
    xarray.DataArray
        Dask array in native byte order, times `factor` as float32 unless that is 1. A channel axis has the names of the
        channels as coordinate, `0`, `1`, ... where nobody names them. `attrs["origin"]` says where it comes from; `spacing`
        and `position` of the first voxel (both by axis) and their `unit` are there where the file tells them.

    Raises
    ------
    SourceError
        If the file is missing or unreadable, the array is not there or not of real numbers, or axes or channel names do not
        fit it.
    """
    files = sorted(source.files(), key=_natural)
    if not files:
        raise SourceError(f"source {source.path!r} does not exist; give an existing file, folder or pattern")
    suffix = remote.suffix(files[0])
    if suffix not in READERS:
        raise SourceError(f"source {files[0]!r} is of unknown format {suffix!r}; known are {', '.join(READERS)}")
    if len(files) > 1 and READERS[suffix] is not tiff.read:
        raise SourceError(f"source {source.path!r} matches {len(files)} files; only TIFF files are stacked, so give one path")
    stored = _read(source, files, suffix)

    origin = _origin(source.path, stored.name)
    _check_values(stored.values, origin)
    dims = _our_axes(stored, source.axes, origin)
    if len(files) > 1 and dims[0] == "z" and (gap := _gap(files)):
        log(f"warning: {source.path} has no file between {gap[0]} and {gap[1]}, which are taken for neighbouring slices")
    array = _lazy(stored.values, dims, source.factor).assign_attrs(origin=origin, **_scale(stored, dims))
    if "channel" in dims:
        names = _our_channels(stored, source.channel_names, array.sizes["channel"], origin)
        array = array.assign_coords(channel=list(names))
    elif source.channel_names is not None:
        raise SourceError(f"{origin} has no channel axis for `channel_names`; its axes are {' '.join(dims)}")
    return array


def _read(source: Source, files: Sequence[str], suffix: str) -> Stored:
    """Array of a source by the reader of its format, which knows Zarr at a URL, and otherwise files of this machine."""
    if not remote.is_url(source.path):
        return READERS[suffix](files, source.array)
    if READERS[suffix] is zarr_stores.read:
        return zarr_stores.read(files, source.array, source.options)
    local = copies(source.path, source.options)
    with named_by_url(local):
        return READERS[suffix]([local[file] for file in files], source.array)


def select_channels(array: xr.DataArray, names: tuple[str, ...] | None) -> xr.DataArray:
    """
    The named channels in the given order; all of them where `names` is None.

    Raises
    ------
    SourceError
        If a channel does not exist.
    """
    if names is None:
        return array
    if "channel" not in array.dims:
        raise SourceError(f"{_where(array)} has no channel axis to take {', '.join(names)} from; its axes are {_axes(array)}")
    known = [str(name) for name in array.coords["channel"].values]
    for name in names:
        if name not in known:
            cure = (
                "; its file has no name of its own for each: give `channel_names` beside its `path`"
                if all(one.isdecimal() for one in known)
                else ""
            )
            raise SourceError(f"channel {name!r} does not exist in {_where(array)}; it has {', '.join(known)}{cure}")
    return array.isel(channel=[known.index(name) for name in names])


def crop_space(array: xr.DataArray, crop: Mapping[SpaceName, tuple[int, int]]) -> xr.DataArray:
    """
    Part of the array from the first to before the last voxel of each span.

    Raises
    ------
    SourceError
        If a span names an axis that is not there or goes beyond it.
    """
    for axis, (start, stop) in crop.items():
        if axis not in array.dims:
            raise SourceError(f"crop of {axis} does not fit {_where(array)}; its axes are {_axes(array)}")
        if not 0 <= start < stop <= array.sizes[axis]:
            raise SourceError(
                f"crop of {axis} from {start} to {stop} does not lie in {_where(array)}, "
                f"which has {array.sizes[axis]} voxels along {axis}"
            )
    return array.isel({axis: slice(start, stop) for axis, (start, stop) in crop.items()})


def _our_axes(stored: Stored, axes: tuple[Axis, ...] | None, origin: str) -> tuple[Axis, ...]:
    """Our names of the axes: as given, otherwise by the file's own, otherwise y x."""
    shape = stored.values.shape
    if axes is not None:
        if len(axes) != len(shape):
            raise SourceError(
                f"{origin} has {len(shape)} axes ({size(shape)}) but `axes` names {len(axes)} ({' '.join(axes)})"
                "; give one name per axis"
            )
        return axes
    names = [None if name is None or PLACEHOLDER.fullmatch(name) else name for name in stored.dims]
    if names == [None, None]:
        return ("y", "x")
    ours = tuple(axis for name in names if (axis := ALIASES.get((name or "").lower())) is not None)
    if len(ours) != len(shape) or len(set(ours)) < len(ours) or not {"y", "x"} <= set(ours):
        found = " ".join(name or "(unnamed)" for name in names)
        raise SourceError(
            f"{origin} ({size(shape)}) has the axes {found}, which do not say what each one is; give `axes`: "
            f"one name per axis, each once, y and x among them, out of {', '.join(get_args(Axis))}"
        )
    return ours


def _our_channels(stored: Stored, given: tuple[str, ...] | None, count: int, origin: str) -> tuple[str, ...]:
    """Names of the channels: as given, otherwise the file's own that fit, otherwise their numbers."""
    if given is not None:
        if len(given) != count or len(set(given)) != count:
            raise SourceError(
                f"{origin} has {count} channels but `channel_names` has {len(given)} ({', '.join(given)}); "
                "name each one, no two alike"
            )
        return given
    for names in stored.channel_names:
        if len(names) == count == len(set(names)) and all(names):
            return names
    return tuple(str(number) for number in range(count))


def _scale(stored: Stored, dims: Sequence[Axis]) -> dict[str, Any]:
    """Size of a voxel and position of the first one by axis, in the unit of the last axis that has one; nothing in units unlike."""
    named = {axis: str(unit) for axis, unit in zip(dims, stored.units, strict=False) if axis in SPACE_AXES and unit is not None}
    unit = next(reversed(named.values()), None)
    factors = {axis: units.ratio(named.get(axis, unit), unit) if unit else 1.0 for axis in dims if axis in SPACE_AXES}
    if None in factors.values():
        return {}
    told: dict[str, Any] = {"unit": units.named(unit)} if unit else {}
    for name, values in (("spacing", stored.spacing), ("position", stored.position)):
        found = {axis: value * (factors[axis] or 1) for axis, value in zip(dims, values, strict=False) if axis in factors}
        # a size that is none says nothing
        found = {axis: value for axis, value in found.items() if math.isfinite(value) and (value > 0 or name == "position")}
        told |= {name: found} if found else {}
    return told


def _check_values(values: ArrayLike, origin: str) -> None:
    """
    Refuse what is no image.

    Raises
    ------
    SourceError
        If the values are not real numbers, or there are none.
    """
    if values.dtype.kind not in "biuf":
        raise SourceError(f"{origin} holds values of type {values.dtype}; an image has integers, real numbers or booleans")
    if 0 in values.shape:
        raise SourceError(f"{origin} is empty: {size(values.shape)}")


def _lazy(values: ArrayLike, dims: Sequence[Axis], factor: float) -> xr.DataArray:
    """Dask array of the values in blocks of whole stored chunks, in native byte order or scaled to float32."""
    chunk = getattr(values, "chunks", None) or (1,) * len(values.shape)
    block = _block(values.shape, chunk, values.dtype.itemsize)
    array = xr.DataArray(da.from_array(values, chunks=block), dims=dims)
    if factor != 1:
        return array.astype(np.float32) * np.float32(factor)
    # Torch refuses the other byte order, which ImageJ writes.
    return array.astype(values.dtype.newbyteorder("="), copy=False)


def _block(shape: Sequence[int], chunk: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Shape of a block: as many whole chunks as fit into `BLOCK_BYTES`, along the last axes first, and at least one."""
    # Dask's "auto" cuts through chunks, each of which is then decoded several times.
    block = list(chunk)
    for axis in reversed(range(len(shape))):
        chunks_that_fit = BLOCK_BYTES // (math.prod(block) * itemsize)
        block[axis] = min(shape[axis], block[axis] * max(1, chunks_that_fit))
    return tuple(block)


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorting key by which slice_2 comes before slice_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _gap(files: Sequence[str]) -> tuple[str, str] | None:
    """The first two files in order between which numbers are left out, if they are numbered; else None."""
    numbered = [[int(part) for part in re.findall(r"\d+", PurePath(file).stem)] for file in files]
    if len({len(row) for row in numbered}) > 1:
        return None
    # of several numbers in a name, one counts slices
    counting = [steps for column in zip(*numbered, strict=True) if (steps := np.diff(column)).min() > 0]
    if not counting:
        return None
    steps = counting[-1]
    wide = np.flatnonzero(steps > steps.min())
    return (files[wide[0]], files[wide[0] + 1]) if wide.size else None


def _origin(path: str, name: str) -> str:
    return f"{path}::{name}" if name else path


def _where(array: xr.DataArray) -> str:
    return str(array.attrs.get("origin", "the array"))


def _axes(array: xr.DataArray) -> str:
    return " ".join(str(dim) for dim in array.dims)
