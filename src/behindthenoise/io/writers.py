"""Whole files of stored arrays, written by tensorstore: never half, and never two at once into one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr

from behindthenoise.io.stores import digest_of, file_of, files, folder_of

THREADS = "DASK_NUM_WORKERS"  # the variable that says how many threads a job has; dask reads it, too
# no two writers share a file, so none is locked: not every file system of a cluster can
FILES = {"file_io_sync": False, "file_io_locking": {"mode": "none"}}


def write_file(array: zarr.Array[Any], region: tuple[slice, ...], values: np.ndarray) -> str:
    """
    Write what one file holds; returns its digest.

    Until all is written the file does not exist, or has another name.

    Raises
    ------
    ValueError
        If the region is not one whole file, so that two writers could overwrite each other.
    """
    starts = [part.start for part in region]
    whole_file = all(
        start % edge == 0 and part.stop == min(start + edge, size)
        for start, edge, part, size in zip(starts, files(array), region, array.shape, strict=True)
    )
    if not whole_file:
        raise ValueError(f"{region} is not one whole file of array {array.path}, whose files hold {files(array)}")
    path = file_of(array, region)
    left = (f"{path.name}_*.__lock", f"{path.name}.*.partial")  # by a killed writer
    for stale in (path, *(stray for pattern in left for stray in path.parent.glob(pattern))):
        stale.unlink(missing_ok=True)
    Writer.of(array)[region] = values
    return digest_of([values], array.dtype, region)


@dataclass(frozen=True)
class Writer:
    """
    A stored array that whole files are written into, by tensorstore, which is faster than Zarr's own Python (docs/decisions/0019).

    A file is written under another name first. All writers together compress in as many threads as the job has.
    """

    path: Path
    stored: tensorstore.TensorStore

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> "Writer":
        """
        The writer of an array on this machine.

        Raises
        ------
        OSError
            If the array cannot be opened.
        """
        path = folder_of(array).resolve()  # tensorstore knows no ".."
        if "\\" in str(path):
            raise OSError(f"{path} cannot be written: tensorstore takes a backslash in a path for a slash; rename the folder")
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, "store_data_equal_to_fill_value": True}
        threads = int(os.environ.get(THREADS) or os.cpu_count() or 1)
        with _told(path):
            return cls(path, tensorstore.open(spec, open=True, context=_context(threads)).result())

    def __setitem__(self, region: tuple[slice, ...], values: np.ndarray) -> None:
        """
        Write the values of a region.

        Raises
        ------
        OSError
            If it cannot be written.
        ValueError
            If the values are of another shape or type.
        """
        target = self.stored[region]
        if target.shape != values.shape or target.dtype.numpy_dtype != values.dtype:
            raise ValueError(f"{values.dtype} {values.shape} is no {target.dtype.numpy_dtype} {target.shape} for {self.path}")
        with _told(self.path):
            target.write(values).result()


@cache
def _context(threads: int) -> tensorstore.Context:
    """What all writers of a process share."""
    limit = {"limit": threads}
    return tensorstore.Context({"data_copy_concurrency": limit, "file_io_concurrency": limit, **FILES})


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of tensorstore, a full disk among them, as one that says where."""
    try:
        yield
    except (ValueError, RuntimeError) as problem:
        raise OSError(f"{path} cannot be written ({problem})") from problem
