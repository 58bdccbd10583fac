"""
Finished runs side by side: accuracy, coverage and width on test voxels, validation losses, and seconds of training.

The first run is the one that the others are compared with: the last two columns give the difference in coverage, and the root mean
square difference of the medians as a share of the interval's mean width, on the test voxels.

    python bench/compare.py results/obj1 results/obj1-weight results/obj1-batch
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import xarray as xr

TEST = 3


def main(runs: list[Path]) -> None:
    header = (
        "run",
        "channel",
        "correlation",
        "PSNR dB",
        "coverage %",
        "width",
        "narrower",
        "validation",
        "train s",
        "cov. diff.",
        "median diff. %",
    )
    print("{:>24} {:>8} {:>11} {:>8} {:>10} {:>9} {:>8} {:>10} {:>8} {:>10} {:>14}".format(*header))
    first = tables(runs[0])
    for run in runs:
        found = tables(run)
        loss = np.mean([json.loads(path.read_text())["validation_loss"] for path in sorted(run.glob("members/*/train.json"))])
        seconds = np.mean([json.loads(path.read_text())["seconds"] for path in sorted(run.glob("members/*/train.run.json"))])
        moved = median_difference(runs[0], run)
        for index, (channel, row) in enumerate(found.items()):
            coverage = 100 * float(row["coverage"])
            print(
                f"{run.name:>24} {channel:>8} {float(row['correlation']):11.4f} {float(row['psnr']):8.2f} {coverage:10.2f} "
                f"{float(row['width']):9.4g} {float(row['width_reduction']):8.2f} {loss:10.5f} {seconds:8.0f} "
                f"{coverage - 100 * float(first[channel]['coverage']):10.2f} {100 * moved[index] / float(row['width']):14.2f}"
            )


def tables(run: Path) -> dict[str, dict[str, str]]:
    """Rows of `channels.csv` by channel."""
    with (run / "evaluation/channels.csv").open(newline="") as file:
        return {row["channel"]: row for row in csv.DictReader(file)}


def median_difference(one: Path, other: Path) -> np.ndarray:
    """Root mean square difference of the ensembles' medians on test voxels, for each channel."""
    tests = xr.open_zarr(one / "pairs.zarr", consolidated=False)["role"].values == TEST
    medians = [
        xr.open_zarr(run / "ensemble/heldout.zarr", consolidated=False)["quantiles"].isel(quantile=1).values for run in (one, other)
    ]
    squared = np.moveaxis((medians[1] - medians[0]) ** 2, 2, 0)
    return np.array([np.sqrt(np.mean([values[:, scan][tests] for scan in range(values.shape[1])])) for values in squared])


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
