"""Sources in canonical form: named leading axes first, then [z,] y, x."""

import xarray as xr

from behindthenoise.config import SPACE_AXES, Selection, Source
from behindthenoise.errors import SourceError
from behindthenoise.io.sources import crop_space, open_source, select_channels


def canonical(source: Source, selection: Selection, leading: tuple[str, ...]) -> xr.DataArray:
    """A source with the leading axes named and then [z,] y, x; absent leading axes have length 1."""
    array = crop_space(select_channels(open_source(source), selection.channels), selection.crop)
    space = [name for name in SPACE_AXES if name in array.dims]
    surplus = [str(name) for name in array.dims if name not in leading and name not in space]
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
