"""URLs in the real workflow; `local://` is one that needs no network and no server."""

from collections import Counter

import numpy as np
import pytest
import yaml
import zarr

pytestmark = pytest.mark.workflow


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_publishing_a_finished_volume_runs_nothing_else(changed):
    changed.configure(publish={"wide": "copies/wide.ome.zarr", "field": f"local://{changed.folder}/copies/field.ome.zarr"})
    assert changed.plan() == Counter(publish=2)
    changed.finish()
    for name in ("wide", "field"):
        copy = files(changed.folder / "copies" / f"{name}.ome.zarr")
        assert copy.pop("behindthenoise/zarr.json")
        assert copy == files(changed.results / "volumes" / f"{name}.ome.zarr")
    assert changed.plan() == Counter()


def test_what_stands_at_a_target_already_is_refused_before_any_job(changed):
    (changed.folder / "copies" / "wide.ome.zarr").mkdir(parents=True)
    (changed.folder / "copies" / "wide.ome.zarr" / "mine.txt").touch()
    changed.configure(publish={"wide": "copies/wide.ome.zarr"})
    done = changed.run()
    assert done.returncode != 0
    assert "copies/wide.ome.zarr already holds something else (mine.txt)" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_new_data_at_a_url_are_noticed(fresh):
    random = np.random.default_rng(0)
    (fresh.folder / "far").mkdir()
    clean = random.random((48, 48))
    np.save(fresh.folder / "far" / "noisy.npy", clean + random.random((1, 48, 48)))
    zarr.save_array(fresh.folder / "far" / "clean.zarr", clean)
    far, third = f"local://{fresh.folder}/far", [[0, 0.33], [0.33, 0.66], [0.66, 1]]
    content = {
        "dataset": "tiny",
        "pairs": {
            "noisy": {"path": f"{far}/noisy.npy", "axes": "scan y x"},
            "clean": {"path": f"{far}/clean.zarr", "axes": "y x"},
        },
        "split": {
            "by": "region",
            "block": 4,
            "regions": {role: {"y": span} for role, span in zip(("train", "calibration", "test"), third, strict=True)},
        },
        "network": {"depth": 3, "width": 2, "radius_max": 3},
    }
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump(content))
    target = "results/tiny/pairs.json"
    fresh.finish(target)
    assert fresh.plan(target) == Counter()
    np.save(fresh.folder / "far" / "noisy.npy", clean + random.random((1, 48, 48)))
    assert fresh.plan(target) == Counter(ingest=1)
    fresh.finish(target)
    assert fresh.plan(target) == Counter()
    zarr.open_array(fresh.folder / "far" / "clean.zarr", mode="r+").attrs["dose"] = 2
    assert fresh.plan(target) == Counter(ingest=1)
    (fresh.folder / "far" / "noisy.npy").unlink()
    done = fresh.run("--dry-run", target)
    assert f"pairs.noisy.path '{far}/noisy.npy' does not exist" in done.stdout + done.stderr
