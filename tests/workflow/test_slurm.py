"""A run on a real SLURM with invented GPUs: who gets which, what a failure costs, and the same results as without a cluster."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# A folder with start_slurm.sh and stop_slurm.sh, which bring up a SLURM of several nodes on this machine, and fastpoll.py, a
# Snakemake that asks it every second.
SLURM = Path(os.environ.get("BTN_SLURM", ROOT.parent / "shared" / "slurm"))
MEMBERS = SHARDS = 8
CONFIG = {
    "dataset": "tiny",
    "synthetic": {"shape": [24, 64], "images": 24, "scans": 1, "blobs": 40},
    "split": {"by": "image", "train": 0.25, "calibration": 0.5, "test": 0.25},
    "network": {"depth": 4, "width": 2, "radius_max": 5, "latent": 3, "head": 4},
    "ensemble": {"size": MEMBERS},
    "training": {"steps": 6, "batch": 2, "patch": 24, "memory_gb": 1},
    "tokens": {"count": 3, "components": 3, "sample": 400},
    "inference": {"jobs": SHARDS, "memory_gb": 1, "tile": 16},
}
CANCELLED, BROKEN = "002", "005"
# Takes the place of `python -m behindthenoise`, which is no part of a fingerprint: notes what each job is given, makes one training
# slow enough to be cancelled, and one prediction fail. Both are as ever when they are tried again.
NOTING = f"""
import json, os, sys, time
from pathlib import Path
from behindthenoise import cli

words, journal = sys.argv[1:], Path(os.environ["BTN_JOURNAL"])
member = next((part for word in words for part in Path(word).parts if part.isdigit() and len(part) == 3), "")
first = not list(journal.glob(f"{{words[0]}}-{{member}}-*.json"))
given = {{key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURMD_NODENAME")}}
note = journal / f"{{words[0]}}-{{member}}-{{os.getpid()}}.json"
facts = dict(given, verb=words[0], member=member, start=time.time())
note.write_text(json.dumps(facts))
if first and (words[0], member) == ("predict", "{BROKEN}"):
    sys.exit(7)
if first and (words[0], member) == ("train", "{CANCELLED}"):
    from behindthenoise.run import train
    told = train.tell
    train.tell = lambda row, steps: (told(row, steps), time.sleep(3))
status = cli.main()
note.write_text(json.dumps(dict(facts, status=status, end=time.time())))
sys.exit(status)
"""

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A folder with Snakemake's plugin for SLURM, which is no part of the environment: it makes every start of Snakemake slower."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is not None:
        return ""
    (requirement,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["slurm"]
    folder = str(tmp_path_factory.mktemp("plugin"))
    wanted = [requirement, "snakemake-executor-plugin-slurm-jobstep"]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the plugin for SLURM cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def cluster():
    """A SLURM that is up; one that was down before is taken down afterwards."""
    if not (SLURM / "start_slurm.sh").exists():
        pytest.skip("there is no SLURM to test with: BTN_SLURM names no folder with a start_slurm.sh")
    was_up = shutil.which("squeue") and not subprocess.run(["squeue"], capture_output=True, check=False, timeout=60).returncode
    done = subprocess.run(["bash", SLURM / "start_slurm.sh"], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        pytest.skip(f"SLURM cannot be started: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    yield
    if not was_up:
        subprocess.run(["bash", SLURM / "stop_slurm.sh", "--purge"], capture_output=True, check=True, timeout=120)


class Run:
    """A folder in which the project's copy runs, with the notes of its jobs."""

    def __init__(self, folder, project, plugin=""):
        self.folder, self.project, self.journal = folder, project, folder / "journal"
        self.journal.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        self.environment = {**os.environ, "BTN_JOURNAL": str(self.journal), "XDG_CACHE_HOME": str(folder / "cache")}
        self.environment["PYTHONPATH"] = plugin

    def start(self, launcher, *arguments):
        command = [sys.executable, *launcher, "--snakefile", str(self.project / "Snakefile"), "--configfile", "config.yaml"]
        with (self.folder / "said").open("w") as said:
            return subprocess.Popen(
                [*command, "--nocolor", *arguments], cwd=self.folder, stdout=said, stderr=said, env=self.environment
            )

    def said(self):
        return (self.folder / "said").read_text()

    def log(self, name):
        path = self.folder / "logs" / "tiny" / name
        return path.read_text() if path.exists() else ""

    def notes(self, verb, member=None):
        found = [json.loads(path.read_text()) for path in self.journal.glob(f"{verb}-*.json") if path.stat().st_size]
        return sorted((note for note in found if member in (None, note["member"])), key=lambda note: note["start"])

    def digests(self):
        """What the manifests say of what was made; the store of raw results has a random identity, which names its records."""
        results, found = self.folder / "results" / "tiny", {}
        for path in results.rglob("*.json"):
            if not path.name.endswith((".run.json", "zarr.json", "run.json")) and not {"report", "shards"} & set(path.parts):
                found[str(path.relative_to(results))] = without_instance(json.loads(path.read_text()))
        return found


def without_instance(content):
    return {key: value for key, value in content.items() if key not in ("instance", "created")}


@pytest.fixture(scope="module")
def noting(project, tmp_path_factory):
    """The project with a command that takes notes."""
    copy = tmp_path_factory.mktemp("noting") / "project"
    shutil.copytree(project, copy)
    shutil.copytree(ROOT / "profiles", copy / "profiles")
    (copy / "src/behindthenoise/__main__.py").write_text(NOTING)
    return copy


@pytest.fixture(scope="module")
def on_slurm(cluster, plugin, noting, tmp_path_factory):
    """A finished run on SLURM, in which one training was cancelled and one prediction failed."""
    run = Run(tmp_path_factory.mktemp("slurm") / "run", noting, plugin)
    options = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]
    process = run.start([str(SLURM / "fastpoll.py")], "--workflow-profile", str(noting / "profiles/slurm"), *options)
    try:
        deadline = time.monotonic() + 600
        while not re.search(r"step [23]/6", run.log(f"train/{CANCELLED}.log")):
            assert process.poll() is None and time.monotonic() < deadline, run.said()[-4000:]
            time.sleep(0.2)
        subprocess.run(["scancel", run.notes("train", CANCELLED)[0]["SLURM_JOB_ID"]], check=True)
        assert process.wait(timeout=900) == 0, run.said()[-4000:]
    finally:
        if process.poll() is None:
            process.terminate()
            subprocess.run(["scancel", "--user", str(os.geteuid())], check=False)
            process.wait(timeout=120)
    return run


@pytest.fixture(scope="module")
def at_home(noting, tmp_path_factory):
    """The same run on this machine alone."""
    run = Run(tmp_path_factory.mktemp("home") / "run", noting)
    (run.journal / f"train-{CANCELLED}-0.json").touch()  # nothing is slow, and nothing fails
    (run.journal / f"predict-{BROKEN}-0.json").touch()
    assert run.start(["-m", "snakemake"], "--cores", "2").wait(timeout=900) == 0, run.said()[-4000:]
    return run


def test_each_job_with_a_network_has_one_gpu_for_itself(on_slurm):
    for verb, count in {"train": MEMBERS, "predict": MEMBERS, "infer": SHARDS}.items():
        notes = on_slurm.notes(verb)
        assert len({note["SLURM_JOB_ID"] for note in notes}) == len(notes) >= count
        assert all(re.fullmatch(r"\d", note["CUDA_VISIBLE_DEVICES"]) for note in notes)
    done = [note for verb in ("train", "predict", "infer") for note in on_slurm.notes(verb) if "end" in note]
    together = [
        (one, other)
        for index, one in enumerate(done)
        for other in done[:index]
        if one["SLURMD_NODENAME"] == other["SLURMD_NODENAME"] and max(one["start"], other["start"]) < min(one["end"], other["end"])
    ]
    assert together, "no two jobs ran on one node at the same time"
    assert all(one["CUDA_VISIBLE_DEVICES"] != other["CUDA_VISIBLE_DEVICES"] for one, other in together)


def test_jobs_without_a_network_have_no_gpu(on_slurm):
    for verb in ("ingest", "average", "embed", "calibrate", "finish", "report"):
        (note,) = on_slurm.notes(verb)
        assert note["CUDA_VISIBLE_DEVICES"] is None and note["SLURM_JOB_ID"]


def test_what_is_not_worth_a_job_runs_beside_snakemake(on_slurm):
    assert {note["SLURM_JOB_ID"] for verb in ("wire", "plan") for note in on_slurm.notes(verb)} == {None}


def test_rules_that_follow_each_other_share_a_job(on_slurm):
    job = {verb: on_slurm.notes(verb)[0]["SLURM_JOB_ID"] for verb in ("embed", "tokenize", "label", "survey", "gather", "report")}
    assert job["embed"] == job["tokenize"] != job["label"] == job["survey"]
    assert job["gather"] == job["report"]


def test_a_job_that_failed_is_tried_again_with_more_memory(on_slurm):
    broken, mended = on_slurm.notes("predict", BROKEN)
    assert broken["SLURM_JOB_ID"] != mended["SLURM_JOB_ID"] and "status" not in broken and mended["status"] == 0
    asked = re.findall(rf"rule predict:(?:(?!\nrule).)*?members/{BROKEN}/.*?mem_mb=(\d+)", on_slurm.said(), re.DOTALL)
    assert {"3000", "6000"} <= set(asked)


def test_a_training_that_was_cancelled_goes_on_where_it_was(on_slurm):
    first, second = on_slurm.notes("train", CANCELLED)
    assert first["SLURM_JOB_ID"] != second["SLURM_JOB_ID"]
    (step,) = re.findall(r"goes on from .*checkpoint\.safetensors at step (\d)", on_slurm.log(f"train/{CANCELLED}.log"))
    assert 2 <= int(step) < 6


def test_every_other_job_ran_once(on_slurm):
    counts = Counter((note["verb"], note["member"]) for verb in ("train", "predict") for note in on_slurm.notes(verb))
    assert {key for key, count in counts.items() if count > 1} == {("train", CANCELLED), ("predict", BROKEN)}


def test_the_results_are_those_of_one_machine(on_slurm, at_home):
    there, here = on_slurm.digests(), at_home.digests()
    assert there.keys() == here.keys()
    assert len([name for name in here if name.startswith("members/")]) == 3 * MEMBERS
    assert len([name for name in here if name.startswith("volumes/field/jobs/")]) == SHARDS
    for name, content in here.items():
        assert there[name] == content, name
