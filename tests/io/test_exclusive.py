import os
import platform
import subprocess
import sys
import time

import pytest

from behindthenoise.io.exclusive import exclusive

# Works on a result until its input ends; what it is named by stands in its command line, as in that of a job.
JOB = """
import signal, sys
from pathlib import Path
from behindthenoise.io.exclusive import exclusive
def end(*_):
    Path(sys.argv[1]).write_text("saved")
    sys.exit(2)
signal.signal(signal.SIGTERM, end)
with exclusive(Path(sys.argv[1] if len(sys.argv) == 2 else sys.argv[2])):
    print("works", flush=True)
    sys.stdin.read()
"""
WAIT_S = 20


@pytest.fixture
def start(tmp_path):
    jobs = []

    def started(*arguments, cwd=tmp_path):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        jobs.append(subprocess.Popen([sys.executable, "-c", JOB, *arguments], text=True, cwd=cwd, **pipes))
        return jobs[-1]

    yield started
    for job in jobs:
        job.kill()
        with job:  # closes the pipes
            pass


def working(job):
    assert job.stdout.readline() == "works\n", job.stderr.read()
    return job


def test_nothing_is_left_when_the_work_is_done_or_has_failed(tmp_path, capsys):
    with exclusive(tmp_path / "new/train.json"):
        assert (tmp_path / "new/train.lock").read_text() == f"{os.getpid()}\n{platform.node()}\n"
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


def test_of_many_one_works_at_a_time(tmp_path, start):
    """Each asks the one that works to end, which deletes the lock that others wait for."""
    jobs = [start("train.json") for _ in range(4)]
    deadline = time.monotonic() + WAIT_S
    while sum(job.poll() == 2 for job in jobs) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (last,) = (job for job in jobs if job.poll() is None)
    working(last)
    assert int((tmp_path / "train.lock").read_text().split()[0]) == last.pid


def test_what_a_killed_job_has_left_is_no_lock(tmp_path, start, capsys):
    former = working(start("train.json"))
    former.kill()
    former.wait(WAIT_S)
    assert (tmp_path / "train.lock").exists()
    with exclusive(tmp_path / "train.json"):
        pass
    assert not (tmp_path / "train.lock").exists()
    assert capsys.readouterr().err == ""


def test_a_stranger_is_not_asked_to_end(tmp_path, start):
    """It holds the lock, but its command line does not name the result: who knows whether the number is still its own."""
    stranger = working(start("other.json", str(tmp_path / "sub/../train.json")))
    heir = start("train.json")
    line = heir.stderr.readline()
    assert f"waiting for process {stranger.pid} on {platform.node()}, which makes train.json" in line
    assert stranger.poll() is None
    stranger.stdin.close()
    working(heir)
    assert stranger.wait(WAIT_S) == 0


def test_a_job_on_another_machine_is_waited_for(tmp_path, start):
    former = working(start("train.json"))
    (tmp_path / "train.lock").write_text(f"{former.pid}\nanother-node\n")
    heir = start("train.json")
    assert f"waiting for process {former.pid} on another-node" in heir.stderr.readline()
    assert former.poll() is None
    former.stdin.close()
    working(heir)


def test_where_nothing_can_be_locked_the_work_is_done_all_the_same(tmp_path, capsys):
    (tmp_path / "train.lock").mkdir()
    with exclusive(tmp_path / "train.json"):
        (tmp_path / "train.json").write_text("made")
    assert "cannot be locked" in capsys.readouterr().err
