"""One process for each result: jobs that a killed Snakemake has left behind make way for those of the next."""

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from behindthenoise.io.lease import lock
from behindthenoise.io.record import log


@contextmanager
def exclusive(result: Path, *, poll_s: float = 0.05, remind_s: float = 300.0) -> Iterator[None]:
    """
    Work on a result while no other process does.

    Snakemake lets no two of its own jobs make one file. But jobs outlive a Snakemake that was killed, may have other settings than
    those of the next one, and would write over what that makes. Such a process is asked to end, which a training answers by saving
    its state; this goes on when it has ended. On another machine nobody can ask it; then this waits.

    Parameters
    ----------
    result
        A file that the work makes; `*.lock` beside it is locked meanwhile. Where a file system cannot lock, nothing is.
    poll_s
        Seconds between two looks at a process that should end.
    remind_s
        Seconds between two lines that say that this still waits.
    """
    path = result.with_suffix(".lock")
    try:
        held = _held(path, result, poll_s, remind_s)
    except OSError as problem:
        log(f"{path} cannot be locked ({problem}); should a job of an earlier run still make {result}, end it")
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before it is free, so that nobody locks it who would not find it
        os.close(held)


def _held(path: Path, result: Path, poll_s: float, remind_s: float) -> int:
    """Descriptor of the locked file; waits until there is no other holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    due = time.monotonic() + 1.0  # what is asked to end does so sooner, for the most part
    asked: set[int] = set()
    while (descriptor := _locked(path)) is None:
        pid, host = _holder(path)
        if pid not in asked and host == platform.node() and _makes(pid, result):
            log(f"process {pid} of an earlier run still makes {result}; it is asked to end")
            asked.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        elif (now := time.monotonic()) >= due:
            log(f"waiting for process {pid} on {host or 'an unknown machine'}, which makes {result}; end it if it should not")
            due = now + remind_s
        time.sleep(poll_s)
    os.write(descriptor, f"{platform.node()}\n".encode())
    return descriptor


def _locked(path: Path) -> int | None:
    """Descriptor of the file, locked for this process; None where another holds it, or has deleted it meanwhile."""
    descriptor = lock(path)
    if descriptor is None:
        return None
    try:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


def _holder(path: Path) -> tuple[int, str]:
    """Process and machine that a lock names; 0 and nothing where it names none yet."""
    try:
        pid, host = path.read_text().split()
        return int(pid), host
    except (OSError, ValueError):
        return 0, ""


def _makes(pid: int, result: Path) -> bool:
    """Whether a process is at work on a result, by its command line: the number may be that of a stranger by now."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        folder = Path(f"/proc/{pid}/cwd").resolve(strict=True)
    except OSError:
        return False
    return any(folder / os.fsdecode(word) == result.absolute() for word in words)
