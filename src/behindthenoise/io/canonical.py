"""Sources in canonical form: named leading axes first, then [z,] y, x."""

import errno
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import xarray as xr
from tifffile import TiffFileError

from behindthenoise import remote
from behindthenoise.config import SPACE_AXES, Selection, Source, Space
from behindthenoise.errors import BehindTheNoiseError, SourceError
from behindthenoise.io.sources import crop_space, open_source, select_channels

# what libraries raise for damaged files
DAMAGED = (OSError, RuntimeError, ValueError, TiffFileError, zlib.error)
# faults of the disk that is written to meanwhile, which say enough themselves
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def canonical(source: Source, selection: Selection, leading: tuple[str, ...]) -> xr.DataArray:
    """A source with the leading axes named and then [z,] y, x; absent leading axes have length 1."""
    array = crop_space(select_channels(open_source(source), selection.channels), selection.crop)
    space = [name for name in SPACE_AXES if name in array.dims]
    surplus = [str(name) for name in array.dims if name not in leading and name not in space]
    if all(array.sizes[name] == 1 for name in surplus):
        array, surplus = array.isel(dict.fromkeys(surplus, 0), drop=True), []
    if surplus:
        raise SourceError(
            f"{array.attrs['origin']} has the axis {surplus[0]!r}, which has no place here; "
            f"allowed are {', '.join(leading)} and space; name its axes or select a part"
        )
    origin = array.attrs["origin"]
    absent = [name for name in leading if name not in array.dims]
    array = array.expand_dims(dict.fromkeys(absent, 1))
    if "channel" in absent:
        array = array.assign_coords(channel=["value"])
    array = array.transpose(*leading, *space)
    array.attrs["origin"] = origin
    return array


def read_mask(source: Source, crop: Mapping[Space, tuple[int, int]], sizes: Mapping[str, int]) -> xr.DataArray:
    """
    A mask with the given axes, True where there is data; along an axis that the source lacks, it is repeated.

    Parameters
    ----------
    crop
        Which voxels to use; spans along axes that the source lacks are left out.
    sizes
        Name and size of each axis that the mask must have.

    Raises
    ------
    SourceError
        If the source has another axis, or another size along one.
    """
    array = open_source(source)
    values = crop_space(array, {axis: span for axis, span in crop.items() if axis in array.dims})
    mask = (values != 0) & values.notnull()
    for name, size in mask.sizes.items():
        if sizes.get(str(name)) != size:
            expected = ", ".join(f"{size} along {axis}" for axis, size in sizes.items())
            raise SourceError(
                f"mask {array.attrs['origin']} has {size} voxels along {name}; the image has {expected}; the mask may lack an axis"
            )
    lacking = {name: size for name, size in sizes.items() if name not in mask.dims}
    return mask.expand_dims(lacking).transpose(*sizes)


@contextmanager
def reading(*origins: str) -> Iterator[None]:
    """
    Turn what libraries raise for damaged data or a lost network, which shows only when values are read, into an error of ours.

    Raises
    ------
    SourceError
        Names the sources and the cause.
    """
    try:
        yield
    except BehindTheNoiseError:
        raise
    except Exception as problem:
        at_url = any(map(remote.is_url, origins))
        foreign = not isinstance(problem, DAMAGED) and not at_url
        if foreign or getattr(problem, "errno", None) in FULL:
            raise
        cause = f"{type(problem).__name__}: {problem}"
        cure = "the file may be damaged or incomplete" + (", or the network lost; try again" if at_url else "")
        raise SourceError(f"{' or '.join(origins)} cannot be read ({cause}); {cure}") from problem


def expect_equal_sizes(first: xr.DataArray, second: xr.DataArray, names: tuple[str, ...]) -> None:
    """
    Nothing, if two arrays agree along the named axes.

    Raises
    ------
    SourceError
        Names the axis and both sizes.
    """
    for name in names:
        if first.sizes.get(name) != second.sizes.get(name):
            raise SourceError(
                f"{first.attrs['origin']} has {first.sizes.get(name, 'no')} voxels along {name}, "
                f"{second.attrs['origin']} has {second.sizes.get(name, 'none')}; both must show the same field, voxel by voxel"
            )


def expect_equal_channels(first: xr.DataArray, second: xr.DataArray) -> None:
    """
    Nothing, if two arrays have the same channels in the same order, as far as their files name them.

    Raises
    ------
    SourceError
        Gives the names of both.
    """
    names = [[str(name) for name in array.coords["channel"].to_numpy()] for array in (first, second)]
    if not any(all(name.isdecimal() for name in row) for row in names) and names[0] != names[1]:
        raise SourceError(
            f"{first.attrs['origin']} has the channels {', '.join(names[0])}, {second.attrs['origin']} has {', '.join(names[1])}; "
            "choose the same ones by pairs.channels"
        )
