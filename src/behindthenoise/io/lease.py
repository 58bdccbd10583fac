"""One GPU for each job on a machine with several and no scheduler: locks that the kernel frees when their holder ends."""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from behindthenoise.errors import StoreError
from behindthenoise.io.record import log

VISIBLE = "CUDA_VISIBLE_DEVICES"


def device_index(
    count: int, environment: Mapping[str, str], *, folder: Path | None = None, poll_s: float = 1.0, remind_s: float = 300.0
) -> int | None:
    """
    Index of the GPU that this process may use until it ends, among those that it sees; None where it sees none.

    Where CUDA_VISIBLE_DEVICES is set, a scheduler or a person has chosen, and it is the first. Elsewhere it is one that no other
    process of this user was given: this waits until there is one, and keeps it locked as long as the process lives. Asked again,
    it gives the same one.

    Parameters
    ----------
    count
        GPUs that this process sees.
    environment
        Environment of this process.
    folder
        Where the locks are, this user's alone; made if absent, but not its parents. Without one it stands among the temporary
        files, so that jobs that differ in TMPDIR do not know of each other.
    poll_s
        Seconds between two looks for a free GPU.
    remind_s
        Seconds between two lines that say that this job still waits.

    Raises
    ------
    StoreError
        If the folder is not this user's alone, or cannot hold locks.
    """
    if count == 0:
        return None
    if VISIBLE in environment:
        return 0
    return _leased(count, folder or Path(tempfile.gettempdir(), f"behindthenoise-gpu-{os.geteuid()}"), poll_s, remind_s)


@cache  # a process that asks again would otherwise take a second GPU, or wait for itself
def _leased(count: int, folder: Path, poll_s: float, remind_s: float) -> int:
    """Index of a GPU that is locked for this process; waits for one."""
    start = due = time.monotonic()
    try:
        _make_private(folder)
        while (index := next((index for index in range(count) if _lock(folder / f"{index}.lock")), None)) is None:
            now = time.monotonic()
            if now >= due:
                log(f"waiting for one of {count} GPUs that other jobs hold, {now - start:.0f} s so far; {folder} has their pids")
                due = now + remind_s
            time.sleep(poll_s)
    except OSError as problem:
        raise StoreError(
            f"folder {folder} cannot hold locks on GPUs ({problem}); set TMPDIR to a folder on a local disk that you may write to, "
            f"or {VISIBLE} to the GPU to use"
        ) from problem
    return index


def _make_private(folder: Path) -> None:
    """Make a folder, or refuse one through which another user could reach or hold the locks."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is a link or a file"
    elif found.st_uid != os.geteuid():
        wrong = f"belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        wrong = f"is open to others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        return
    raise StoreError(f"{folder} {wrong}; locks on GPUs need a folder of this user alone: delete it, or set TMPDIR to another place")


def _lock(path: Path) -> bool:
    """
    Lock a file for this process if nobody holds it; true if that worked.

    The descriptor is left open: the kernel closes it, and so frees the lock, in whatever way the process ends. Programs that it
    starts do not keep the lock alive, because descriptors of Python are not inheritable (PEP 446).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    # for people to read; the number of an ended process stays until the next one takes its place
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return True
