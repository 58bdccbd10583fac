"""
Quality at equal CPU time of training: noisy input, BM3D, CARE and ours on the test part of each data set.

    python bench/quality/data.py WORK
    python bench/quality/run.py WORK --seconds 120 --sets blobs_1 gigadb --rivals bm3d care ours --members 1 6

Each rival is a process of its own. What is in WORK already is not computed again, so that tables of one machine can be completed
bit by bit; delete `WORK/SET.RIVAL*.npz` to start anew. Budgets are seconds of CPU time of one thread, loading and predicting not
included; BM3D is not trained and has no budget.

PSNR and Pearson correlation are taken over all test images of one scan and averaged over scans; the peak of the PSNR is the range
of the clean test images, channel by channel.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from behindthenoise.core.metrics import pearson, psnr

HERE = Path(__file__).parent
RIVAL_PYTHON = HERE.parents[1] / ".venv-care" / "bin" / "python"
SETS = ("blobs_1", "blobs_2", "gigadb", "obj1")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=int, nargs="+", default=[120])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--rivals", nargs="*", default=["bm3d", "care", "ours"], choices=["bm3d", "care", "ours"])
    parser.add_argument("--members", type=int, nargs="+", default=[1], help="sizes of our ensembles")
    parser.add_argument("--network", default="{}", help="our section `network`, as JSON")
    parser.add_argument("--training", default="{}", help="our section `training`, as JSON")
    parser.add_argument("--tag", default="", help="added to our label, so that other settings get files of their own")
    parser.add_argument("--verbose", action="store_true", help="show what the rivals write to stderr")
    options = parser.parse_args()
    for name in options.sets:
        for label, (python, script, *arguments) in commands(options).items():
            out = options.work / f"{name}.{label}.npz"
            if not out.exists():
                command = [python, HERE / script, options.work / f"{name}.npz", out, *arguments]
                subprocess.run(
                    command, check=True, stdout=subprocess.DEVNULL, stderr=None if options.verbose else subprocess.DEVNULL
                )
        show(options.work, name, list(commands(options)))


def show(work: Path, name: str, labels: list[str]) -> None:
    """The table of one data set."""
    with np.load(work / f"{name}.npz") as loaded:
        noisy, clean, about = loaded["test_noisy"], loaded["test_clean"], json.loads(str(loaded["about"]))
    results = {"noisy": (noisy, {})}
    for label in labels:
        with np.load(work / f"{name}.{label}.npz") as loaded:
            results[label] = loaded["prediction"], json.loads(str(loaded["told"]))
    for group, span in about["groups"].items():
        images = slice(*span)
        print(f"\n{name} {group}: PSNR in dB and correlation for each channel, {' '.join(about['channels'])}, and their mean")
        for label, (prediction, told) in results.items():
            print(line(label, prediction[images], clean[images], told), flush=True)


def commands(options: argparse.Namespace) -> dict[str, list[object]]:
    """Label, interpreter, script and arguments of what is asked for, in the order of the table."""
    found: dict[str, list[object]] = {}
    if "bm3d" in options.rivals:
        found["bm3d"] = [RIVAL_PYTHON, "bm3d_rival.py"]
    for seconds in options.seconds:
        if "care" in options.rivals:
            found[f"care.{seconds}"] = [RIVAL_PYTHON, "care.py", "--seconds", str(seconds)]
        for members in options.members if "ours" in options.rivals else ():
            settings = ["--members", str(members), "--network", options.network, "--training", options.training]
            found[f"ours{options.tag}-{members}.{seconds}"] = [sys.executable, "ours.py", "--seconds", str(seconds), *settings]
    return found


def line(label: str, prediction: np.ndarray, clean: np.ndarray, told: dict[str, float]) -> str:
    """One row of the table."""
    columns = [f"{label:>16}"]
    for measure, digits in ((psnr, 2), (pearson, 4)):
        values = [np.mean(scores) for scores in by_channel(measure, prediction, clean)]
        columns.append(" ".join(f"{value:.{digits}f}" for value in values) + f" mean {np.mean(values):.{digits}f}")
    if told:
        columns.append(f"{told['seconds']:.0f} s  {told['parameters']} parameters")
    return "  ".join(columns)


def by_channel(measure: Callable[[np.ndarray, np.ndarray], float], prediction: np.ndarray, clean: np.ndarray) -> list[list[float]]:
    """For each channel the measure of each scan, over all images at once."""
    return [
        [measure(prediction[:, scan, channel].ravel(), clean[:, channel].ravel()) for scan in range(prediction.shape[1])]
        for channel in range(clean.shape[1])
    ]


if __name__ == "__main__":
    main()
