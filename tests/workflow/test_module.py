"""The workflow as a module of another, as docs/module.md shows it, and twice in one."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/module.md").read_text()
SMALL = {
    "network": {"depth": 3, "width": 2, "radius_max": 3, "latent": 2, "head": 4},
    "ensemble": {"size": 1},
    "training": {"steps": 2, "batch": 1, "patch": 16},
    "tokens": {"count": 2, "components": 2, "sample": 100},
    "inference": {"jobs": 1},
}
TWICE = """
for name in ("first", "second"):
    config[name] = config["my_sample"] | config[name]


rule all:
    input:
        "first/results/my_sample/report/report.html",
        "second/results/my_sample/report/report.html",


rule scan:
    output:
        fast=directory("data/fast.zarr"),
        slow="data/slow.npy",
    shell:
        "false"
"""
MODULE = """
module {name}:
    snakefile:
        "../behindthenoise/Snakefile"
    config:
        config["{name}"]
    prefix:
        "{name}"


use rule * from {name} as {name}_*
"""


class Outer:
    """A folder with a workflow beside the project."""

    def __init__(self, folder, project):
        self.folder = folder / "outer"
        self.folder.mkdir()
        (folder / "behindthenoise").symlink_to(project)
        (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        (config,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
        self.config = yaml.safe_load(config)
        self.config["my_sample"] |= SMALL
        self.write(example)

    def write(self, snakefile, **sections):
        (self.folder / "Snakefile").write_text(snakefile)
        self.configure(**sections)

    def configure(self, **sections):
        (self.folder / "config.yaml").write_text(yaml.safe_dump({**self.config, **sections}))

    def run(self, *arguments):
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *arguments]
        options = {"cwd": self.folder, "capture_output": True, "text": True, "env": environment, "timeout": 900}
        done = subprocess.run(command, check=False, **options)
        return done.returncode, done.stdout + done.stderr

    def finish(self, *arguments):
        status, said = self.run(*arguments)
        assert status == 0, said[-4000:]
        return said

    def plan(self, *arguments):
        return Counter(re.findall(r"^(?:local)?rule (\w+):", self.finish("--dry-run", *arguments), re.MULTILINE))


@pytest.fixture
def outer(tmp_path, project):
    return Outer(tmp_path, project)


@pytest.fixture
def twice(outer):
    """Two modules of one configuration but for the members and the jobs of a volume."""
    outer.config["my_sample"]["pairs"]["noisy"]["path"] = "data/fast.zarr"
    text = 'configfile: "config.yaml"\n' + TWICE + "".join(MODULE.format(name=name) for name in ("first", "second"))
    outer.write(text, first={}, second={"ensemble": {"size": 2}, "inference": {"jobs": 3}})
    return outer


def test_the_documented_example_runs_and_waits_for_the_scans(outer):
    said = outer.finish("--config", "ensemble=9", "my_sample={dataset: my_sample}")
    assert said.index("Finished jobid", said.index("rule scan:")) < said.index("rule btn_ingest:")
    assert "not present in the Snakefile" not in said
    assert re.fullmatch(r"-?[\d.]+, between -?[\d.]+ and -?[\d.]+\n", (outer.folder / "brightness.txt").read_text())
    assert len(list((outer.folder / "results/my_sample/members").iterdir())) == 1
    assert outer.plan() == Counter()
    assert outer.plan("btn_all").keys() >= {"btn_evaluate", "btn_report"}
    outer.config["my_sample"]["calibration"] = {"coverage": 0.8}
    outer.configure()
    assert set(outer.plan()) == {"all", "brightness", "btn_calibrate", "btn_finish"}
    assert outer.plan("--forcerun", "scan")["btn_ingest"] == 1


def test_two_modules_have_their_own_settings_and_folders(twice):
    assert twice.plan("first_all", "second_all") == twice.plan() - Counter(all=1) + Counter(first_all=1, second_all=1)
    plan = twice.plan()
    assert (plan["scan"], plan["first_train"], plan["second_train"]) == (1, 1, 2)
    assert (plan["first_infer"], plan["second_infer"]) == (1, 3)
    said = twice.finish("--dry-run", "--printshellcmds")
    commands = re.findall(r"-m behindthenoise (.*)", said)
    assert len(commands) == sum(plan.values()) - 2  # all and scan
    for command in commands:
        paths = re.findall(r"(\S*)(?:results|logs|benchmarks)/my_sample", re.sub(r"--spec '.*?'", "", command))
        assert paths and len(set(paths)) == 1 and paths[0] in ("first/", "second/"), command
    ingest = re.findall(r"rule (?:first|second)_ingest:\n    input: (.*)", said)
    assert ingest == ["data/fast.zarr, data/slow.npy"] * 2


def test_a_module_with_a_prefix_runs(twice):
    scan = "import numpy as np, zarr; random = np.random.default_rng(0); slow = random.random((96, 96)); "
    scan += "zarr.save_array('{output.fast}', slow[None] + random.random((1, 96, 96))); np.save('{output.slow}', slow)"
    snakefile = twice.folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace('"false"', f'"python -c \\"{scan}\\""'))
    target = "second/results/my_sample/members/001/train.json"
    twice.finish(target)
    assert json.loads((twice.folder / target).read_text())["stage"] == "train"
    assert not (twice.folder / "results").exists()
    assert twice.plan(target) == Counter()


def test_what_is_wrong_is_said_of_the_module(outer):
    outer.config["my_sample"]["ensembel"] = {}
    outer.configure()
    status, said = outer.run("--dry-run")
    assert status and "config of the module behindthenoise" in said and "ensembel" in said
    del outer.config["my_sample"]["ensembel"]
    outer.config["my_sample"]["pairs"]["noisy"]["path"] = "data/slices_*.tif"
    outer.configure()
    status, said = outer.run("--dry-run")
    assert status and "no file fits 'data/slices_*.tif', and a module cannot wait for a pattern" in said
    outer.config["my_sample"]["pairs"]["noisy"]["path"] = "data/nobody_makes_it.npy"
    outer.configure()
    status, said = outer.run("--dry-run")
    assert status and "data/nobody_makes_it.npy" in said


def test_a_second_clone_is_refused(twice, project):
    other = twice.folder.parent / "clone"
    other.mkdir()
    for name in ("Snakefile", "workflow", "envs", "src"):
        os.symlink(project / name, other / name)
    snakefile = twice.folder / "Snakefile"
    first, second = snakefile.read_text().split("module second:")
    snakefile.write_text(first + "module second:" + second.replace("../behindthenoise/", "../clone/"))
    twice.finish("--dry-run")  # the same code, by another name
    (other / "src").unlink()
    (other / "src").mkdir()
    status, said = twice.run("--dry-run")
    assert status and "in one workflow all modules must be of one clone on disk" in said
