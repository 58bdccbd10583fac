"""
Source files: every format that the configuration may point at, as one lazy array with our names of axes and channels.

A reader knows one format and nothing of our names; `open_source` knows our names and nothing of formats.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable
from zipfile import BadZipFile

import dask.array as da
import h5py
import numpy as np
import tifffile
import xarray as xr
import zarr
from jaxtyping import Shaped
from zarr.storage import FsspecStore

from behindthenoise import remote
from behindthenoise.config import SPACE_AXES, Axis, Source
from behindthenoise.errors import BehindTheNoiseError, SourceError
from behindthenoise.io import tiff_metadata, units
from behindthenoise.io.copies import copies, named_by_url

ALIASES: Mapping[str, Axis] = {
    **{axis: axis for axis in get_args(Axis)},
    **dict.fromkeys(("element", "line", "band", "c"), "channel"),
    **dict.fromkeys(("frame", "t", "time"), "scan"),
    **dict.fromkeys(("slice", "plane"), "z"),
    "row": "y",
    "column": "x",
}
# What xarray and netCDF write where nobody gave a name.
PLACEHOLDER = re.compile(r"(phony_)?dim_\d+|")
# Letters of tifffile; its I (pages) and Q (other) say nothing about the meaning of an axis, so they have no name here.
TIFF_AXES: Mapping[str, str] = {"X": "x", "Y": "y", "Z": "z", "C": "channel", "S": "channel", "T": "scan"}
CHANNEL_WORDS = tuple(word for word, axis in ALIASES.items() if axis == "channel")
NAME_ATTRIBUTES = ("channels", "elements", "lines")
# Broken JSON is a ValueError, as are most of zarr's own errors; a key that the metadata lack is a KeyError.
ZARR_ERRORS = (ValueError, KeyError, OSError)
# Small beside the memory of a job, large beside the cost of a dask task.
BLOCK_BYTES = 32 * 2**20

SpaceName = TypeVar("SpaceName", bound=str)


@runtime_checkable
class ArrayLike(Protocol):
    """What the libraries' arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read a part."""


@dataclass(frozen=True)
class Stored:
    """
    An array as it lies in its file.

    Attributes
    ----------
    values
        The array, not read yet.
    name
        Its path inside its container; empty where there is no container.
    dims
        The file's own name of each axis; None where it has none.
    channel_names
        Every list of channel names that the file offers, nearest to the array first; lists of other arrays may be among them.
    spacing
        Size of a voxel along each axis, NaN along those of which the file does not say it; empty where it says nothing.
    units
        Unit of `spacing` along each axis.
    position
        Where the middle of the first voxel lies along each axis, in `units`; empty where the file does not say.
    """

    values: ArrayLike
    dims: tuple[str | None, ...]
    name: str = ""
    channel_names: tuple[tuple[str, ...], ...] = ()
    spacing: tuple[float, ...] = ()
    units: tuple[str | None, ...] = ()
    position: tuple[float, ...] = ()


class NpyFile:
    """An NPY file that is mapped anew for each part, because dask copies every NumPy array, mapped or not, when it takes it."""

    def __init__(self, path: str) -> None:
        self._path = path
        mapped = np.lib.format.open_memmap(path, mode="r")
        self.shape, self.dtype, self.ndim = mapped.shape, mapped.dtype, mapped.ndim

    def __getitem__(self, key: Any, /) -> Shaped[np.ndarray, " ..."]:
        return np.array(np.lib.format.open_memmap(self._path, mode="r")[key])


class TiffSeries(NamedTuple):
    """What tells whether two TIFF images can be stacked."""

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{_size(self.shape)} {self.axes} {self.dtype}"


@dataclass(frozen=True)
class OmeLevel:
    """One resolution of an OME-Zarr image: its path below the image's group, and what the group tells of its axes."""

    path: str
    dims: tuple[str, ...]
    units: tuple[str | None, ...]
    spacing: tuple[float, ...]
    position: tuple[float, ...]


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
    if len(files) > 1 and READERS[suffix] is not _read_tiff:
        raise SourceError(f"source {source.path!r} matches {len(files)} files; only TIFF files are stacked, so give one path")
    stored = _read(source, files, suffix)

    origin = _origin(source.path, stored.name)
    _check_values(stored.values, origin)
    dims = _our_axes(stored, source.axes, origin)
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
    if READERS[suffix] is _read_zarr:
        return _read_zarr(files, source.array, source.options)
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
            cure = "; its file names none: give `channel_names` beside its `path`" if all(one.isdecimal() for one in known) else ""
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


def _read_zarr(files: Sequence[str], wanted: str | None, options: Mapping[str, Any] | None = None) -> Stored:
    """Array of a Zarr folder or URL, with the channel names and the scale that the groups around it tell."""
    with _reading(files[0], *ZARR_ERRORS):
        place = files[0] if options is None else FsspecStore.from_url(files[0], dict(options), read_only=True)
        root = zarr.open(place, mode="r")
    if isinstance(root, zarr.Array):
        if wanted is not None:
            raise SourceError(f"{files[0]} is one array and holds no {wanted!r}; leave `array` out")
        return Stored(root, _zarr_dims(root), channel_names=tuple(_names_in(root.attrs.asdict())))

    with _reading(files[0], *ZARR_ERRORS):
        name, node = _zarr_array(root, wanted, files[0])
        groups = {parent: _zarr_group(root, parent) for parent in _parents(name)}
        coordinates = list(_zarr_coordinates(next(iter(groups.values()))))
    names = [
        *coordinates,
        *_names_in(node.attrs.asdict()),
        *(found for group in groups.values() for found in _names_in(group.attrs.asdict())),
    ]
    stored = Stored(node, _zarr_dims(node), name, tuple(names))
    for parent, group in groups.items():
        for level in _ome_levels(group, files[0]):
            if _join(parent, level.path) == name:
                return replace(stored, dims=level.dims, spacing=level.spacing, units=level.units, position=level.position)
    return stored


def _read_tiff(files: Sequence[str], wanted: str | None) -> Stored:
    """One series of a TIFF file, or of many alike that are stacked along a new first axis."""
    first = _tiff_series(files[0])
    choice = _choose({str(i): series.shape for i, series in enumerate(first)}, wanted, files[0])
    index = int(choice)
    for file in files[1:]:
        others = _tiff_series(file)
        if others[index : index + 1] != [first[index]]:
            found = ", ".join(str(one) for one in others)
            raise SourceError(f"{file} holds {found}, but {files[0]} {first[index]}; files that are stacked must be alike")
    one = files[0] if len(files) == 1 else list(files)
    with _reading(files[0], tifffile.TiffFileError, OSError):
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


def _read_hdf5(files: Sequence[str], wanted: str | None) -> Stored:
    """Dataset of an HDF5 file, which stays open as long as the dataset is in use."""
    with _reading(files[0], OSError):
        root = h5py.File(files[0], mode="r")
    node: Any = root.get(wanted) if wanted else None
    if not _is_dataset(node):
        shapes: dict[str, tuple[int, ...]] = {}
        root.visititems(lambda name, item: shapes.update({name: item.shape}) if _is_dataset(item) else None)
        node = root[_choose(shapes, wanted, files[0])]
    name = node.name.strip("/")
    groups = [root[parent] if parent else root for parent in _parents(name)]
    names = [
        *_hdf5_coordinates(groups[0]),
        *_names_in(node.attrs),
        *(found for group in groups for found in _names_in(group.attrs)),
    ]
    return Stored(node, tuple(_hdf5_dim(dim) for dim in node.dims), name, tuple(names))


def _read_npy(files: Sequence[str], wanted: str | None) -> Stored:
    """Memory map of an NPY file."""
    if wanted is not None:
        raise SourceError(f"{files[0]} is one array and holds no {wanted!r}; leave `array` out")
    with _reading(files[0], ValueError, OSError, EOFError):
        values = NpyFile(files[0])
    return Stored(values, (None,) * values.ndim)


def _read_npz(files: Sequence[str], wanted: str | None) -> Stored:
    """Array of an NPZ file, loaded whole: a compressed file has no random access."""
    with (
        _reading(files[0], BadZipFile, ValueError, OSError, EOFError),
        np.lib.npyio.NpzFile(open(files[0], "rb"), own_fid=True) as container,
    ):
        content = {name: container[name] for name in ([wanted] if wanted in container.files else container.files)}
    name = _choose({name: array.shape for name, array in content.items()}, wanted, files[0])
    return Stored(content[name], (None,) * content[name].ndim, name)


READERS: Mapping[str, Callable[[Sequence[str], str | None], Stored]] = {
    ".zarr": _read_zarr,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".nxs": _read_hdf5,
    ".npy": _read_npy,
    ".npz": _read_npz,
}


def _zarr_array(root: zarr.Group, wanted: str | None, path: str) -> tuple[str, zarr.Array[Any]]:
    """Path and array that `wanted` means: an array, level 0 of an image group, or the only array where it is None."""
    name = (wanted or "").strip("/")
    node = root.get(name) if name else root
    if isinstance(node, zarr.Group) and (levels := _ome_levels(node, path)):
        name = _join(name, levels[0].path)
        node = root.get(name)
    if not isinstance(node, zarr.Array):
        arrays = {key: item for key, item in root.members(max_depth=None) if isinstance(item, zarr.Array)}
        name = _choose({key: item.shape for key, item in arrays.items()}, wanted, path)
        node = arrays[name]
    return name, node


def _zarr_group(root: zarr.Group, name: str) -> zarr.Group:
    """Group below the root, or the root itself where the name is empty."""
    group = root[name] if name else root
    assert isinstance(group, zarr.Group)
    return group


def _zarr_dims(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    """Names of the axes: of Zarr 3, or as xarray writes them into Zarr 2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return tuple(names) if isinstance(names, list | tuple) and len(names) == array.ndim else (None,) * array.ndim


def _zarr_coordinates(group: zarr.Group) -> Iterator[tuple[str, ...]]:
    """Coordinates that stand beside an array as xarray writes them, under any of the names of a channel axis."""
    for name in CHANNEL_WORDS:
        node = group.get(name)
        if isinstance(node, zarr.Array) and node.ndim == 1:
            yield tuple(str(value) for value in np.asarray(node[:]))


def _ome_levels(group: zarr.Group, path: str) -> list[OmeLevel]:
    """Levels of the group's first multiscale image, the finest first; none where the group is no OME-Zarr image."""
    attributes = group.attrs.asdict()
    ome: Any = attributes.get("ome", attributes)
    if not isinstance(ome, dict) or not ome.get("multiscales"):
        return []
    with _reading(path, KeyError, TypeError, IndexError, ValueError):
        image = ome["multiscales"][0]
        # Version 0.3 writes the names of the axes alone.
        axes = [{"name": axis} if isinstance(axis, str) else axis for axis in image["axes"]]
        dims = tuple(str(axis["name"]) for axis in axes)
        units = tuple(axis.get("unit") for axis in axes)
        return [OmeLevel(str(data["path"]), dims, units, *_ome_place(len(dims), data, image)) for data in image["datasets"]]


def _ome_place(count: int, *holders: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Spacing and position along each axis, by the transformations of a level, then of its image; empty where there is none."""
    spacing, position = [1.0] * count, [0.0] * count
    steps = [step for holder in holders for step in holder.get("coordinateTransformations", ())]
    for step in steps:
        for axis in range(count):
            factor, shift = (float(step[kind][axis]) if kind in step else none for kind, none in (("scale", 1), ("translation", 0)))
            spacing[axis], position[axis] = spacing[axis] * factor, position[axis] * factor + shift
    kinds = {kind for step in steps for kind in step}
    return tuple(spacing) if "scale" in kinds else (), tuple(position) if "translation" in kinds else ()


def _tiff_series(file: str) -> list[TiffSeries]:
    """Series of a TIFF file, each of which can be decoded here."""
    with _reading(file, tifffile.TiffFileError, OSError), tifffile.TiffFile(file) as tiff:
        for series in tiff.series:
            compression = series.keyframe.compression
            # Without this the first pixel would fail, deep inside tifffile.
            if compression != tifffile.COMPRESSION.NONE and compression not in tifffile.TIFF.DECOMPRESSORS:
                name = tifffile.COMPRESSION(compression).name
                raise SourceError(f"{file} is compressed with {name}; install imagecodecs, or save it with zlib or none")
        return [TiffSeries(series.axes, series.shape, series.dtype) for series in tiff.series]


def _is_dataset(node: object) -> bool:
    """Whether an HDF5 object is an array with a shape."""
    return isinstance(node, h5py.Dataset) and node.shape is not None


def _hdf5_dim(dim: Any) -> str | None:
    """Name of an axis: its label, otherwise that of the scale attached to it."""
    if dim.label:
        return str(dim.label)
    return PurePosixPath(dim[0].name).name if len(dim) else None


def _hdf5_coordinates(group: Any) -> Iterator[tuple[str, ...]]:
    """Coordinates that stand beside an array, under any of the names of a channel axis."""
    for name in CHANNEL_WORDS:
        node = group.get(name)
        if _is_dataset(node) and len(node.shape) == 1:
            values = node.asstr()[:] if h5py.check_string_dtype(node.dtype) else node[:]
            yield tuple(str(value) for value in values)


def _names_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Lists of channel names among the attributes of an array or of a group around it."""
    ome = attributes.get("ome", attributes)
    omero = ome.get("omero") if isinstance(ome, Mapping) else None
    if isinstance(omero, Mapping):
        yield tuple(str(channel.get("label", "")) for channel in omero.get("channels", ()))
    for key in NAME_ATTRIBUTES:
        value = attributes.get(key)
        # Such an attribute may also be a sentence about the lines, which is no list of them.
        if isinstance(value, Mapping | Sequence | np.ndarray) and not isinstance(value, str | bytes):
            names = list(value)
            if all(isinstance(name, str) for name in names):
                yield tuple(str(name) for name in names)


def _our_axes(stored: Stored, axes: tuple[Axis, ...] | None, origin: str) -> tuple[Axis, ...]:
    """Our names of the axes: as given, otherwise by the file's own, otherwise y x."""
    shape = stored.values.shape
    if axes is not None:
        if len(axes) != len(shape):
            raise SourceError(
                f"{origin} has {len(shape)} axes ({_size(shape)}) but `axes` names {len(axes)} ({' '.join(axes)})"
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
            f"{origin} ({_size(shape)}) has the axes {found}, which do not say what each one is; give `axes`: "
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
        raise SourceError(f"{origin} is empty: {_size(values.shape)}")


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


@contextmanager
def _reading(path: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors with which a library refuses a file into ours; those of a network are of every kind."""
    try:
        yield
    except BehindTheNoiseError:
        raise
    except Exception as problem:
        if not isinstance(problem, errors) and not remote.is_url(path):
            raise
        cause = f"{type(problem).__name__}: {problem}"
        raise SourceError(f"{path} cannot be read ({cause}); it may be damaged, incomplete or of another format") from problem


def _choose(shapes: Mapping[str, tuple[int, ...]], wanted: str | None, path: str) -> str:
    """Name of the wanted array in a container; where none is wanted, of the only one that can be an image."""
    if wanted is not None and wanted.strip("/") in shapes:
        return wanted.strip("/")
    # Arrays of one axis are coordinates.
    images = [name for name, shape in shapes.items() if len(shape) > 1]
    if wanted is None and len(images) == 1:
        return images[0]
    listed = ", ".join(f"{name} ({_size(shapes[name])})" for name in images)
    if wanted is not None:
        raise SourceError(f"array {wanted!r} does not exist in {path}; it has {listed or 'none'}")
    if not images:
        raise SourceError(f"{path} holds no array of two or more axes")
    raise SourceError(f"{path} holds {len(images)} arrays; choose one with `array`: {listed}")


def _parents(name: str) -> list[str]:
    """Paths of the groups around an array, the nearest first; the last is empty, the root."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in reversed(range(len(parts)))]


def _join(parent: str, name: str) -> str:
    """Path of a node below a group, the root being empty."""
    return f"{parent}/{name}" if parent else name


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorting key by which slice_2 comes before slice_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(length) for length in shape)


def _origin(path: str, name: str) -> str:
    return f"{path}::{name}" if name else path


def _where(array: xr.DataArray) -> str:
    return str(array.attrs.get("origin", "the array"))


def _axes(array: xr.DataArray) -> str:
    return " ".join(str(dim) for dim in array.dims)
