import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from behindthenoise.io.exclusive import exclusive

# Works on a result until its input ends; what it is named by stands in its command line, as in that of a job.
JOB = """
import signal, sys
from pathlib import Path
from behindthenoise.errors import StoppedError
from behindthenoise.io.exclusive import exclusive
def end(*_):
    Path(sys.argv[1]).write_text("saved")
    sys.exit(2)
signal.signal(signal.SIGTERM, end)
try:
    with exclusive(Path(sys.argv[1] if len(sys.argv) == 2 else sys.argv[2])):
        print("works", flush=True)
        sys.stdin.read()
except StoppedError as problem:
    sys.exit(f"stopped: {problem}")
"""
# It takes the lock for its own, by number, as numbers of two containers may be alike.
NAMESAKE = """
import os
from pathlib import Path
pid, host, since = Path("train.json.lock").read_text().split()
Path("train.json.lock").write_text(f"{os.getpid()} {host} {since}")
"""
# A program of that name that starts another one and waits for it.
SNAKEMAKE = (sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[2:])", "/usr/bin/snakemake")
# What can write no byte into a file.
ON_A_FULL_DISK = ("bash", "-c", "ulimit -f 0; trap '' XFSZ; exec \"$@\"", "limited")
WAIT_S = 20


@pytest.fixture
def start(tmp_path):
    jobs = []

    def started(*arguments, above=(), code=JOB):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        jobs.append(subprocess.Popen([*above, sys.executable, "-c", code, *arguments], text=True, cwd=tmp_path, **pipes))
        return jobs[-1]

    yield started
    for job in jobs:
        job.kill()
        with job:  # closes the pipes
            pass


def working(job):
    assert job.stdout.readline() == "works\n", job.stderr.read()
    return job


def named(lock):
    """Process, machine and beginning that a lock names."""
    pid, host, since = lock.read_text().split()
    return int(pid), host, float(since)


def test_nothing_is_left_when_the_work_is_done_or_has_failed(tmp_path, capsys):
    before = time.time()
    with exclusive(tmp_path / "new/train.json"):
        pid, host, since = named(tmp_path / "new/train.json.lock")
        assert (pid, host) == (os.getpid(), platform.node())
        assert before <= since <= time.time()
    with pytest.raises(ValueError, match="failed"), exclusive(tmp_path / "new/train.json"):
        raise ValueError("failed")
    assert list((tmp_path / "new").iterdir()) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("relative", [True, False])
def test_a_job_of_an_earlier_run_makes_way(tmp_path, start, capsys, relative):
    result = tmp_path / "train.json"
    former = working(start("train.json" if relative else str(result)))
    with exclusive(result):
        assert former.wait(WAIT_S) == 2
        assert result.read_text() == "saved", "this begins after what the former one does at its end"
    assert f"process {former.pid} of an earlier run still makes {result}; it is asked to end" in capsys.readouterr().err


def test_of_many_the_youngest_is_left(tmp_path, start):
    """Whoever gets the lock between: those that are older are asked to end, or end by themselves."""
    jobs = [start("train.json") for _ in range(5)]
    deadline = time.monotonic() + 2 * WAIT_S
    while sum(job.poll() is None for job in jobs) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (last,) = (job for job in jobs if job.poll() is None)
    # one that is asked before it has learned to answer ends as any process
    assert {job.returncode for job in jobs} <= {None, 1, 2, -signal.SIGTERM}
    assert all("Traceback" not in job.stderr.read() for job in jobs if job is not last)
    working(last)
    assert named(tmp_path / "train.json.lock")[0] == last.pid


def test_a_job_that_was_left_behind_ends_where_a_younger_one_works(tmp_path, start):
    younger, lock = working(start("train.json")), tmp_path / "train.json.lock"
    pid, host, since = named(lock)
    lock.write_text(f"{pid}\n{host}\n{since + 1000}\n")
    said = start("train.json").communicate(timeout=WAIT_S)[1]
    assert f"stopped: process {pid} on {host} makes train.json for a later run" in said
    assert younger.poll() is None


def test_a_job_that_snakemake_waits_for_is_not_asked_to_end_until_it_is_left_behind(tmp_path, start):
    """Snakemake would take its end for a failure, and delete files that are those of the next one by then."""
    snakemake = working(start("train.json", above=SNAKEMAKE))
    job, host, _ = named(tmp_path / "train.json.lock")
    assert job != snakemake.pid
    heir = start("train.json")
    assert f"waiting for process {job} on {host}, which makes train.json" in heir.stderr.readline()
    assert not (tmp_path / "train.json").exists()
    snakemake.kill()
    assert f"process {job} of an earlier run still makes train.json; it is asked to end" in heir.stderr.readline()
    working(heir)
    assert (tmp_path / "train.json").read_text() == "saved"


def test_who_has_the_number_of_another_container_does_not_end_itself(start):
    former = working(start("train.json"))
    heir = start("train.json", code=NAMESAKE + JOB)
    assert f"waiting for process {heir.pid} on {platform.node()}" in heir.stderr.readline()
    former.stdin.close()
    working(heir)


def test_what_a_killed_job_has_left_is_no_lock(tmp_path, start, capsys):
    former = working(start("train.json"))
    former.kill()
    former.wait(WAIT_S)
    assert (tmp_path / "train.json.lock").exists()
    with exclusive(tmp_path / "train.json"):
        pass
    assert not (tmp_path / "train.json.lock").exists()
    assert capsys.readouterr().err == ""


def test_a_stranger_is_not_asked_to_end(tmp_path, start):
    """It holds the lock, but its command line does not name the result: who knows whether the number is still its own."""
    stranger = working(start("other.json", str(tmp_path / "sub/../train.json")))
    heir = start("train.json")
    assert f"waiting for process {stranger.pid} on {platform.node()}, which makes train.json" in heir.stderr.readline()
    assert stranger.poll() is None
    stranger.stdin.close()
    working(heir)
    assert stranger.wait(WAIT_S) == 0


def test_a_job_on_another_machine_is_waited_for(tmp_path, start):
    former, lock = working(start("train.json")), tmp_path / "train.json.lock"
    lock.write_text(f"{former.pid}\nanother-node\n{named(lock)[2]}\n")
    heir = start("train.json")
    assert f"waiting for process {former.pid} on another-node" in heir.stderr.readline()
    assert former.poll() is None
    former.stdin.close()
    working(heir)


def test_the_lock_of_another_is_not_deleted(tmp_path, start):
    """Who deletes a folder of results under a job deletes its lock; the next one has its own."""
    former, lock = working(start("train.json")), tmp_path / "train.json.lock"
    lock.unlink()
    heir = working(start("train.json"))
    former.stdin.close()
    assert former.wait(WAIT_S) == 0
    assert named(lock)[0] == heir.pid


def test_on_a_full_disk_the_lock_holds_without_names(tmp_path, start):
    nameless = working(start("train.json", above=ON_A_FULL_DISK))
    assert (tmp_path / "train.json.lock").read_text() == ""
    heir = start("train.json")
    assert "waiting for another process, which makes train.json" in heir.stderr.readline()
    nameless.stdin.close()
    working(heir)


def test_where_nothing_can_be_locked_the_work_is_done_all_the_same(tmp_path, capsys):
    (tmp_path / "train.json.lock").mkdir()
    with exclusive(tmp_path / "train.json"):
        (tmp_path / "train.json").write_text("made")
    assert "cannot be locked" in capsys.readouterr().err
