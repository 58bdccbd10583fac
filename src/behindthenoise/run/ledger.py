"""One file of a whole run: what was asked for, with which code and on which machines, and what every job has taken."""

import subprocess
from pathlib import Path
from typing import Any

from behindthenoise import __version__
from behindthenoise.config import Config
from behindthenoise.io.record import RECORD, is_in_place, read_json, write_json

# Of a record, what belongs to one job; the rest is told of each machine once.
OF_A_JOB = ("verb", "seconds", "peak_memory_bytes", "finished")


def write(config: Config, results: Path, project: Path) -> None:
    """
    Gather the records of all jobs below a folder of results into its `run.json`.

    Parameters
    ----------
    project
        Folder of the code, whose state git knows if it is a clone.
    """
    jobs: dict[str, dict[str, Any]] = {}
    machines: list[dict[str, Any]] = []
    for path in sorted(results.rglob(f"*{RECORD}")):
        record = read_json(path)
        if not is_in_place(path, record):
            continue
        machine = {key: value for key, value in record.items() if key not in (*OF_A_JOB, "files")}
        if machine not in machines:
            machines.append(machine)
        own = {key: record.get(key) for key in OF_A_JOB}
        jobs[str(path.relative_to(results)).removesuffix(RECORD)] = {**own, "machine": machines.index(machine)}
    write_json(
        results / "run.json",
        {
            "dataset": config.dataset,
            "behindthenoise": __version__,
            "git": state_of(project),
            "config": config.model_dump(mode="json"),
            "machines": machines,
            "seconds": round(sum(job["seconds"] or 0 for job in jobs.values()), 2),
            "peak_memory_bytes": max((job["peak_memory_bytes"] or 0 for job in jobs.values()), default=0),
            "jobs": jobs,
        },
    )


def state_of(project: Path) -> dict[str, Any] | None:
    """Commit of a clone, and whether tracked files differ from it; None where git knows nothing of it."""
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(project), *words], capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}
