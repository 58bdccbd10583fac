"""
What the workflow itself costs: reading it, looking at a large finished run, and starting a job.

*Parsing* is the CPU time of `snakemake --list-target-rules` with our Snakefile less that with an empty one. *Nothing to do* is the
CPU time of `snakemake` on a run with many members and shards that is finished: its files are invented, and Snakemake is made to
believe in them by `--touch`. `btn status` is timed on the same run. *A job* is the CPU time of the rule `wire` less that of a bare
rule whose shell says the same to the same Python, without a specification, a log and a benchmark; and of that Python alone. The
rivals run in turn.

Times are CPU seconds of the process and its children, the median of some turns and in brackets the least and the largest.

    python bench/workflow.py
    python bench/workflow.py --members 500 --shards 5000 --turns 1
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from behindthenoise.config import parse
from behindthenoise.stages import specification

ROOT = Path(__file__).resolve().parent.parent
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "1", "--scheduler", "greedy", "--nocolor"]
EMPTY = "rule all:\n    default_target: True\n"
BARE = """
rule all:
    input: expand("results/made/members/{{member}}/graph.json", member=[f"{{index:03d}}" for index in range({jobs})])

rule wire:
    input: "results/made/pairs.json"
    output: "results/made/members/{{member}}/graph.json"
    shell: {command!r}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=100, help="of the ensemble (default: 100)")
    parser.add_argument("--shards", type=int, default=1000, help="jobs of a volume (default: 1000)")
    parser.add_argument("--jobs", type=int, default=10, help="jobs that are started (default: 10)")
    parser.add_argument("--turns", type=int, default=3, help="of each measurement (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        for name in ("workflow", "src", "envs"):
            shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "config.yaml"):
            shutil.copy(ROOT / name, project)
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {options.turns} turns")
        parsing(project, Path(folder, "parsing"), options.turns)
        finished(project, Path(folder, "finished"), options)
        starting(project, Path(folder, "starting"), options)


def configured(folder: Path, **sections: object) -> Path:
    """A folder with a configuration."""
    folder.mkdir()
    content = {"dataset": "made", "synthetic": {}, "network": {"depth": 3}, **sections}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def used(command: list[str], folder: Path) -> tuple[float, float, str]:
    """CPU and wall seconds of a command with its children, and what it has said."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # as on a usual machine, what was compiled once is not compiled again
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout


def median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def parsing(project: Path, folder: Path, turns: int) -> None:
    configured(folder)
    (folder / "empty.smk").write_text(EMPTY)
    listing = [*SNAKEMAKE, "--list-target-rules", "--configfile", "config.yaml", "--snakefile"]
    files = "empty.smk", str(project / "Snakefile")
    first, *pairs = [[used([*listing, file], folder)[0] for file in files] for _ in range(1 + turns)]
    print(f"start of Snakemake: {median([empty for empty, _ in pairs])}")
    print(f"parsing of our workflow: {median([ours - empty for empty, ours in pairs])}, the first time {first[1] - first[0]:.2f} s")


def finished(project: Path, folder: Path, options: argparse.Namespace) -> None:
    configured(folder, ensemble={"size": options.members}, inference={"jobs": options.shards})
    workflow = [*SNAKEMAKE, "--snakefile", str(project / "Snakefile"), "--configfile", "config.yaml"]
    _, _, summary = used([*workflow, "--summary"], folder)
    files = [line.split("\t")[0] for line in summary.splitlines()[1:] if line]
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"file": name}))
    jobs = [path for path in folder.glob("results/**/*.json") if path.name in ("train.json", "predict.json") or "-of-" in path.name]
    for path in jobs:
        path.with_suffix(".run.json").write_text(json.dumps({"verb": "x", "seconds": 60.0, "peak_memory_bytes": 10**9}))
    _, wall, _ = used([*workflow, "--touch"], folder)
    print(f"{len(files)} files of {options.members} members and {options.shards} shards, believed in after {wall:.0f} s")
    none = [used(workflow, folder) for _ in range(options.turns)]
    _, _, plan = used([*workflow, "--dry-run"], folder)
    if "rule " in plan:
        sys.exit(f"the run is not finished:\n{plan[:2000]}")
    print(f"nothing to do: {median([cpu for cpu, _, _ in none])}, on the clock {median([wall for _, wall, _ in none])}")
    status = [used([sys.executable, "-m", "behindthenoise", "status", "config.yaml"], folder)[0] for _ in range(options.turns)]
    print(f"btn status: {median(status)}")


def starting(project: Path, folder: Path, options: argparse.Namespace) -> None:
    configured(folder, ensemble={"size": options.jobs})
    pairs = folder / "results/made/pairs.json"
    pairs.parent.mkdir(parents=True)
    pairs.write_text(json.dumps({"shape": [64, 64], "channels": ["one"]}))
    spec = folder / "spec.json"
    spec.write_text(specification(parse(yaml.safe_load((folder / "config.yaml").read_text())), "wire"))
    command = f'PYTHONPATH={project / "src"} {sys.executable} -m behindthenoise wire --pairs {pairs} --spec "$(cat {spec})"'
    (folder / "bare.smk").write_text(
        BARE.format(jobs=options.jobs, command=command + " --member {wildcards.member} --graph {output}")
    )
    graphs = [f"results/made/members/{index:03d}/graph.json" for index in range(options.jobs)]
    rivals = {
        "ours": [
            *SNAKEMAKE,
            "--snakefile",
            str(project / "Snakefile"),
            "--configfile",
            "config.yaml",
            "--allowed-rules",
            "wire",
            "--",
        ],
        "bare": [*SNAKEMAKE, "--snakefile", "bare.smk", "--"],
    }
    each: dict[str, list[float]] = {name: [] for name in (*rivals, "python")}
    for _ in range(options.turns):
        for name, rival in rivals.items():
            found = []
            for count in (1, options.jobs):
                shutil.rmtree(folder / "results/made/members", ignore_errors=True)
                found.append(used([*rival, *graphs[:count]], folder)[0])
            each[name].append((found[1] - found[0]) / (options.jobs - 1))
        alone = ["sh", "-c", command + " --member 0 --graph alone.json"]
        each["python"].append(used(alone, folder)[0])
    for name, seconds in each.items():
        print(f"a job of wire, {name}: {median(seconds)}")


if __name__ == "__main__":
    main()
