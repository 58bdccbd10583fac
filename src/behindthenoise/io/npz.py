"""Several small arrays in one file: plain numbers, nothing that could run code."""

from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np

from behindthenoise.errors import StoreError

# what zipfile, zlib and numpy's reader of headers raise for bytes that are not what was written
DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, SyntaxError, TokenError, BadZipFile, ZlibError)


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
        with ZipFile(path) as archive:
            damaged = archive.testzip()  # numpy compares no check sum where it stops before the end
        if damaged is not None:
            raise BadZipFile(f"array {damaged!r} is damaged")
        with np.load(path) as content:
            return dict(content)
    except DAMAGE as problem:
        raise StoreError(f"{path} cannot be read ({problem}); delete it and run the workflow again") from problem
