"""Files at URLs brought to this machine, for readers that know files alone; they are gone when the process ends."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from behindthenoise import remote
from behindthenoise.errors import SourceError
from behindthenoise.io.record import log


def copies(url: str, options: Mapping[str, Any]) -> dict[str, str]:
    """
    Paths of local copies of the files that a URL or a pattern stands for, by their URLs; each is fetched once in a process.

    Raises
    ------
    SourceError
        If there is no room for them, or one does not come whole.
    """
    found = remote.found(url, options)
    stored = _stored()
    wanted = [file for file in found if file.url not in stored]
    if wanted:
        folder = Path(_folder().name)
        _expect_room(url, sum(file.size or 0 for file in wanted), folder)
        # files of one pattern may have one name in several folders
        new = {file.url: str(folder / str(len(stored) + i) / _name(file.url)) for i, file in enumerate(wanted)}
        for path in new.values():
            Path(path).parent.mkdir()
        places = [remote.place(file.url, options) for file in wanted]
        log(f"{url}: fetching {len(wanted)} files of {sum(file.size or 0 for file in wanted) / 1e6:.0f} MB")
        with remote.reaching(url):
            places[0].system.get([place.path for place in places], list(new.values()))
        for file in wanted:
            _expect_whole(file, Path(new[file.url]))
        stored.update(new)
    return {file.url: stored[file.url] for file in found}


@contextmanager
def named_by_url(paths: Mapping[str, str]) -> Iterator[None]:
    """
    Errors about copies as errors about what they are copies of.

    Raises
    ------
    SourceError
        As it was raised, with URLs.
    """
    try:
        yield
    except SourceError as problem:
        text = str(problem)
        for url, path in paths.items():
            text = text.replace(path, url)
        raise SourceError(text) from problem.__cause__


@cache
def _stored() -> dict[str, str]:
    """Paths of the copies so far, by URL."""
    return {}


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Folder of the copies; Python removes it at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="behindthenoise-")


def _name(url: str) -> str:
    """Last part of a URL's path, whose ending says the format."""
    return PurePosixPath(url.partition("?")[0]).name


def _expect_room(url: str, size: int, folder: Path) -> None:
    """
    Nothing, if files of this size fit.

    Raises
    ------
    SourceError
        If they do not.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise SourceError(
            f"{url} has {size / 1e9:.3g} GB and {folder} only {free / 1e9:.3g} GB of room; set TMPDIR to a folder with more, "
            "or store it as Zarr, of which only what is used is read"
        )


def _expect_whole(file: remote.Found, copy: Path) -> None:
    """
    Nothing, if a copy has the size of its file.

    Raises
    ------
    SourceError
        If it has not.
    """
    size = copy.stat().st_size if copy.exists() else 0
    if file.size not in (None, size):
        raise SourceError(
            f"of {file.url} {size} bytes came instead of {file.size}; it has changed meanwhile, or was cut off; try again"
        )
