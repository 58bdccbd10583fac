"""The command `btn status`: how far a run is, by what its jobs have left on the disk."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from math import ceil, prod
from pathlib import Path
from string import Formatter
from typing import Any

from behindthenoise.config import Config, load
from behindthenoise.errors import StoreError
from behindthenoise.io.record import read_json, run_record
from behindthenoise.words import in_bytes, in_time

# Of each rule: its log, the file that says that a job is finished, and where its results take their space, if not there.
# The names are those of workflow/rules.
FILES: dict[str, tuple[str, ...]] = {
    "ingest": ("ingest.log", "pairs.json", "pairs.zarr"),
    "wire": ("wire/{member}.log", "members/{member}/graph.json"),
    "train": (
        "train/{member}.log",
        "members/{member}/train.json",
        *(f"members/{{member}}/{name}" for name in ("weights.safetensors", "history.csv", "checkpoint.safetensors")),
    ),
    "predict": (
        "predict/{member}.log",
        "members/{member}/predict.json",
        *(f"members/{{member}}/{name}" for name in ("heldout.zarr", "latents.npz")),
    ),
    "average": ("average.log", "ensemble/average.json", "ensemble/heldout.zarr"),
    "embed": ("embed.log", "latents/projection.npz"),
    "tokenize": ("tokenize.log", "latents/tokens.npz"),
    "label": ("label.log", "ensemble/label.json", "ensemble/tokens.zarr"),
    "survey": ("survey.log", "calibration/rules.npz"),
    "score": ("score/{part}.log", "calibration/shares/{part}.npz"),
    "calibrate": (
        "calibrate.log",
        "calibration/certificate.json",
        *(f"calibration/{name}" for name in ("scores.npz", "thresholds.json", "levels.csv")),
    ),
    "evaluate": ("evaluate.log", "evaluation/evaluate.json", "evaluation"),
    "fetch": ("fetch/{volume}.log", "volumes/{volume}/input.json", "volumes/{volume}/input.zarr"),
    "place": ("place/{volume}.log", "volumes/{volume}/geometry.json"),
    "plan": ("plan/{volume}.log", "volumes/{volume}/quantiles.zarr/zarr.json"),
    "infer": ("infer/{volume}/{share}.log", "volumes/{volume}/jobs/{share}.json"),
    "finish": ("finish/{volume}.log", "volumes/{volume}/finish.json", "volumes/{volume}.ome.zarr"),
    "compare": ("compare/{volume}.log", "volumes/{volume}/shift.json"),
    "describe": ("describe/{volume}.log", "volumes/{volume}/describe.json", "volumes/{volume}/tokens.csv"),
    "regions": (
        "regions/{volume}/{target}.log",
        "volumes/{volume}/regions/{target}.json",
        *(f"volumes/{{volume}}/regions/{{target}}.{suffix}" for suffix in ("csv", "geojson", "npz", "zarr")),
    ),
    "overlay": ("overlay/{volume}/{target}.log", "volumes/{volume}/regions/{target}.png"),
    "publish": ("publish/{published}.log", "volumes/{published}/publish.json"),
    "gather": ("gather.log", "report/content.json"),
    "report": ("report.log", "report/report.html", "report"),
    "sweep_wire": ("sweep/{point}/{repeat}/wire.log", "sweep/{point}/{repeat}/graph.json"),
    "sweep_train": (
        "sweep/{point}/{repeat}/train.log",
        "sweep/{point}/{repeat}/train.json",
        *(f"sweep/{{point}}/{{repeat}}/{name}" for name in ("weights.safetensors", "history.csv", "checkpoint.safetensors")),
    ),
    "sweep": ("sweep.log", "sweep/table.csv", "sweep/sweep.svg", "sweep/sweep.png"),
}
# Space that jobs share: the store is laid out by `plan` and filled by `infer`.
SHARED = {"infer": "volumes/{volume}/quantiles.zarr"}
TAIL_BYTES = 4000
TIMED = re.compile(r"\d\d:\d\d:\d\d ")
FAILED = re.compile(r"btn |Traceback |[\w.]+(Error|Exception|Interrupt)\b|Killed|Terminated")
MOST_SHOWN = 12
COLUMNS = ("step", "done", "begun", "failed", "waiting", "on disk", "mean", "most", "memory", "left")


@dataclass(frozen=True)
class Job:
    """
    One job, as far as the disk tells.

    Attributes
    ----------
    name
        Its rule, and what it is of: `train 003`.
    output
        The file that exists once it is finished.
    places
        Files and folders that hold its results.
    """

    name: str
    log: Path
    output: Path
    places: tuple[Path, ...]

    def state(self) -> str:
        """
        What is known of it: done, begun, failed or waiting.

        Begun is a job whose log ends with a line of ours, which has a time, or with a library's warning: one that runs, or was
        killed. Snakemake removes the output of a job before it runs it again, and of one that failed.
        """
        if self.output.exists():
            return "done"
        if not self.log.exists():
            return "waiting"
        others = list(takewhile(lambda line: not TIMED.match(line), reversed(self.last_lines())))
        is_warning = any("Warning" in line for line in others) and not any(FAILED.match(line) for line in others)
        return "failed" if others and not is_warning else "begun"

    def last_lines(self) -> list[str]:
        """What the log ends with; empty where it says nothing yet."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        return [line.strip() for line in lines if line.strip()]

    def last_line(self) -> str:
        """The last of them."""
        return next(reversed(self.last_lines()), "")

    def silent_s(self) -> float:
        """Seconds since it has written its log, or its results, as a training its checkpoint."""
        return max(0.0, time.time() - max(map(written_at, (self.log, *self.places))))

    def left_s(self) -> float:
        """Seconds that it needs according to its log; 0 where that does not say."""
        found = re.findall(r"([\d.]+) s left", self.last_line())
        return float(found[-1]) if found else 0.0

    def record(self) -> dict[str, Any]:
        """Seconds and memory of its run; empty where there is no record."""
        try:
            return read_json(run_record(self.output))
        except StoreError:
            return {}


def status(path: Path) -> str:
    """
    How far the run of a configuration is, in words; results and logs are those below the current folder.

    Raises
    ------
    ConfigError
        If the configuration is wrong.
    """
    config = load(path)
    jobs = jobs_of(config)
    states = {rule: [job.state() for job in own] for rule, own in jobs.items()}
    begun, failed = (
        [job for rule, own in jobs.items() for job, state in zip(own, states[rule], strict=True) if state == wanted]
        for wanted in ("begun", "failed")
    )
    spaces = {rule: size(place for job in own for place in job.places) for rule, own in jobs.items()}
    for rule, template in SHARED.items():
        spaces[rule] = size(Path("results", config.dataset, template.format(volume=volume)) for volume in volumes_of(config))
    rows = [row(rule, own, states[rule], spaces[rule]) for rule, own in jobs.items()]
    parts = ["\n".join([*table([COLUMNS, *rows]), "", total(states, sum(spaces.values())), works()])]
    parts += [lines_of(begun, "begun: running, or killed", shown_begun), lines_of(failed, "failed", lambda job: job.last_line())]
    parts += ["\n".join(shards_of(config))]
    return "\n\n".join(part for part in parts if part)


def jobs_of(config: Config) -> dict[str, list[Job]]:
    """All jobs of a configuration by their rule, in about the order in which they run; without rules that have none."""
    values = {
        "member": [f"{member:03d}" for member in range(config.ensemble.size)],
        "volume": volumes_of(config),
        "share": [f"{item}-of-{config.inference.jobs}" for item in range(1, config.inference.jobs + 1)],
        "part": [f"{item}-of-{config.calibration.jobs}" for item in range(1, config.calibration.jobs + 1)],
        "target": list(config.regions),
        "published": list(config.publish),
        "point": list(config.sweep_points()),
        "repeat": [f"{member:03d}" for member in range(config.sweep.repeats)],
    }
    results, logs = Path("results", config.dataset), Path("logs", config.dataset)
    found: dict[str, list[Job]] = {}
    for rule, (log, output, *places) in FILES.items():
        names = [name for _, name, _, _ in Formatter().parse(log) if name]
        if not all(values[name] for name in names) or (rule == "sweep" and not values["point"]):
            continue
        found[rule] = []
        for chosen in product(*(values[name] for name in names)):
            of = dict(zip(names, chosen, strict=True))
            own = tuple(results / place.format(**of) for place in places or [output])
            found[rule].append(Job(" ".join([rule, *chosen]), logs / log.format(**of), results / output.format(**of), own))
    return found


def volumes_of(config: Config) -> list[str]:
    """Names of the volumes, the training field first."""
    return ["field", *config.volumes]


def size(places: Iterable[Path]) -> int:
    """Bytes of files and of all that is in folders; what does not exist, or vanishes, has none."""
    total = 0
    waiting = [str(place) for place in places]
    while waiting:
        place = waiting.pop()
        try:
            if not os.path.isdir(place):
                total += os.stat(place).st_size
                continue
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def row(rule: str, jobs: Sequence[Job], states: Sequence[str], space: int) -> tuple[str, ...]:
    """One rule as the table shows it."""
    records = [found for job, state in zip(jobs, states, strict=True) if state == "done" and (found := job.record())]
    seconds = [float(found.get("seconds", 0)) for found in records]
    peak = max((int(found.get("peak_memory_bytes", 0)) for found in records), default=0)
    told = max((job.left_s() for job, state in zip(jobs, states, strict=True) if state == "begun"), default=0.0)
    expected = states.count("waiting") * sum(seconds) / len(seconds) / max(1, states.count("begun")) if seconds else 0.0
    return (
        rule,
        f"{states.count('done')} of {len(jobs)}",
        *(str(states.count(state) or "") for state in ("begun", "failed", "waiting")),
        in_bytes(space) if space else "",
        in_time(sum(seconds) / len(seconds)) if seconds else "",
        in_time(max(seconds)) if seconds else "",
        in_bytes(peak) if peak else "",
        f"about {in_time(told + expected)}" if told + expected else "",
    )


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with aligned columns, the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for cells in rows:
        first, *others = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()


def total(states: dict[str, list[str]], space: int) -> str:
    """All jobs in one line."""
    every = [state for own in states.values() for state in own]
    return (
        f"{every.count('done')} of {len(every)} jobs are done, {in_bytes(space)} on disk; `snakemake -n` says what is out of date"
    )


def works() -> str:
    """Whether Snakemake is at work in this folder, by its locks."""
    locks = Path(".snakemake", "locks")
    if locks.is_dir() and any(locks.iterdir()):
        return "Snakemake is at work here, or was killed: its lock is there"
    return "Snakemake is not at work here"


def lines_of(jobs: Sequence[Job], title: str, shown: Any) -> str:
    """A few jobs, a line each."""
    lines = [f"  {job.name}: {shown(job)}" for job in jobs[:MOST_SHOWN]]
    more = [f"  and {len(jobs) - MOST_SHOWN} more"] if len(jobs) > MOST_SHOWN else []
    return "\n".join([f"{title}:", *lines, *more]) if jobs else ""


def shown_begun(job: Job) -> str:
    """The last that a job has said, and when it has last written."""
    return f"{job.last_line() or 'nothing said yet'} ({in_time(float(round(job.silent_s())))} ago)"


def shards_of(config: Config) -> Iterator[str]:
    """For each volume that is laid out and not finished, the shards that are written."""
    for volume in volumes_of(config):
        folder = Path("results", config.dataset, "volumes", volume)
        if (folder / "finish.json").exists():
            continue
        try:
            shape = read_json(folder / "input.json")["shape"]
            shard = read_json(folder / "quantiles.zarr" / "zarr.json")["attributes"]["shard"]
        except (StoreError, KeyError):
            continue
        records = sorted((folder / "shards").glob("*.json"), key=written_at)
        # records of an earlier layout or of other networks end in another key, and do not count
        written = sum(record.suffixes[-2] == records[-1].suffixes[-2] for record in records)
        yield f"volume {volume}: {written} of {prod(ceil(size / edge) for size, edge in zip(shape, shard, strict=True))} shards"


def written_at(path: Path) -> float:
    """Time of its last change; 0 where a job has removed it meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
