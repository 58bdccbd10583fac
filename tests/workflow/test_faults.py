"""Kills, a full disk, a folder that cannot be written and a damaged file: nothing is lost, and the results are the same bytes."""

import json
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import time
from collections import Counter
from contextlib import contextmanager
from itertools import chain

import numpy as np
import psutil
import pytest

from behindthenoise import cli

pytestmark = [pytest.mark.workflow, pytest.mark.slow]
SHAPE = [320, 1152]  # 27 shards of 4 x 4 tiles: some seconds of computing
FINISHED = "results/tiny/volumes/more/finish.json"
JOBS = ("infer 1-of-2", "infer 2-of-2")


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory):
    """A finished run with one more volume, of many shards."""
    workflow = finished.copy(tmp_path_factory.mktemp("undisturbed") / "run")
    workflow.configure(volumes={"more": {"synthetic": SHAPE}})
    workflow.finish()
    assert len(records(workflow)) == 27
    return workflow


@pytest.fixture(scope="module")
def commands(undisturbed):
    """What Snakemake runs for each job of the volume, by verb and share."""
    text = undisturbed.finish("--dry-run", "--printshellcmds", "--forcerun", "plan", "--", FINISHED)
    found = {}
    for command in re.findall(r"Shell command: python -m behindthenoise (.*) > \S+ 2>&1", text):
        share = re.search(r"--share (\S+)", command)
        found[command.split()[0] + (f" {share[1]}" if share else "")] = command
    assert set(found) == {"plan", "finish", *JOBS}
    return found


@pytest.fixture
def emptied(undisturbed, tmp_path):
    """The volume planned again, and nothing of it computed."""
    workflow = undisturbed.copy(tmp_path / "run")
    for name in ("shards", "jobs", *(f"quantiles.zarr/{array}/c" for array in ("quantiles", "spread", "embedding"))):
        shutil.rmtree(volume(workflow) / name)
    unfinished(workflow)
    return workflow


def unfinished(workflow):
    """As if `finish` had never run."""
    shutil.rmtree(workflow.results / "volumes/more.ome.zarr")
    for name in ("finish.json", "finish.run.json", "shift.json"):
        (volume(workflow) / name).unlink()


def volume(workflow):
    return workflow.results / "volumes/more"


def records(workflow):
    """When each shard was finished."""
    return {path: path.stat().st_mtime_ns for path in (volume(workflow) / "shards").glob("*.json")}


def instance(workflow):
    return json.loads((volume(workflow) / "quantiles.zarr/zarr.json").read_text())["attributes"]["instance"]


def contents(workflow):
    """Bytes of all results of the volume and of the tables; of a store's instance, which is random, only where it stands."""
    folders = volume(workflow), workflow.results / "volumes/more.ome.zarr", workflow.results / "evaluation"
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".run.json")]
    token = instance(workflow).encode()
    # names of the records of shards tell for which store and networks they are
    names = {path: re.sub(r"\.[0-9a-f]{16}\.json$", ".json", str(path.relative_to(workflow.results))) for path in files}
    return {name: path.read_bytes().replace(token, b"") for path, name in names.items()}


def expect_same(workflow, undisturbed):
    """The same files with the same bytes, and nothing that a kill cut off while it was written."""
    found, expected = contents(workflow), contents(undisturbed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def arguments(command, workflow):
    """Words of a command, with its files in the folder of a workflow."""
    return [str(workflow.folder / word) if word.startswith("results/") else word for word in shlex.split(command)]


def alone(command, workflow):
    """Run one job to its end in this process; its exit status."""
    return cli.main(arguments(command, workflow))


@pytest.fixture(scope="module")
def server():
    """Starts processes that have imported everything, so that kills meet the work and not the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["behindthenoise.run.infer", "behindthenoise.run.finish"])
    return context


def started(server, command, workflow):
    process = server.Process(target=cli.main, args=(arguments(command, workflow),))
    process.start()
    return process


def wait_until(reached, alive, timeout_s=180.0):
    """Wait for something to happen, or for those who could make it happen to end."""
    end = time.monotonic() + timeout_s
    while not reached() and alive():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)


def killed(processes, reached, delay_s):
    """Kill processes a while after something has happened; how many had not ended by themselves."""
    wait_until(reached, lambda: any(process.is_alive() for process in processes))
    time.sleep(delay_s)
    for process in processes:
        process.kill()
        process.join()
    return sum(process.exitcode == -signal.SIGKILL for process in processes)


def test_jobs_that_are_killed_at_any_moment_lose_nothing(emptied, undisturbed, commands, server):
    random, kept, kills = np.random.default_rng(0), {}, Counter()
    for round_ in range(6):
        wanted = len(records(emptied)) + int(random.integers(0, 3))
        processes = [started(server, commands[job], emptied) for job in JOBS]
        delay_s = random.uniform(0, 0.4 if round_ == 0 else 0.1)
        kills["infer"] += killed(processes, lambda wanted=wanted: len(records(emptied)) >= wanted, delay_s)
        now = records(emptied)
        assert kept.items() <= now.items(), "what is finished is not computed again"
        kept = now
    assert 0 < len(kept) < 27
    for job in JOBS:
        assert alone(commands[job], emptied) == 0
    assert kept.items() <= records(emptied).items()

    target = emptied.results / "volumes/more.ome.zarr"
    for files in random.integers(1, 30, 5):
        reached = lambda files=files: sum(path.is_file() for path in target.rglob("*")) >= files  # noqa: E731
        shutil.rmtree(target, ignore_errors=True)
        kills["finish"] += killed([started(server, commands["finish"], emptied)], reached, random.uniform(0, 0.05))
        (volume(emptied) / "finish.json").unlink(missing_ok=True)
    assert (kills["infer"], kills["finish"] >= 4) == (12, True)
    assert alone(commands["finish"], emptied) == 0
    shutil.copy(volume(undisturbed) / "shift.json", volume(emptied))  # `compare` is not run here
    expect_same(emptied, undisturbed)


def kill_workflow(workflow, reached, delay_s):
    """SIGKILL for Snakemake and all its jobs a while after something has happened."""
    process = workflow.started()
    wait_until(reached, lambda: process.poll() is None)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before"
    wait_until(lambda: not members_of(process.pid), lambda: True, 20)


def members_of(group):
    """Living processes of a group."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def test_a_workflow_that_is_killed_goes_on_where_it_was(emptied, undisturbed):
    shutil.rmtree(volume(emptied) / "quantiles.zarr")
    random, target = np.random.default_rng(0), emptied.results / "volumes/more.ome.zarr/0/c"
    first, second = random.integers(2, 8), random.integers(10, 20)
    events = [lambda: len(records(emptied)) >= first, lambda: len(records(emptied)) >= second, target.exists]
    kept, instances = {}, set()
    for reached in events:
        kill_workflow(emptied, reached, random.uniform(0, 0.1))
        instances.add(instance(emptied))
        assert kept.items() <= records(emptied).items(), "what is finished is not computed again"
        kept = records(emptied)
        emptied.finish("--unlock")
    assert len(instances) == 1, "the store is not laid out anew"
    assert not (emptied.folder / FINISHED).exists()
    emptied.finish("--rerun-incomplete")
    assert kept.items() == records(emptied).items()
    expect_same(emptied, undisturbed)
    assert emptied.plan() == Counter()


@contextmanager
def full_disk(files_bytes=65536):
    """No file can grow larger, which writers notice as they notice a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (files_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def readied(workflow, undisturbed, commands, verb):
    """All that one verb needs; the commands of its jobs."""
    if verb != "finish":
        return [commands[job] for job in (JOBS if verb == "infer" else [verb])]
    shutil.copytree(volume(undisturbed), volume(workflow), dirs_exist_ok=True)
    (volume(workflow) / "finish.json").unlink()
    return [commands[verb]]


@pytest.mark.parametrize("verb", ["infer", "finish"])
def test_after_a_full_disk_a_job_goes_on(emptied, undisturbed, commands, verb):
    for command in readied(emptied, undisturbed, commands, verb):
        with full_disk():
            assert alone(command, emptied) == 2
    manifests = chain((volume(emptied) / "jobs").glob("?-of-2.json"), volume(emptied).glob("finish.json"))
    assert len(list(manifests)) == {"infer": 0, "finish": 2}[verb]
    for job in [*(JOBS if verb == "infer" else []), "finish"]:
        assert alone(commands[job], emptied) == 0
    shutil.copy(volume(undisturbed) / "shift.json", volume(emptied))
    expect_same(emptied, undisturbed)


@pytest.mark.parametrize("verb", ["infer", "finish"])
def test_a_full_disk_is_said_in_one_line(emptied, undisturbed, commands, verb, capsys):
    command = readied(emptied, undisturbed, commands, verb)[0]
    with full_disk():
        assert alone(command, emptied) == 2
    expect_one_line(capsys.readouterr().err, verb, "File too large|disk")


def expect_one_line(text, verb, cause):
    *before, last = text.splitlines()
    assert re.match(f"btn {verb}: error: .*({cause})", last)
    assert not any("Traceback" in line or "error" in line for line in before)


# what stands in the way: a file where a folder must be, as root may write into any folder
BLOCKED = {"plan": "more/quantiles.zarr", "infer": "more/shards", "finish": "more.ome.zarr"}


@pytest.fixture
def blocked(emptied, undisturbed, commands):
    """A workflow in which a verb cannot write, and the way to block it and to free it."""

    @contextmanager
    def block(verb):
        command = readied(emptied, undisturbed, commands, verb)[0]
        target = emptied.results / "volumes" / BLOCKED[verb]
        moved = target.with_name(target.name + ".moved")
        if target.exists():
            target.rename(moved)
        target.write_text("in the way")
        yield command
        assert target.read_text() == "in the way"
        target.unlink()
        if moved.exists():
            moved.rename(target)

    return block


@pytest.mark.parametrize("verb", BLOCKED)
def test_what_cannot_be_written_loses_nothing(emptied, undisturbed, commands, blocked, verb):
    with blocked(verb) as command:
        assert alone(command, emptied) == 2
    for job in {"plan": ["plan"], "infer": JOBS, "finish": ["finish"]}[verb]:
        assert alone(commands[job], emptied) == 0
    found, expected = contents(emptied), contents(undisturbed)
    done = {"plan": "quantiles.zarr/*/zarr.json", "infer": "jobs/*.json", "finish": "finish.json"}[verb]
    for path in volume(undisturbed).glob(done):
        name = str(path.relative_to(undisturbed.results))
        assert name.endswith(".run.json") or found[name] == expected[name]


@pytest.mark.parametrize("verb", BLOCKED)
def test_what_cannot_be_written_is_said_in_one_line(emptied, blocked, verb, capsys):
    with blocked(verb) as command:
        assert alone(command, emptied) == 2
    expect_one_line(capsys.readouterr().err, verb, BLOCKED[verb].rpartition("/")[2])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
@pytest.mark.parametrize("verb", ["infer", "finish"])
def test_a_read_only_folder_is_said_in_one_line(emptied, undisturbed, commands, verb, capsys):
    command = readied(emptied, undisturbed, commands, verb)[0]
    folders = [path for path in (emptied.results / "volumes").rglob("*") if path.is_dir()] + [emptied.results / "volumes"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert alone(command, emptied) == 2
    finally:
        for folder in folders:
            folder.chmod(0o755)
    expect_one_line(capsys.readouterr().err, verb, "Permission denied|cannot be written")


def test_a_truncated_file_is_named_and_the_advice_helps(undisturbed, tmp_path):
    workflow = undisturbed.copy(tmp_path / "run")
    unfinished(workflow)
    victim = volume(workflow) / "quantiles.zarr/spread/c/0/1/3"
    victim.write_bytes(victim.read_bytes()[:1000])
    before = {path: path.stat().st_mtime_ns for path in volume(workflow).glob("quantiles.zarr/**/c/**/*") if path.is_file()}
    assert workflow.run(FINISHED).returncode != 0
    (error,) = [line for line in (workflow.folder / "logs/tiny/finish/more.log").read_text().splitlines() if "error" in line]
    assert "the shard at 128,384 of" in error and "lost or damaged" in error
    (advised,) = re.findall(r"delete (\S+\.json) and run the workflow again", error)
    (workflow.folder / advised).unlink()
    assert workflow.plan(FINISHED) == {"infer": 1, "finish": 1}
    workflow.finish()
    share = re.search(r"\d-of-2", advised)[0]
    log = (workflow.folder / f"logs/tiny/infer/more/{share}.log").read_text()
    owned, finished = map(int, re.search(r"infer: (\d+) of 27 shards .*, (\d+) of them finished before", log).groups())
    assert owned - finished == 1
    changed = [path for path, changed_ns in before.items() if path.stat().st_mtime_ns != changed_ns]
    assert sorted(str(path.relative_to(volume(workflow) / "quantiles.zarr")) for path in changed) == [
        "embedding/c/0/1/3",
        "quantiles/c/0/0/1/3",
        "spread/c/0/1/3",
    ]
    expect_same(workflow, undisturbed)
