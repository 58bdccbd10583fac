"""One process for each result: jobs that a killed Snakemake has left behind make way for those of the next."""

import errno
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from behindthenoise.errors import StoppedError
from behindthenoise.io.lease import lock
from behindthenoise.io.record import log

SNAKEMAKE = b"snakemake"
LONGEST_PAUSE_S = 5.0


class Holder(NamedTuple):
    """Who works on a result, as its lock says: process, machine, and when it began (s since the epoch)."""

    pid: int
    host: str
    since: float


@contextmanager
def exclusive(result: Path, *, remind_s: float = 300.0) -> Iterator[None]:
    """
    Work on a result while no other process does.

    Snakemake lets no two of its own jobs make one file. But jobs outlive a Snakemake that was killed, may have other settings than
    those of the next one, and would write over what that makes. An older process of this machine that no Snakemake waits for is
    asked to end, which a training answers by saving its state; this goes on when it has ended. All others are waited for.

    Parameters
    ----------
    result
        A file that the work makes; `*.lock` beside it is locked meanwhile. Where a file system cannot lock, nothing is.
    remind_s
        Seconds between two lines that say that this still waits.

    Raises
    ------
    StoppedError
        If no Snakemake waits for this process, and a younger one is at work.
    """
    path, me = result.with_name(result.name + ".lock"), Holder(os.getpid(), platform.node(), time.time())
    try:
        held = _held(path, result, me, remind_s)
    except OSError as problem:
        log(f"{path} cannot be locked ({problem}); should a job of an earlier run still make {result}, end it")
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_at(held, path):
                path.unlink()  # before it is free, so that nobody locks it who would not find it
        os.close(held)


def _held(path: Path, result: Path, me: Holder, remind_s: float) -> int:
    """Descriptor of the locked file; waits until there is no other holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    due, pause = time.monotonic() + 1.0, 0.05  # what is asked to end does so sooner, for the most part
    asked: set[int] = set()
    while (descriptor := _locked(path)) is None:
        other = _holder(path)
        if other is not None and other.since > me.since and _is_left_behind(me.pid):
            raise StoppedError(
                f"process {other.pid} on {other.host} makes {result} for a later run; this one has nothing left to do"
            )
        if other is not None and other.pid not in asked and _may_be_asked(other, me, result):
            log(f"process {other.pid} of an earlier run still makes {result}; it is asked to end")
            asked.add(other.pid)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(other.pid, signal.SIGTERM)
        elif (now := time.monotonic()) >= due:
            who = f"process {other.pid} on {other.host}" if other is not None else "another process"
            log(f"waiting for {who}, which makes {result}; end it if it should not, or delete {path} if its machine is gone")
            due = now + remind_s
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_S)
    with suppress(OSError):  # a full disk; the names are for others to read
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{me.pid}\n{me.host}\n{me.since}\n".encode(), 0)
    return descriptor


def _locked(path: Path) -> int | None:
    """Descriptor of the file, locked for this process; None where another holds it, or has deleted it meanwhile."""
    try:
        descriptor = lock(path, mode=0o666)
    except OSError as problem:
        if problem.errno != errno.ESTALE:  # of NFS: deleted on another machine
            raise
        return None
    if descriptor is not None and not _is_at(descriptor, path):
        os.close(descriptor)
        return None
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that stands at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> Holder | None:
    """Who a lock names; None where it names nobody yet."""
    try:
        pid, host, since = path.read_text().split()
        return Holder(int(pid), host, float(since))
    except (OSError, ValueError):
        return None


def _may_be_asked(other: Holder, me: Holder, result: Path) -> bool:
    """
    Whether another process is one that an earlier run has left behind on this machine.

    It names the result in its command line, as numbers are given anew to strangers; numbers of another container may be one's own.
    """
    if other.host != me.host or other.pid == me.pid or other.since > me.since:
        return False
    try:
        folder = Path(f"/proc/{other.pid}/cwd").resolve(strict=True)
    except OSError:
        return False
    makes = any(folder / os.fsdecode(word) == result.absolute() for word in _command(other.pid))
    return makes and _is_left_behind(other.pid)


def _is_left_behind(pid: int) -> bool:
    """Whether no Snakemake is above a process; one that is would take its end for a failure, and delete what it makes."""
    while pid > 0:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False
        if any(os.path.basename(word) == SNAKEMAKE for word in _command(pid)):
            return False
        pid = int(status.split("PPid:")[1].split()[0])
    return True


def _command(pid: int) -> list[bytes]:
    """Words of the command line of a process; none where it has ended, or the system does not tell."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
