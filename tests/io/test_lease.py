import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from behindthenoise.errors import StoreError
from behindthenoise.io.lease import ALLOCATIONS, VISIBLE, device_index, gpus_here

# Says which GPU it has, and ends when its input does.
JOB = """
import os, sys
from behindthenoise.io.lease import device_index
sharers = int(os.environ.get("SHARERS", "1"))
print(device_index(int(sys.argv[1]), os.environ, sharers=sharers, poll_s=0.01, remind_s=float(sys.argv[2])), flush=True)
sys.stdin.read()
"""
# It starts a program that shares its input, and so outlives it where it is killed.
PARENT = JOB.replace("sys.stdin", "import subprocess; print(subprocess.Popen(['cat'], close_fds=False).pid, flush=True); sys.stdin")
PATIENCE_S = 20.0


class Job:
    """A process with a fake number of GPUs, and a folder of its own or shared for temporary files."""

    def __init__(self, temporary, count=4, *, code=JOB, remind_s=1000.0, **environment):
        inherited = {key: value for key, value in os.environ.items() if key not in (VISIBLE, *ALLOCATIONS)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(count), str(remind_s)],
            bufsize=0,  # what was read ahead would be hidden from `select`
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**inherited, "TMPDIR": str(temporary), **environment},
        )

    @property
    def index(self):
        return self.line(self.process.stdout)

    @property
    def logged(self):
        return self.line(self.process.stderr)

    def line(self, stream):
        assert select.select([stream], [], [], PATIENCE_S)[0], "the job says nothing"
        return stream.readline().decode().strip()

    def has_a_gpu_within(self, seconds):
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def end(self):
        """End in the regular way; what it had logged and nobody had read."""
        return self.process.communicate(timeout=PATIENCE_S)[1].decode()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    jobs = []

    def started(temporary=tmp_path, *arguments, **options):
        jobs.append(Job(temporary, *arguments, **options))
        return jobs[-1]

    yield started
    for job in jobs:
        job.process.kill()
        with job.process:  # closes the pipes
            pass


def locks(temporary, allocation=""):
    return temporary / f"behindthenoise-gpu-{os.geteuid()}{allocation}"


def test_jobs_at_the_same_time_get_different_gpus(start):
    jobs = [start() for _ in range(4)]
    assert sorted(job.index for job in jobs) == ["0", "1", "2", "3"]
    assert [job.end() for job in jobs] == [""] * 4


def test_one_job_too_many_waits_until_another_ends_and_says_so_once(start):
    jobs = {job.index: job for job in [start() for _ in range(4)]}
    late = start()
    assert re.fullmatch(r"\d\d:\d\d:\d\d waiting for one of 4 GPUs that other jobs hold, 0 s so far; .*", late.logged)
    assert not late.has_a_gpu_within(0.2)
    jobs["2"].end()
    assert late.index == "2"
    assert late.end() == ""


def test_a_job_that_waits_long_says_so_again(start):
    assert start(count=1).index == "0"
    late = start(count=1, remind_s=0.05)
    assert all("waiting for one of 1 GPUs" in late.logged for _ in range(3))


def test_the_gpu_of_a_killed_job_is_free_at_once(start):
    jobs = {job.index: job for job in [start() for _ in range(4)]}
    jobs["1"].kill()
    heir = start()
    assert heir.index == "1"
    assert heir.end() == ""


def test_a_program_that_outlives_its_job_keeps_no_gpu(start):
    parent = start(code=PARENT)
    assert parent.index == "0"
    child = int(parent.line(parent.process.stdout))
    parent.kill()
    assert start().index == "0"
    os.kill(child, 0)  # it still runs


def test_a_job_that_asks_again_keeps_its_gpu(start):
    twice = start(count=1, code=f"{JOB.replace('sys.stdin.read()', '')}{JOB}")
    assert (twice.index, twice.index) == ("0", "0")


def test_folders_of_two_users_do_not_clash(start, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    assert [start(tmp_path / name, count=1).index for name in ("one", "other")] == ["0", "0"]


def test_a_lock_is_its_users_alone_and_names_its_holder(start, tmp_path):
    for _ in range(2):  # the second time, over a longer line of an ended process
        job = start()
        assert job.index == "0"
        lock = locks(tmp_path) / "0.lock"
        assert lock.read_text() == f"{job.process.pid}\n"
        assert (locks(tmp_path).stat().st_mode & 0o777, lock.stat().st_mode & 0o777) == (0o700, 0o600)
        job.end()
        lock.write_text("a number with many digits\n")


@pytest.mark.parametrize("chosen", ["3", "", "GPU-8f2c"])
def test_a_gpu_that_was_chosen_by_others_is_not_locked(start, tmp_path, chosen):
    assert start(**{VISIBLE: chosen}).index == "0"
    assert not locks(tmp_path).exists()


@pytest.mark.parametrize("named", ["4,5,6,7", "GPU-8f2c,GPU-77aa,GPU-01,MIG-GPU-9/1/0", " 3, 2,1,0"])
def test_jobs_choose_among_the_gpus_that_are_named(start, named):
    jobs = [start(**{VISIBLE: named}) for _ in range(4)]
    assert sorted(job.index for job in jobs) == ["0", "1", "2", "3"]
    assert not start(**{VISIBLE: named}).has_a_gpu_within(0.2)


def test_a_gpu_is_the_same_by_whatever_list_it_was_found(start):
    whole = start(count=3)
    assert whole.index == "0"
    assert start(count=2, **{VISIBLE: "0,2"}).index == "1"  # the device 2, as 0 is taken
    assert start(count=3).index == "1"
    assert not start(count=3).has_a_gpu_within(0.2)


def test_gpus_that_do_not_exist_are_not_counted(start):
    # CUDA sees the devices before the first that does not exist
    assert [start(count=1, **{VISIBLE: "1,-1,2"}).index for _ in range(2)] == ["0", "0"]


@pytest.mark.parametrize("variable", ALLOCATIONS)
def test_two_allocations_of_a_scheduler_may_number_their_gpus_alike(start, tmp_path, variable):
    jobs = [start(count=2, **{VISIBLE: "0,1", variable: allocation}) for allocation in ("71", "71", "72", "72")]
    assert sorted(job.index for job in jobs) == ["0", "0", "1", "1"]
    assert locks(tmp_path, "-71").is_dir() and locks(tmp_path, "-72").is_dir()


def test_jobs_that_share_fill_empty_gpus_first(start):
    first = {job.index: job for job in [start(count=2, SHARERS="2") for _ in range(2)]}
    assert sorted(first) == ["0", "1"]
    second = [start(count=2, SHARERS="2") for _ in range(2)]
    assert sorted(job.index for job in second) == ["0", "1"]
    late = start(count=2, SHARERS="2")
    assert not late.has_a_gpu_within(0.2)
    first["1"].kill()
    assert late.index == "1"


def test_a_job_that_does_not_share_waits_for_a_gpu_of_its_own(start):
    sharing = [start(count=1, SHARERS="2") for _ in range(2)]
    assert [job.index for job in sharing] == ["0", "0"]
    alone = start(count=1)
    sharing[0].end()
    assert not alone.has_a_gpu_within(0.2)
    sharing[1].end()
    assert alone.index == "0"
    assert not start(count=1, SHARERS="2").has_a_gpu_within(0.2)


@pytest.mark.parametrize("environment", [{}, {VISIBLE: ""}, {VISIBLE: "0"}])
def test_without_gpus_nothing_is_locked(start, tmp_path, environment):
    assert start(count=0, **environment).index == "None"
    assert not locks(tmp_path).exists()


@pytest.mark.parametrize("target", ["folder", "absent"])
def test_a_linked_folder_is_refused(tmp_path, target):
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to(tmp_path / target)
    with pytest.raises(StoreError, match=r"locks is a link or a file; .* delete it, or set TMPDIR"):
        device_index(4, {}, folder=tmp_path / "locks")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    folder = tmp_path / "locks"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
    else:
        folder = Path(os.sep)
    with pytest.raises(StoreError, match=r"belongs to user \d+; .* delete it, or set TMPDIR"):
        device_index(4, {}, folder=folder)


def test_a_folder_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(0o770)
    with pytest.raises(StoreError, match=r"locks is open to others \(mode 770\); .* delete it, or set TMPDIR"):
        device_index(4, {}, folder=tmp_path / "locks")
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_place_that_cannot_hold_locks_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"locks cannot hold locks on GPUs \(.*No such file.*\); set TMPDIR"):
        device_index(4, {}, folder=tmp_path / "absent" / "locks")


@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("1", 1), ("0,2", 2), ("", 0), (" 0, 1,2 ,3", 3), ("GPU-8f2c", 1)])
def test_gpus_are_counted_without_loading_what_uses_them(tmp_path, visible, count):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environment = {} if visible is None else {VISIBLE: visible}
    assert gpus_here(environment, devices=str(tmp_path / "nvidia[0-9]*")) == count
    assert gpus_here(environment, devices=str(tmp_path / "none*")) == 0
