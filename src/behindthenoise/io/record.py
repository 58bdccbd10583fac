"""Records of what was done: manifests that Snakemake compares, and beside them who made them, when and how."""

import hashlib
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from behindthenoise import __version__
from behindthenoise.errors import StoreError

RECORD = ".run.json"
PACKAGES = ("torch", "numpy", "zarr", "tensorstore", "dask", "qlty", "scikit-learn", "xarray", "snakemake")


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write plain data whole or not at all: a file of this name is never half written. Without indent, in one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=indent) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """
    Plain data from a file.

    Raises
    ------
    StoreError
        If there is no such file, or it is not an object in JSON.
    """
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError as problem:
        raise StoreError(f"{path} is not there; it is made by the workflow") from problem
    except (OSError, ValueError, TypeError) as problem:
        raise StoreError(f"{path} cannot be read ({problem}); delete it and run the workflow again") from problem


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def recorded(verb: str, options: Mapping[str, object], makes: Sequence[str] = ()) -> Iterator[list[Path]]:
    """
    Log a job's start and end, and write its record beside the first file that it makes.

    Yields a list, to which files are added that no option names.

    The record holds digests of those files, and what may differ between two runs with equal results: versions, host,
    seconds and memory.

    Parameters
    ----------
    makes
        Options that name these files; without any there is no record.
    """
    start = time.monotonic()
    log(f"{verb}: behindthenoise {__version__}, " + ", ".join(f"{key} {_shown(value)}" for key, value in options.items()))
    further: list[Path] = []
    yield further
    seconds = round(time.monotonic() - start, 2)
    peak = peak_memory_bytes()
    log(f"{verb}: done in {seconds:.1f} s, peak memory {peak / 1e9:.2f} GB")
    files = [path for key in makes if isinstance(path := options[key], Path)]
    if files:
        digests = {os.path.relpath(path, files[0].parent): file_digest(path) for path in (*files, *further)}
        content = {"verb": verb, "files": digests, "seconds": seconds, "peak_memory_bytes": peak, **environment()}
        write_json(run_record(files[0]), content)


def run_record(made: Path) -> Path:
    """Where the record stands of the job that makes this file first: beside `a.json` as `a.run.json`, `a.b` as `a.b.run.json`."""
    return made.with_suffix(RECORD) if made.suffix == ".json" else made.with_name(made.name + RECORD)


def is_in_place(record: Path, content: Mapping[str, Any]) -> bool:
    """Whether a record stands beside what it is of; another version may have left one under another name, which is of the past."""
    first = next(iter(content.get("files", ())), None)
    return first is None or run_record(record.parent / first) == record


def environment() -> dict[str, Any]:
    """Versions and host of this process."""
    return {
        "behindthenoise": __version__,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "gpu": _gpu(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(name: str) -> str | None:
    """Installed version of a package; None where it is absent, as Snakemake is from the environment of its jobs."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Model of the processor."""
    models = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", models.read_text()) if models.exists() else None
    return found[1] if found is not None else platform.processor()


def _gpu() -> str | None:
    """Model of the GPU that this process computes with, if any; asked of torch where it is loaded, which is heavy."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_initialized() else None


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; what `getrusage` says there begins with the memory of the process that started this one
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found is not None:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def log(message: str) -> None:
    """One line with the time of day on standard error, which the workflow keeps as the job's log."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {message}\n")
    sys.stderr.flush()


class Countdown:
    """Progress of known work, with the time that is left at the present rate."""

    def __init__(self, total: int, unit: str, *, every_s: float = 10.0) -> None:
        self.total, self.unit, self.every_s = total, unit, every_s
        self.start = self.last = time.monotonic()

    def done(self, count: int, remark: str = "") -> None:
        """Say how far and how fast the work is, but not more often than `every_s`."""
        now = time.monotonic()
        if now - self.last < self.every_s and count < self.total:
            return
        self.last = now
        seconds = now - self.start
        left = seconds / max(count, 1) * (self.total - count)
        rate = f"{count / max(seconds, 1e-9):.3g} a second, " if self.unit == "voxels" else ""
        log(f"{count}/{self.total} {self.unit}, {rate}{seconds:.0f} s so far, about {left:.0f} s left{remark}")


def _shown(value: object) -> str:
    return f"[{len(value)} files]" if isinstance(value, list) else str(value)
