"""Labelled arrays of xarray and lazy ones of dask, written into stores."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from threadpoolctl import threadpool_limits

from behindthenoise.io import stores
from behindthenoise.io.geometry import Axes, named_channels
from behindthenoise.io.writers import Writer


def write_input(path: Path, noisy: xr.DataArray, mask: xr.DataArray, axes: Axes, told: Mapping[str, Any]) -> dict[str, str]:
    """Copy a volume into a store of our own, chunk by chunk; returns the digest of each variable."""
    dims = ("channel", *axes.space)
    variables = {
        "noisy": (dims, noisy.transpose(*dims).astype(np.float32).data),
        "mask": (axes.space, mask.transpose(*axes.space).data),
    }
    dataset = xr.Dataset(variables, named_channels(axes), {"axes": axes.as_data(), "told": dict(told)})
    return write_dataset(path, dataset, axes.space)


def write_dataset(path: Path, dataset: xr.Dataset, space: Sequence[str]) -> dict[str, str]:
    """
    Store labelled arrays so that `xarray.open_zarr` gives them back; returns the digest of each variable.

    Chunks hold one image, scan or channel and a cube of `CHUNK` voxels of space.
    """
    if path.exists():
        shutil.rmtree(path)
    edge = stores.CHUNK[len(space)]
    encoding = {
        name: {
            "chunks": tuple(min(edge, size) if dim in space else 1 for dim, size in variable.sizes.items()),
            "compressors": stores.COMPRESSORS,
        }
        for name, variable in dataset.data_vars.items()
    }
    chunked = dataset.chunk({dim: edge if dim in space else 1 for dim in dataset.dims})
    chunked.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding, write_empty_chunks=True)
    group = stores.open_group(path)
    return {str(name): stores.digest(stores.get_array(group, str(name))) for name in sorted(map(str, dataset.data_vars))}


def fill(sources: Sequence[da.Array], targets: Sequence[zarr.Array[Any]]) -> None:
    """Write dask arrays into stored ones, a file at a time by several threads: no two threads share a file."""
    aligned = [source.rechunk(stores.files(target)) for source, target in zip(sources, targets, strict=True)]
    with threadpool_limits(1, user_api="blas"):  # a matrix product in each of dask's threads is parallel enough
        # dask's types know arrays in memory only as targets
        da.store(aligned, list(map(Writer.of, targets)), lock=False, scheduler="threads")  # type: ignore[arg-type]
