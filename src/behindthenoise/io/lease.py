"""One GPU for each job on a machine with several and no scheduler: locks that the kernel frees when their holder ends."""

import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from glob import glob
from itertools import product
from pathlib import Path

from behindthenoise.errors import StoreError
from behindthenoise.io.record import log

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = "/dev/nvidia[0-9]*"
# A scheduler may number the GPUs of each of its jobs from 0, so that a number means something only within one of them.
ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


def gpus_here(environment: Mapping[str, str], *, devices: str = DEVICES) -> int:
    """
    GPUs that processes of this environment may use on this machine, found without loading what would use them; on Linux alone.

    Parameters
    ----------
    environment
        CUDA_VISIBLE_DEVICES in it names those of all that may be used.
    devices
        Pattern of the files that stand for GPUs.
    """
    found = len(glob(devices))
    return min(found, len(_named(environment[VISIBLE]))) if VISIBLE in environment else found


def _named(visible: str) -> list[str]:
    """Names of GPUs in CUDA_VISIBLE_DEVICES, in letters that files may have."""
    return [name for name in re.sub(r"[^\w.,-]", "_", visible.replace(" ", "")).split(",") if name]


def device_index(  # the last three are for tests
    count: int,
    environment: Mapping[str, str],
    *,
    sharers: int = 1,
    folder: Path | None = None,
    poll_s: float = 1.0,
    remind_s: float = 300.0,
) -> int | None:
    """
    Index of the GPU that this process may use until it ends, among those that it sees; None where it sees none.

    Where CUDA_VISIBLE_DEVICES names one GPU, a scheduler or a person has chosen, and it is that one. Elsewhere it is one of those
    that are named, or of all, that no other process of this user was given: this waits until there is one, and keeps it locked as
    long as the process lives. Asked again in the same way, it gives the same one.

    Parameters
    ----------
    count
        GPUs that this process sees.
    environment
        Environment of this process.
    sharers
        Processes that may share one GPU, this one among them, if all of them would share; GPUs without any are filled first.
    folder
        Where the locks are, this user's alone; made if absent, but not its parents. Without one it stands among the temporary
        files, so that jobs that differ in TMPDIR do not know of each other, nor do those of two allocations of a scheduler.
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
        names = _named(environment[VISIBLE])[:count]
        if len(names) < 2:
            return 0
    else:
        names = [str(index) for index in range(count)]
    allocation = next((f"-{environment[name]}" for name in ALLOCATIONS if environment.get(name)), "")
    usual = Path(tempfile.gettempdir(), f"behindthenoise-gpu-{os.geteuid()}{allocation}")
    return _leased(tuple(names), sharers, folder or usual, poll_s, remind_s)


@cache  # a process that asks again would otherwise take a second GPU, or wait for itself
def _leased(names: tuple[str, ...], sharers: int, folder: Path, poll_s: float, remind_s: float) -> int:
    """Index of a GPU that is locked for this process; waits for one."""
    start = due = time.monotonic()
    try:
        _make_private(folder)
        while (index := _taken(names, sharers, folder)) is None:
            now = time.monotonic()
            if now >= due:
                waited = f"{now - start:.0f} s so far"
                log(f"waiting for one of {len(names)} GPUs that other jobs hold, {waited}; {folder} has their pids")
                due = now + remind_s
            time.sleep(poll_s)
    except OSError as problem:
        raise StoreError(
            f"folder {folder} cannot hold locks on GPUs ({problem}); set TMPDIR to a folder on a local disk that you may write to, "
            f"or {VISIBLE} to the GPU to use"
        ) from problem
    return index


def _taken(names: tuple[str, ...], sharers: int, folder: Path) -> int | None:
    """Index of the first GPU that could be locked; None where none is free."""
    if sharers == 1:
        return next((index for index, name in enumerate(names) if lock(folder / f"{name}.lock") is not None), None)
    for place, (index, name) in product(range(sharers), enumerate(names)):
        held = lock(folder / f"{name}.{place}.lock")
        if held is None:
            continue
        if lock(folder / f"{name}.lock", shared=True) is not None:
            return index
        os.close(held)
    return None


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


def lock(path: Path, *, shared: bool = False, mode: int = 0o600) -> int | None:
    """
    Descriptor of a file that is now locked for this process, or for those that share it; None where others hold it.

    The descriptor is left open: the kernel closes it, and so frees the lock, in whatever way the process ends. Programs that it
    starts do not keep the lock alive, because descriptors of Python are not inheritable (PEP 446).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    if not shared:
        # for people to read, and not worth an error; the number of an ended process stays until the next one takes its place
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
