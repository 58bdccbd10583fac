"""The real workflow on a data set of seconds: run once, then copied for each test."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = {
    "dataset": "tiny",
    "synthetic": {"shape": [24, 24], "images": 24, "scans": 1, "blobs": 40},
    "volumes": {"wide": {"synthetic": [40, 88]}},
    "split": {"by": "image", "train": 0.25, "calibration": 0.5, "test": 0.25},
    "network": {"depth": 4, "width": 2, "radius_max": 5, "latent": 3, "head": 4},
    "ensemble": {"size": 2},
    "training": {"steps": 6, "batch": 2, "patch": 24},
    "tokens": {"count": 3, "components": 3, "sample": 400},
    "inference": {"jobs": 2, "memory_gb": 2, "tile": 32},
}


class Workflow:
    """A folder with a config in which Snakemake runs a copy of the project; what it has said, in fixtures."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.project = project
        self.said = ""

    def started(self) -> subprocess.Popen:
        """Snakemake at work, leader of a group of processes of its own."""
        options = {"cwd": self.folder, "env": self.environment, "start_new_session": True}
        return subprocess.Popen(self.command("--rerun-incomplete"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    def killed(self, verb: str, whom: str, delay_s: float) -> None:
        """
        Start Snakemake; a while after a job of a verb has begun, send SIGKILL to that `job`, to `snakemake` alone, or to `both`.

        Snakemake has ended when this returns, by itself or not; jobs of a Snakemake that was killed alone run on.
        """
        process = self.started()
        end = time.monotonic() + 300
        while not (jobs := running_jobs(process.pid, verb)):
            assert process.poll() is None, f"no job of {verb} has run"
            assert time.monotonic() < end, f"no job of {verb} runs"
            time.sleep(0.02)
        time.sleep(delay_s)
        if whom == "job":
            for job in jobs:
                with contextlib.suppress(psutil.NoSuchProcess):
                    job.kill()
        elif whom == "snakemake":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(300)
        self.run("--unlock")

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def configure(self, **changes) -> None:
        """Write the config with some sections changed: `calibration={"coverage": 0.8}`."""
        content = {**TINY, **{key: {**TINY.get(key, {}), **value} for key, value in changes.items()}}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(content))

    def command(self, *arguments: str) -> list[str]:
        """Snakemake in this folder."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.project / "Snakefile"), "--configfile", "config.yaml"]
        return [*command, "--cores", "2", "--nocolor", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        options = {"cwd": self.folder, "capture_output": True, "text": True, "env": self.environment}
        return subprocess.run(self.command(*arguments), timeout=900, check=False, **options)

    def finish(self, *arguments: str) -> str:
        done = self.run(*arguments)
        logs = [path.read_text()[-2000:] for path in self.folder.glob("logs/**/*.log")] if done.returncode else []
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:] + "\n".join(logs)
        return done.stdout + done.stderr

    def plan(self, *targets: str) -> Counter:
        """How many jobs of each rule Snakemake would run now, `all` left out."""
        text = self.finish("--dry-run", *targets)
        return Counter(name for name in re.findall(r"^(?:local)?rule (\w+):", text, re.MULTILINE) if name != "all")

    def copy(self, folder: Path) -> "Workflow":
        """The same results with all that Snakemake remembers about them."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workflow(folder, self.project)


def running_jobs(group: int, verb: str) -> list[psutil.Process]:
    """Processes of a group that run a verb of ours."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        with contextlib.suppress(ProcessLookupError):
            if words[1:4] == ["-m", "behindthenoise", verb] and os.getpgid(process.pid) == group:
                found.append(process)
    return found


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """What Snakemake needs of the project, copied elsewhere, so that an edit during the tests changes no fingerprint."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, copy)
    for name in ("workflow", "src", "envs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return copy


@pytest.fixture(scope="session")
def workflow_in(project):
    """A workflow in a new folder, with another project where it is given."""

    def workflow(folder: Path, code: Path = project) -> Workflow:
        folder.mkdir()
        return Workflow(folder, code)

    return workflow


@pytest.fixture(scope="session")
def finished(tmp_path_factory, project) -> Workflow:
    """A finished run; tests that change anything copy it."""
    workflow = Workflow(tmp_path_factory.mktemp("finished") / "run", project)
    workflow.folder.mkdir()
    workflow.configure()
    workflow.said = workflow.finish()
    return workflow


@pytest.fixture(scope="session")
def swept(tmp_path_factory, project) -> Workflow:
    """A finished sweep of two settings, and the member that one of them is; tests that change anything copy it."""
    workflow = Workflow(tmp_path_factory.mktemp("swept") / "run", project)
    workflow.folder.mkdir()
    workflow.configure(sweep={"network": {"depth": [3, 4]}, "repeats": 1})
    workflow.said = workflow.finish("sweep", "results/tiny/members/000/train.json")
    return workflow


@pytest.fixture
def fresh(tmp_path, project) -> Workflow:
    workflow = Workflow(tmp_path / "run", project)
    workflow.folder.mkdir()
    workflow.configure()
    return workflow


@pytest.fixture
def changed(finished, tmp_path) -> Workflow:
    return finished.copy(tmp_path / "run")
