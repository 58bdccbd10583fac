"""Arrays in NPY and NPZ files."""

from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Shaped

from behindthenoise.errors import SourceError
from behindthenoise.io.formats.stored import Stored, choose, reading


class NpyFile:
    """An NPY file that is mapped anew for each part, because dask copies every NumPy array, mapped or not, when it takes it."""

    def __init__(self, path: str) -> None:
        self._path = path
        mapped = np.lib.format.open_memmap(path, mode="r")
        self.shape, self.dtype, self.ndim = mapped.shape, mapped.dtype, mapped.ndim

    def __getitem__(self, key: Any, /) -> Shaped[np.ndarray, " ..."]:
        return np.array(np.lib.format.open_memmap(self._path, mode="r")[key])


def read_npy(files: Sequence[str], wanted: str | None) -> Stored:
    """Memory map of an NPY file."""
    if wanted is not None:
        raise SourceError(f"{files[0]} is one array and holds no {wanted!r}; leave `array` out")
    with reading(files[0], ValueError, OSError, EOFError):
        values = NpyFile(files[0])
    return Stored(values, (None,) * values.ndim)


def read_npz(files: Sequence[str], wanted: str | None) -> Stored:
    """Array of an NPZ file, loaded whole: a compressed file has no random access."""
    with (
        reading(files[0], BadZipFile, ValueError, OSError, EOFError),
        np.lib.npyio.NpzFile(open(files[0], "rb"), own_fid=True) as container,
    ):
        content = {name: container[name] for name in ([wanted] if wanted in container.files else container.files)}
    name = choose({name: array.shape for name, array in content.items()}, wanted, files[0])
    return Stored(content[name], (None,) * content[name].ndim, name)
