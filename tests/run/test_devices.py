"""Whatever runs networks does so on another device than the CPU, with the same results; a real GPU is asked for nothing here."""

import contextlib
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from safetensors.torch import load_file

from behindthenoise import config as settings
from behindthenoise.cli import main
from behindthenoise.config import TrainingConfig
from behindthenoise.stages import specification

STAND_IN = Path(__file__).with_name("stand_in.py")
SECTIONS = {
    "dataset": "tiny",
    "synthetic": {"shape": [24, 24], "images": 8},
    "split": {"by": "image"},
    "network": {"depth": 3, "width": 2, "radius_max": 3, "latent": 2, "head": 3},
    "ensemble": {"size": 1},
    "training": {"patch": 16, "batch": 2, "steps": 12, "patience": 100},
    "inference": {"memory_gb": 2},
    "volumes": {"large": {"synthetic": [400, 300]}},
}
# one part for the CPU and one for the device lie side by side in folder {out}
VERBS = {
    "ingest": "--store pairs.zarr --manifest pairs.json",
    "wire": "--pairs pairs.json --graph graph.json --member 0",
    "fetch": "--name large --pairs pairs.zarr --store large.zarr --manifest large.json",
    "train": "--pairs pairs.zarr --graph graph.json --weights {out}/weights.safetensors --history {out}/history.csv "
    "--manifest {out}/train.json --member 0 --memory-gb {memory_gb} --members-per-gpu 1",
    "predict": "--pairs pairs.zarr --volumes --graph graph.json --weights cpu/weights.safetensors "
    "--store {out}/predicted.zarr --latents {out}/latents.npz --manifest {out}/predict.json",
    "embed": "--latents cpu/latents.npz --projection projection.npz",
    "plan": "--volume large.zarr --graphs graph.json --store {out}/raw.zarr",
    "infer": "--pairs pairs.zarr --volume large.zarr --graphs graph.json --weights cpu/weights.safetensors "
    "--projection projection.npz --store {out}/raw.zarr --manifest {out}/infer.json --share 1-of-1",
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums are added up in another order where memory is laid out otherwise


def words(verb, out="cpu", memory_gb=4, **training):
    """A verb with its arguments."""
    config = settings.parse({**SECTIONS, "training": {**SECTIONS["training"], **training}})
    return [verb, *VERBS[verb].format(out=out, memory_gb=memory_gb).split(), "--spec", specification(config, verb, volume="large")]


def on_cpu(folder, *given, **changed):
    with contextlib.chdir(folder):
        assert main(words(*given, **changed)) == 0


def on_stand_in(folder, arguments, free_bytes=10**10, status=0):
    """What is said on another device."""
    command = [sys.executable, str(STAND_IN), str(free_bytes), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, a volume, and one member with its projection and its results on the CPU."""
    folder = tmp_path_factory.mktemp("devices")
    (folder / "cpu").mkdir()
    for verb in VERBS:
        on_cpu(folder, verb)
    return folder


def weights(folder, out):
    return load_file(folder / out / "weights.safetensors")


def losses(folder, out):
    with (folder / out / "history.csv").open() as file:
        return [float(row["validation"]) for row in csv.DictReader(file)]


def assert_trained_alike(folder, first, second, **tolerance):
    found, expected = weights(folder, first), weights(folder, second)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, **tolerance)
    np.testing.assert_allclose(losses(folder, first), losses(folder, second), **tolerance)


def test_the_stand_in_refuses_what_a_gpu_refuses():
    program = (
        "import torch, stand_in; stand_in.prepare(); there = torch.device(stand_in.NAME, 0)\n"
        "with stand_in.OnStandIn():\n"
        "    tensor = torch.ones(2, 3).to(there)\n"
        "    assert (tensor + 1).device == there and (tensor.sum() + torch.tensor(1.0)).cpu() == 7\n"
        "    assert tensor[torch.tensor([1])].device == there\n"
        "    for act in (lambda: tensor + torch.ones(2, 3), lambda: torch.ones(2, 3)[tensor[0].long()], tensor.numpy):\n"
        "        try:\n"
        "            act()\n"
        "        except (RuntimeError, TypeError):\n"
        "            continue\n"
        "        raise SystemExit('not refused')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{STAND_IN.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.parametrize("normalisation", TrainingConfig.model_fields["normalisation"].annotation.__args__)
def test_networks_train_there_as_they_do_on_the_cpu(folder, normalisation):
    outs = [f"{normalisation} {device}".replace(" ", "_") for device in ("cpu", "there")]
    for out in outs:
        (folder / out).mkdir()
    on_cpu(folder, "train", outs[0], normalisation=normalisation)
    said = on_stand_in(folder, words("train", outs[1], normalisation=normalisation))
    assert "train: member 0 on stand_in:0" in said
    assert_trained_alike(folder, *outs, **CLOSE)


def test_gradients_in_bfloat16_are_taken_there(folder):
    (folder / "bfloat16").mkdir()
    on_stand_in(folder, words("train", "bfloat16", precision="bfloat16"))
    assert_trained_alike(folder, "bfloat16", "cpu", rtol=0.1, atol=0.01)
    assert losses(folder, "bfloat16") != losses(folder, "cpu")


@pytest.mark.parametrize(
    ("out", "memory_gb", "free_bytes", "told"),
    [("serving", 4, 1000, "of patches stay in main memory"), ("streamed", 1e-6, 10**10, "so they are read as they are drawn")],
)
def test_where_the_patches_lie_changes_nothing(folder, out, memory_gb, free_bytes, told):
    (folder / out).mkdir()
    assert told in on_stand_in(folder, words("train", out, memory_gb=memory_gb), free_bytes)
    assert_trained_alike(folder, out, "cpu", **CLOSE)


def test_a_training_that_was_stopped_there_goes_on(folder):
    (folder / "stopped").mkdir()
    command = words("train", "stopped")
    assert "stopped by SIGTERM at step 1 of 12" in on_stand_in(folder, ["--stop", *command], status=2)
    assert "goes on from stopped/checkpoint.safetensors at step 1" in on_stand_in(folder, command)
    assert_trained_alike(folder, "stopped", "cpu", **CLOSE)


def test_a_member_predicts_there_what_it_predicts_on_the_cpu(folder):
    (folder / "there").mkdir(exist_ok=True)
    on_stand_in(folder, words("predict", "there"))
    found, expected = (zarr.open_group(folder / out / "predicted.zarr", mode="r") for out in ("there", "cpu"))
    for name in ("quantiles", "latents"):
        np.testing.assert_allclose(found[name][...], expected[name][...], **CLOSE)
    found, expected = (np.load(folder / out / "latents.npz") for out in ("there", "cpu"))
    assert found.files == expected.files
    for name in found.files:
        np.testing.assert_allclose(found[name], expected[name], **CLOSE)


def test_a_volume_is_computed_there_in_tiles_that_fit(folder):
    (folder / "there").mkdir(exist_ok=True)
    on_cpu(folder, "plan", "there")
    said = on_stand_in(folder, words("infer", "there"), free_bytes=5_000_000)
    assert "infer: 1 networks on stand_in:0, tiles of (" in said
    expected = zarr.open_group(folder / "cpu" / "raw.zarr", mode="r")
    found = zarr.open_group(folder / "there" / "raw.zarr", mode="r")
    assert set(found.array_keys()) == set(expected.array_keys())
    for name in expected.array_keys():
        values = expected[name][...].astype(np.float64)
        np.testing.assert_allclose(found[name][...].astype(np.float64), values, rtol=1e-3, atol=1e-3 * np.nanstd(values))


def test_a_tile_that_does_not_fit_there_is_refused(folder):
    (folder / "small").mkdir()
    on_cpu(folder, "plan", "small")
    said = on_stand_in(folder, words("infer", "small"), free_bytes=1000, status=2)
    assert "does not fit into the 0.00 GB that are free on the device" in said


def test_what_a_run_takes_is_measured_there(folder):
    (folder / "config.yaml").write_text(yaml.safe_dump(SECTIONS))
    assert "a member on this stand_in with" in on_stand_in(folder, ["plan", "config.yaml"])
