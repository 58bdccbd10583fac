"""An array as it lies in its file, whatever the format, and what readers of all formats share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from behindthenoise import remote
from behindthenoise.errors import BehindTheNoiseError, SourceError


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


@contextmanager
def reading(path: str, *errors: type[Exception]) -> Iterator[None]:
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


def choose(shapes: Mapping[str, tuple[int, ...]], wanted: str | None, path: str) -> str:
    """Name of the wanted array in a container; where none is wanted, of the only one that can be an image."""
    if wanted is not None and wanted.strip("/") in shapes:
        return wanted.strip("/")
    # Arrays of one axis are coordinates.
    images = [name for name, shape in shapes.items() if len(shape) > 1]
    if wanted is None and len(images) == 1:
        return images[0]
    listed = ", ".join(f"{name} ({size(shapes[name])})" for name in images)
    if wanted is not None:
        raise SourceError(f"array {wanted!r} does not exist in {path}; it has {listed or 'none'}")
    if not images:
        raise SourceError(f"{path} holds no array of two or more axes")
    raise SourceError(f"{path} holds {len(images)} arrays; choose one with `array`: {listed}")


def parents(name: str) -> list[str]:
    """Paths of the groups around an array, the nearest first; the last is empty, the root."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in reversed(range(len(parts)))]


def size(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " x ".join(str(length) for length in shape)
