"""
The ensemble against a Gaussian filter whose width is the best in hindsight, on the test voxels of a finished run.

The rival is favoured: its width is chosen for each channel by the test voxels' own correlation with the clean image.

    python bench/gaussian.py results/obj1
"""

import csv
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter

WIDTHS = np.geomspace(0.3, 12, 40)
TEST = 3


def main(results: Path) -> None:
    pairs = xr.open_zarr(results / "pairs.zarr", consolidated=False).load()
    tests = pairs["role"].values == TEST
    with (results / "evaluation/channels.csv").open(newline="") as file:
        ours = {row["channel"]: float(row["correlation"]) for row in csv.DictReader(file)}
    print(f"{'channel':>10} {'noisy':>8} {'gaussian':>9} {'width':>6} {'ours':>8}  (correlation with the clean image)")
    for index, channel in enumerate(pairs["channel"].values):
        clean, noisy = pairs["clean"].values[:, index], pairs["noisy"].values[:, :, index]
        best, width = max((correlation(noisy, clean, tests, width), width) for width in WIDTHS)
        raw = correlation(noisy, clean, tests, 0)
        print(f"{channel!s:>10} {raw:8.4f} {best:9.4f} {width:6.2f} {ours[str(channel)]:8.4f}")


def correlation(noisy: np.ndarray, clean: np.ndarray, tests: np.ndarray, width: float) -> float:
    """Pearson correlation over the test voxels of all images and scans; `width` in voxels."""
    found, truth = [], []
    for image in np.flatnonzero(tests.reshape(len(tests), -1).any(axis=1)):
        for scan in noisy[image]:
            valid = np.isfinite(scan)
            # masked voxels weigh nothing
            weight = gaussian_filter(valid.astype(np.float64), width) if width else 1.0
            smooth = gaussian_filter(np.where(valid, scan, 0).astype(np.float64), width) if width else scan
            found.append((smooth / weight)[tests[image]])
            truth.append(clean[image][tests[image]])
    return float(np.corrcoef(np.concatenate(found), np.concatenate(truth))[0, 1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
