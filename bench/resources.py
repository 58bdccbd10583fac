"""
What the rules have really taken: for each rule the largest peak memory and the longest time of one job in finished runs, and how
much data these were of. `workflow/resources.yaml` is written by it.

It reads folders in which Snakemake has run, with `results` and, if they are there, `benchmarks`: the peak of a process as the
kernel knows it from `*.run.json`, and Snakemake's own times, which count the start of Python too. *Values* are voxels times
channels, of the volume for rules that process one, of the pairs for all others.

    python bench/resources.py .
    python bench/resources.py runs/one runs/other
"""

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Taken:
    """What one job has taken, as far as one file says."""

    rule: str
    peak_mb: float
    seconds: float
    values: float
    dataset: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders in which Snakemake has run")
    options = parser.parse_args()
    found: dict[str, list[Taken]] = defaultdict(list)
    for folder in options.folders:
        for pairs in sorted(folder.glob("results/*/pairs.json")):
            for taken in (*recorded(pairs.parent), *timed(pairs.parent, folder / "benchmarks" / pairs.parent.name)):
                found[taken.rule].append(taken)
    print("| rule | peak memory, MB | of million values | longest, s | of million values |")
    print("|---|---:|---:|---:|---:|")
    for rule, every in sorted(found.items()):
        most, longest = max(every, key=lambda taken: taken.peak_mb), max(every, key=lambda taken: taken.seconds)
        print(
            f"| `{rule}` | {most.peak_mb:.0f} | {most.values:.2f} ({most.dataset}) "
            f"| {longest.seconds:.0f} | {longest.values:.2f} ({longest.dataset}) |"
        )


def recorded(results: Path) -> Iterator[Taken]:
    """Records beside the results of a data set; a job of a sweep is one of its rule."""
    for path in sorted(results.rglob("*.run.json")):
        record = json.loads(path.read_text())
        if "verb" in record:
            values = values_of(results, path.relative_to(results).parts)
            yield Taken(record["verb"], record["peak_memory_bytes"] / 1e6, record["seconds"], values, results.name)


def timed(results: Path, benchmarks: Path) -> Iterator[Taken]:
    """Snakemake's own measurements; of jobs that end at once it knows no memory."""
    for path in sorted(benchmarks.rglob("*.tsv")):
        parts = path.relative_to(benchmarks).with_suffix("").parts
        rule = parts[-1] if parts[0] == "sweep" else parts[0]
        for row in csv.DictReader(path.read_text().splitlines(), delimiter="\t"):
            peak = 0.0 if row["max_rss"] in ("-", "NA") else float(row["max_rss"]) * 2**20 / 1e6
            yield Taken(rule, peak, float(row["s"]), values_of(results, ("volumes", *parts[1:])), results.name)


def values_of(results: Path, parts: tuple[str, ...]) -> float:
    """Millions of values that a job has read: of the volume whose name stands in its path, else of the pairs."""
    pairs = read(results / "pairs.json")
    voxels = math.prod(pairs["shape"]) * pairs["images"]
    volume = results / "volumes" / parts[1] / "input.json" if parts[0] == "volumes" and len(parts) > 1 else None
    if volume and volume.exists():
        voxels = math.prod(read(volume)["shape"])
    return voxels * len(pairs["channels"]) / 1e6


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
