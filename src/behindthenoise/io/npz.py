"""Several small arrays in one file: plain numbers, nothing that could run code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from behindthenoise.errors import StoreError


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, and the folder that they stand in where it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **dict(arrays))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """
    All arrays of a file by name.

    Raises
    ------
    StoreError
        If there is no such file, or it is cut off or damaged.
    """
    try:
        with np.load(path) as content:
            return dict(content)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, ZlibError) as problem:
        raise StoreError(f"{path} cannot be read ({problem}); delete it and run the workflow again") from problem
