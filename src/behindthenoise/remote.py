"""
What stands at a URL, by fsspec: files, patterns, stores.

fsspec is imported only where a URL is given, because Snakemake reads the configuration at every start. Whatever goes wrong on the
way becomes one line.
"""

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from behindthenoise.errors import BehindTheNoiseError, RemoteError

PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
NOT_FOUND = 404  # what a web server answers
ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray")
# What changes with the content, the surest first; each kind of storage has another one.
STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "Last-Modified", "mtime", "created")


# Folder in a published volume, a Zarr group without arrays: by it the workflow knows what it has written itself.
MARK = "behindthenoise"


class Found(NamedTuple):
    """
    A file at a URL, or a Zarr store, which its metadata stand for.

    Attributes
    ----------
    url
        Where it is.
    size
        Bytes; None where the server does not say.
    stamp
        What differs when the content does: a check sum or the time of the last change; empty where the server tells neither.
    """

    url: str
    size: int | None
    stamp: str


def is_url(path: str) -> bool:
    """Whether a path is a URL and not a path on this machine."""
    return PROTOCOL.match(path) is not None


def absolute(path: str) -> str:
    """A path or URL in one spelling: absolute, without `.`, `..` and a slash at the end."""
    if not is_url(path):
        return os.path.abspath(path)
    protocol, separator, place = path.partition("://")
    return f"{protocol}{separator}{os.path.normpath(place)}"


def suffix(path: str) -> str:
    """Ending of a path or URL in lower case, without a query behind it."""
    return PurePosixPath(path.partition("?")[0] if is_url(path) else path).suffix.lower()


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """
    Turn what the libraries behind fsspec raise, each its own kinds, into an error of ours.

    Raises
    ------
    RemoteError
        Names the URL and the cause, or the package that is missing.
    """
    try:
        yield
    except BehindTheNoiseError:
        raise
    except ImportError as problem:
        package = re.search(r"\b(\w*fs|adlfs|aiohttp|requests|paramiko)\b", str(problem).partition("nstall")[2] or str(problem))
        name = package[1] if package else f"what it names ({problem})"
        raise RemoteError(f"{url} cannot be reached without another package; install {name}") from problem
    except Exception as problem:
        cause = f"{type(problem).__name__}: {' '.join(str(problem.__cause__ or problem).split())}"
        cure = "check the URL, its `options`, the network, and in the environment the credentials"
        raise RemoteError(f"{url} cannot be reached ({cause}); {cure}") from problem


@dataclass(frozen=True)
class Place:
    """
    A URL, or a path on this machine, with the file system that knows it.

    Attributes
    ----------
    url
        As it was given.
    system
        The file system; fsspec has no types.
    path
        What the file system calls it.
    """

    url: str
    system: Any
    path: str

    def top(self) -> set[str]:
        """Names of the files and folders that stand directly below; empty where there is nothing."""
        with reaching(self.url):
            self.system.invalidate_cache()
            try:
                return {PurePosixPath(name).name for name in self.system.ls(self.path, detail=False)}
            except FileNotFoundError as problem:
                if _has_a_cause(problem):
                    raise
                return set()

    def names(self) -> dict[str, int]:
        """Size of every file below, by its path from here; `.` is a file that stands here itself."""
        with reaching(self.url):
            self.system.invalidate_cache()
            found = self.system.find(self.path, detail=True)
        root = self.path.rstrip("/") + "/"
        return {name.removeprefix(root) if name.startswith(root) else ".": info["size"] for name, info in found.items()}

    def read(self, name: str) -> bytes:
        """Content of a file below."""
        with reaching(self.url):
            content: bytes = self.system.cat_file(self.below(name))
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file below."""
        with reaching(self.url):
            self.system.pipe_file(self.below(name), content)

    def send(self, name: str, file: Path) -> None:
        """Copy a file of this machine to one below."""
        with reaching(self.url):
            self.system.put_file(str(file), self.below(name))

    def remove(self, name: str) -> None:
        """Delete a file below."""
        with reaching(self.url):
            self.system.rm_file(self.below(name))

    def below(self, name: str) -> str:
        """What the file system calls a file below."""
        return f"{self.path.rstrip('/')}/{name}"


def place(url: str, options: Mapping[str, Any]) -> Place:
    """
    A URL, or a path on this machine, opened by fsspec; nothing is asked of the network yet.

    Raises
    ------
    RemoteError
        If nothing that is installed knows this kind of URL.
    """
    # object storage makes folders by itself
    own = {"auto_mkdir": True} if not is_url(url) or url.startswith("local://") else {}
    with reaching(url):
        system, path = importlib.import_module("fsspec").url_to_fs(url, **own, **options)
    return Place(url, system, path)


def found(url: str, options: Mapping[str, Any]) -> tuple[Found, ...]:
    """
    Files or stores that a URL or a pattern stands for; none where there are none. The network is asked once in a process.

    Raises
    ------
    RemoteError
        If it cannot be told what is there.
    """
    return _found(url, json.dumps(dict(options), sort_keys=True))


@cache
def _found(url: str, options: str) -> tuple[Found, ...]:
    here = place(url, json.loads(options))
    with reaching(url):
        one = _look(here, here.path, url)
        if one is not None:
            return (one,)
        # `?` begins the query of a web address
        if not re.search(r"[*\[]" if url.startswith("http") else r"[*?\[]", here.path):
            return ()
        paths = sorted(here.system.glob(here.path))
        return tuple(one for path in paths if (one := _look(here, path, here.system.unstrip_protocol(path))) is not None)


def _look(here: Place, path: str, url: str) -> Found | None:
    """What stands at one path; None where nothing does."""
    metadata = [f"{path.rstrip('/')}/{name}" for name in ZARR_METADATA] if suffix(url.rstrip("/")) == ".zarr" else []
    for candidate in [*metadata, path]:
        try:
            info: dict[str, Any] = here.system.info(candidate)
        except FileNotFoundError as problem:
            if _has_a_cause(problem):
                raise
            continue
        stamp = next((str(info[key]) for key in STAMPS if info.get(key)), "")
        return Found(url, info.get("size"), stamp)
    return None


def _has_a_cause(problem: FileNotFoundError) -> bool:
    """Whether a file is not there because its bucket or the network is not: all of that ends in the same error."""
    cause = problem.__cause__
    return cause is not None and not isinstance(cause, FileNotFoundError) and getattr(cause, "status", None) != NOT_FOUND


def expect_ours(target: Place) -> None:
    """
    Nothing, if at a place there is nothing, or what this workflow has published.

    Raises
    ------
    RemoteError
        If something else is there, or it cannot be told.
    """
    top = target.top()
    if top and MARK not in top:
        raise RemoteError(
            f"{target.url} already holds something else ({', '.join(sorted(top)[:3])}), which publishing would overwrite; "
            "choose another place, or remove it yourself"
        )
