"""Several slow scans: averaged, and their difference kept as the noise of the reference."""

import numpy as np
import pytest
import zarr

from behindthenoise import config as settings
from behindthenoise.cli import main
from behindthenoise.run.judge import Judged, reference_noise
from behindthenoise.stages import specification

SPLIT = {
    "by": "region",
    "regions": {
        "train": {"y": [0, 0.5]},
        "calibration": {"y": [0.5, 1], "x": [0, 0.5]},
        "test": {"y": [0.5, 1], "x": [0.5, 1]},
    },
}


@pytest.mark.parametrize("scans", [2, 3, 5])
def test_slow_scans_are_averaged_and_their_difference_kept_with_noise_like_that_of_the_mean(tmp_path, monkeypatch, scans):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    slow = random.normal(size=(scans, 48, 48)).astype(np.float32)
    np.save("fast.npy", slow.mean(axis=0) + random.normal(size=(48, 48)).astype(np.float32))
    np.save("slow.npy", slow)
    pairs = {"noisy": {"path": "fast.npy", "axes": "y x"}, "clean": {"path": "slow.npy", "axes": "scan y x"}}
    config = settings.parse({"dataset": "two", "pairs": pairs, "split": SPLIT, "network": {"depth": 3, "radius_max": 3}})
    assert main(["ingest", "--store", "pairs.zarr", "--manifest", "pairs.json", "--spec", specification(config, "ingest")]) == 0
    stored = zarr.open_group("pairs.zarr", mode="r")
    first, second = slow[::2].mean(axis=0), slow[1::2].mean(axis=0)
    clean, difference = stored["clean"][0, 0], stored["clean_difference"][0, 0]
    np.testing.assert_allclose(clean, slow.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(difference / (first - second), np.sqrt((scans // 2) * ((scans + 1) // 2)) / scans, rtol=1e-4)
    assert difference.var() == pytest.approx(1 / scans, rel=0.1)
    assert np.corrcoef(clean.ravel(), difference.ravel())[0, 1] == pytest.approx(0, abs=0.06)


def test_the_noise_that_repeated_scans_show_is_that_of_their_mean():
    random, size = np.random.default_rng(1), 200_000
    signal = random.normal(size=size)
    first, second = (signal + random.normal(scale=0.6, size=size) for _ in range(2))
    truth, difference = ((first + sign * second).astype(np.float32) / 2 for sign in (1, -1))
    median = (signal + random.normal(scale=0.8, size=size)).astype(np.float32)
    flat, whole = np.zeros(size, np.float32), np.zeros(size, np.int64)
    ends = median - 2, median + 2
    test = Judged(np.stack([ends[0], median, ends[1]]), flat, flat, truth, whole.astype(np.uint8), whole, *ends, difference)
    rows = reference_noise(test, "a.u.", settings.CalibrationConfig().miscoverage)
    assert [row["noise_variance"] for row in rows] == pytest.approx([0.18] * 10, rel=0.05)
    assert (
        reference_noise(Judged(*[getattr(test, name) for name in FIELDS]), "a.u.", settings.CalibrationConfig().miscoverage) == []
    )


FIELDS = ("quantiles", "spread", "noisy", "truth", "token", "unit", "lower", "upper")
