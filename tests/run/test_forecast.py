"""What a volume costs is said before anything is trained, and is what the workflow will do."""

import re

import numpy as np
import pytest
import yaml

from behindthenoise.cli import main
from behindthenoise.errors import CalibrationError, MemoryLimitError, SplitError
from behindthenoise.run import forecast

CONFIG = {
    "dataset": "some",
    "synthetic": {"shape": [40, 48], "channels": 2},
    "volumes": {"large": {"synthetic": [100, 300]}},
    "network": {"depth": 3, "width": 2, "radius_max": 4, "latent": 3, "head": 4},
    "ensemble": {"size": 5},
    "tokens": {"components": 6},
    "training": {"steps": 7, "batch": 4, "threads": 1},
    "inference": {"jobs": 3, "memory_gb": 2, "tile": 64},
}


@pytest.fixture
def write(tmp_path):
    def written(**changes):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**CONFIG, **changes}))
        return path

    return written


def test_tiles_shards_memory_and_storage_are_said(write, capsys):
    assert main(["plan", str(write())]) == 0
    split, training, field, large, besides = capsys.readouterr().out.strip().split("\n\n")
    assert split == (
        "split: 1 scan of 96 images of 40 x 48 voxels: train 50%, calibration 25%, test 25%; 9 voxels between roles\n"
        "  24 images can carry guarantee pac, if they are alike"
    )
    assert training.startswith("training: 5 members, each 7 steps of 4 patches of 40 x 48\n")
    assert re.search(r"a member on this (cpu|cuda) with 1 thread, [\d.]+ (s|min|h) for all", training)
    assert field.startswith("volume field: 40 x 48 voxels, channels 2\n  1 tile of 40 x 48, halo")
    assert large.startswith("volume large: 100 x 300 voxels, channels 2\n  10 tiles of 64 x 64, halo")
    assert "10 shards of 64 x 64, for 3 jobs" in large
    # 30000 voxels of two channels; four values of each and six components; four statistics of each, the
    # novelty, two tokens and three colours
    assert "input 240 kB, raw results 1.32 MB, finished volume 1.23 MB" in large
    assert float(re.search(r"at most ([\d.]+) GB of 2 GB", large)[1]) < 2
    # ingest, average, embed, tokenize, label, survey, score, calibrate, evaluate, gather, report; 3 of each of 5 members; of both
    # volumes fetch, place, plan, 3 infer, finish, compare, describe
    assert re.match(rf"besides: {11 + 3 * 5 + 2 * 9} jobs in all, of which each takes about [\d.]+ s to start: ", besides)
    assert re.search(r"5 networks take [\d.e+-]+ s for a million voxels on this (cpu|cuda)", large)


def test_one_tile_reads_no_more_than_it_writes(write):
    assert "0 % more voxels read than written" in forecast.plan(write())


def test_networks_that_are_not_timed_count_as_well(write, monkeypatch):
    monkeypatch.setattr(forecast, "_seconds", lambda *_: 1.0)
    drawn = forecast.drawn_of(forecast.load(write()), forecast.Field("a", (40, 48), 2))
    assert forecast.seconds_of(drawn[:3], (40, 48), 4) == 3
    assert forecast.seconds_of(drawn, (40, 48), 4) == pytest.approx(
        3 * sum(one.operations for one in drawn) / sum(one.operations for one in drawn[:3])
    )


def test_generated_pairs_and_a_measured_volume(write, tmp_path):
    np.save(tmp_path / "map.npy", np.zeros((2, 50, 60), np.float32))
    config = forecast.load(write(volumes={"map": {"noisy": {"path": str(tmp_path / "map.npy"), "axes": "channel y x"}}}))
    assert list(forecast.fields(config, forecast.pairs_of(config))) == [
        forecast.Field("field", (40, 48), 2),
        forecast.Field("map", (50, 60), 2),
    ]


def test_a_split_that_leaves_nothing_of_a_role_is_refused(write):
    with pytest.raises(SplitError, match="1 blocks with data cannot be shared among train, calibration and test"):
        forecast.plan(write(synthetic={"shape": [40, 48], "images": 1}))


def test_images_too_few_for_the_guarantee_are_refused(write):
    with pytest.raises(CalibrationError, match="10 calibration images cannot promise 90 % coverage with guarantee 'rcps'"):
        forecast.plan(write(synthetic={"shape": [40, 48], "images": 40}, calibration={"guarantee": "rcps"}))


def test_blocks_of_other_roles_do_not_count_as_calibration_units(write):
    """They lie in the box around those that calibrate, and there are three times as many of them."""
    asked = {"guarantee": "crc", "unit": "block", "block": 64, "groups": []}
    with pytest.raises(CalibrationError, match=r"[67] calibration blocks cannot promise 90 % coverage"):
        forecast.plan(write(synthetic={"shape": [320, 320], "images": 1}, split={}, calibration=asked))


def test_what_is_masked_has_no_role(write, tmp_path):
    """A square trains; of the strip below it the right half tests, but for what is too near to the left half, which calibrates."""
    mask = np.zeros((64, 64), bool)
    mask[:16, :16] = mask[48:, :] = True
    np.save(tmp_path / "fast.npy", np.ones((64, 64), np.float32))
    np.save(tmp_path / "mask.npy", mask)
    scan = {"path": str(tmp_path / "fast.npy"), "axes": "y x"}
    pairs = {"noisy": scan, "clean": scan, "mask": {"path": str(tmp_path / "mask.npy"), "axes": "y x"}}
    regions = {"train": {"y": [0, 0.5]}, "calibration": {"y": [0.5, 1], "x": [0, 0.5]}, "test": {"y": [0.5, 1], "x": [0.5, 1]}}
    path = write(pairs=pairs, synthetic=None, volumes={}, split={"by": "region", "regions": regions, "block": 16})
    config = forecast.load(path)
    line, _ = forecast.divided(config, forecast.pairs_of(config))
    assert line == "split: 1 scan of 1 image of 64 x 64 voxels: train 6%, calibration 12%, test 9%; 9 voxels between roles"


def test_training_takes_as_long_as_its_steps(write, monkeypatch):
    monkeypatch.setattr(forecast, "_seconds_of_step", lambda *_: 2.0)
    config = forecast.load(write(ensemble={"size": 2}))
    drawn = forecast.drawn_of(config, forecast.Field("a", (40, 48), 2))
    assert forecast.seconds_of_training(config, drawn, (40, 48)) == 2 * 7 * 2.0


def test_the_first_step_which_allocates_does_not_count(write, monkeypatch):
    clock = iter([0.0, 0.5, 100.0, 101.0, 101.0, 104.0, 104.0, 106.0])
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(forecast.Training, "advance", lambda _: None)
    config = forecast.load(write())
    [architecture, *_] = forecast.drawn_of(config, forecast.Field("a", (40, 48), 2))
    assert forecast._seconds_of_step(config, architecture, (8, 8)) == 2.0


def test_a_volume_that_cannot_fit_is_refused(write):
    with pytest.raises(MemoryLimitError, match=r"inference\.memory_gb allows 0\.50"):
        forecast.plan(write(inference={"memory_gb": 0.5}))
