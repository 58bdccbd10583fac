"""Bad input ends before any training, with a message that says what to do."""

import numpy as np
import pytest
import yaml
import zarr

pytestmark = pytest.mark.workflow

MEASURED = {
    "dataset": "tiny",
    "pairs": {"noisy": {"path": "noisy.npy", "axes": "scan channel y x"}, "clean": {"path": "clean.npy", "axes": "channel y x"}},
    "split": {
        "by": "region",
        "block": 4,
        "regions": {
            "train": {"y": [0, 0.5]},
            "calibration": {"y": [0.5, 1], "x": [0, 0.5]},
            "test": {"y": [0.5, 1], "x": [0.5, 1]},
        },
    },
    "network": {"depth": 3, "width": 2, "radius_max": 3, "latent": 2, "head": 4},
    "ensemble": {"size": 1},
    "training": {"steps": 2, "batch": 1, "patch": 16},
    "tokens": {"count": 2, "components": 2, "sample": 100},
}


def write(folder, **changes):
    random = np.random.default_rng(0)
    clean = random.normal(size=(1, 48, 48)).astype(np.float32)
    np.save(folder / "noisy.npy", clean + random.normal(size=(2, 1, 48, 48)).astype(np.float32))
    np.save(folder / "clean.npy", clean)
    (folder / "config.yaml").write_text(yaml.safe_dump({**MEASURED, **changes}))


def failure(workflow):
    """What the log of the failed job, or Snakemake itself, says; no training may have started."""
    done = workflow.run()
    assert done.returncode != 0
    assert not list(workflow.folder.glob("results/tiny/members/*/weights.safetensors"))
    logs = "".join(path.read_text() for path in sorted(workflow.folder.glob("logs/**/*.log")))
    assert "Traceback" not in logs
    return logs + done.stdout + done.stderr


def test_too_few_calibration_units(fresh):
    write(fresh.folder, calibration={"guarantee": "crc", "block": 48})
    assert "1 calibration block cannot promise 90 % coverage" in failure(fresh)


def test_a_doubled_key_ends_before_any_job(fresh):
    with (fresh.folder / "config.yaml").open("a") as file:
        file.write("ensemble: {size: 1}\n")
    assert "key 'ensemble' is written 2 times, in lines " in failure(fresh)
    assert not (fresh.folder / "results").exists()


def test_a_missing_file_ends_before_any_job(fresh):
    write(fresh.folder)
    (fresh.folder / "clean.npy").unlink()
    assert "pairs.clean.path 'clean.npy' does not exist" in failure(fresh)
    assert not (fresh.folder / "results").exists()


def test_the_last_of_several_volumes_holds_no_numbers(fresh):
    names = ("one", "two", "three")
    volumes = {name: {"noisy": {"path": f"{name}.npy", "axes": "channel y x"}} for name in names}
    write(fresh.folder, volumes=volumes, ensemble={"size": 4})
    for name in names:
        np.save(fresh.folder / f"{name}.npy", np.full((1, 60, 60), np.nan if name == "three" else 1.0, np.float32))
    assert "volume 'three' has 3600 voxels that are NaN or infinite; give volumes.three.mask" in failure(fresh)


@pytest.mark.parametrize("wrong", [{"spacing": {"y": 0.5}}, {"origin": {"z": 7.0}}], ids=["lacks an axis", "no such axis"])
def test_a_place_along_the_wrong_axes(fresh, wrong):
    write(fresh.folder, pairs={**MEASURED["pairs"], **wrong})
    assert "its axes are y x" in (said := failure(fresh)) or "it must give every axis: y x" in said


def test_masked_voxels_count_nowhere(fresh):
    """Two runs whose data differ only under the mask end in the same numbers."""
    mask = np.ones((48, 48), bool)
    mask[20:30, 5:15] = mask[30:40, 10:20] = mask[40:46, 30:40] = False
    pairs = {**MEASURED["pairs"], "mask": {"path": "mask.npy", "axes": "y x"}}
    kept = []
    for value in (np.nan, 1e6):
        write(fresh.folder, pairs=pairs, calibration={"coverage": 0.6})
        np.save(fresh.folder / "mask.npy", mask)
        for name in ("noisy.npy", "clean.npy"):
            content = np.load(fresh.folder / name)
            content[..., ~mask] = value
            np.save(fresh.folder / name, content)
        fresh.finish("--forceall")
        names = ("calibration/thresholds.json", "evaluation/channels.csv", "members/000/weights.safetensors", "latents/tokens.npz")
        kept.append({name: (fresh.results / name).read_bytes() for name in names})
    assert kept[0] == kept[1]


def test_new_data_in_a_zarr_source_are_noticed(fresh):
    """The metadata of a store stay as they are when its chunks are written anew."""
    write(fresh.folder, pairs={**MEASURED["pairs"], "clean": {"path": "clean.zarr", "axes": "channel y x"}})
    clean = zarr.create_array(fresh.folder / "clean.zarr", shape=(1, 48, 48), dtype="float32")
    for noise in np.random.default_rng(1).normal(size=(2, 1, 48, 48)):
        clean[...] = np.load(fresh.folder / "clean.npy") + noise
        assert fresh.plan()["ingest"] == 1
        fresh.finish("--until", "ingest")
        assert fresh.plan()["ingest"] == 0
