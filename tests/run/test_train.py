"""A training that is put down anywhere ends with the weights of one that was not."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from behindthenoise import config as settings
from behindthenoise.cli import main
from behindthenoise.config import TrainingConfig
from behindthenoise.errors import ConfigError
from behindthenoise.io.geometry import Geometry
from behindthenoise.run import train
from behindthenoise.run.networks import read_network
from behindthenoise.run.train import checkpoint_key, exchangeable_axes
from behindthenoise.stages import Spec, specification

CPU = torch.device("cpu")

SECTIONS = {
    "dataset": "tiny",
    "synthetic": {"shape": [24, 24], "images": 8},
    "split": {"by": "image"},
    "network": {"depth": 3, "width": 2, "radius_max": 3, "latent": 2, "head": 3},
}
# a checkpoint after every step, so that a kill may come at any
PROGRAM = "import sys; from behindthenoise.run import train; train.CHECKPOINT_S = 0.0; from behindthenoise.cli import main; "
PROGRAM += "sys.exit(main(sys.argv[1:]))"


def configure(steps=12, **training):
    return settings.parse({**SECTIONS, "training": {"patch": 16, "batch": 2, "steps": steps, "patience": 100, **training}})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Generated pairs and the architecture of one member."""
    folder, config = tmp_path_factory.mktemp("data"), configure()
    ingest = ["--store", str(folder / "pairs.zarr"), "--manifest", str(folder / "pairs.json")]
    assert main(["ingest", *ingest, "--spec", specification(config, "ingest")]) == 0
    wire = ["--pairs", str(folder / "pairs.json"), "--graph", str(folder / "graph.json"), "--member", "0"]
    assert main(["wire", *wire, "--spec", specification(config, "wire")]) == 0
    return folder


def arguments(data, folder, config, *, memory_gb=4.0, member=0):
    places = {"pairs": data / "pairs.zarr", "graph": data / "graph.json"}
    places |= {"weights": folder / "weights.safetensors", "history": folder / "history.csv", "manifest": folder / "train.json"}
    options = [text for name, path in places.items() for text in (f"--{name}", str(path))]
    options += ["--member", str(member), "--memory-gb", str(memory_gb), "--members-per-gpu", "1"]
    return ["train", *options, "--spec", specification(config, "train")]


def trained(data, folder, config, **choices):
    folder.mkdir(parents=True, exist_ok=True)
    assert main(arguments(data, folder, config, **choices)) == 0
    return (folder / "weights.safetensors").read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def history(folder):
    """Rows of the history without what the clock says."""
    with (folder / "history.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in ("time_s", "patches_per_s")} for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_training_from_disk_gives_the_same_weights_to_the_bit_as_training_in_memory(data, tmp_path, normalisation):
    config = configure(normalisation=normalisation)
    weights = [trained(data, tmp_path / str(memory), config, memory_gb=memory) for memory in (4.0, 1e-6)]
    assert weights[0] == weights[1]
    assert history(tmp_path / "4.0") == history(tmp_path / "1e-06")


def test_the_files_of_a_training_say_what_it_did(data, tmp_path):
    trained(data, tmp_path / "a", configure())
    assert names(tmp_path / "a") == ["history.csv", "train.json", "train.run.json", "weights.safetensors"], "no checkpoint is left"
    with (tmp_path / "a" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "validation", "learning_rate", "time_s", "patches_per_s"]
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    facts = json.loads((tmp_path / "a" / "train.json").read_text())
    best = min(rows, key=lambda row: float(row["validation"]))
    assert (facts["best_step"], facts["steps"]) == (int(best["step"]), 12)
    assert facts["validation_loss"] == pytest.approx(float(best["validation"]), rel=1e-5)
    network = read_network(data / "graph.json", tmp_path / "a" / "weights.safetensors", "float32")
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"] == network.architecture.parameters
    assert network.architecture.radius == facts["radius"]


def test_members_differ_although_their_architecture_is_the_same(data, tmp_path):
    first, second = (trained(data, tmp_path / str(member), configure(steps=3), member=member) for member in (0, 1))
    assert first != second


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 5, 12])
def test_a_signal_at_any_step_saves_and_the_next_run_goes_on_from_there(data, tmp_path, monkeypatch, capsys, number, step):
    config = configure()
    expected = trained(data, tmp_path / "undisturbed", config)
    advance, handlers = train.Training.advance, [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]

    def interrupted(training):
        row = advance(training)
        if training.step == step:
            os.kill(os.getpid(), number)
        return row

    folder = tmp_path / "stopped"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "advance", interrupted)
        assert main(arguments(data, folder, config)) == 2
    shown = capsys.readouterr().err
    assert f"btn train: error: stopped by {number.name} at step {step} of 12; {folder / 'checkpoint.safetensors'} holds" in shown
    assert names(folder) == ["checkpoint.safetensors"]
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert trained(data, folder, config) == expected
    assert f"goes on from {folder / 'checkpoint.safetensors'} at step {step}" in capsys.readouterr().err
    assert history(folder) == history(tmp_path / "undisturbed")
    assert "checkpoint.safetensors" not in names(folder)


def test_a_checkpoint_of_another_training_is_not_used(data, tmp_path, monkeypatch, capsys):
    expected = trained(data, tmp_path / "undisturbed", configure(learning_rate=0.03))
    folder = tmp_path / "stopped"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(train, "tell", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert main(arguments(data, folder, configure())) == 2
    capsys.readouterr()
    assert trained(data, folder, configure(learning_rate=0.03)) == expected
    told = capsys.readouterr().err
    assert "goes on from" not in told
    assert "is of other work or unreadable; starts anew" in told


def test_the_key_of_a_checkpoint_holds_all_that_a_training_depends_on(data, tmp_path):
    def key(config, folder=data, member=0, device=CPU):
        return checkpoint_key(
            Spec.parse(specification(config, "train"), "train"), folder / "pairs.zarr", folder / "graph.json", member, device
        )

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    assert key(configure(), copy) == key(configure())
    assert key(configure(memory_gb=1.0)) == key(configure()), "where the patches lie changes nothing"
    keys = [key(configure()), key(configure(steps=13)), key(configure(threads=2)), key(configure(), member=1)]
    keys.append(key(configure(), device=torch.device("cuda", 0)))
    assert key(configure(), device=torch.device("cuda", 1)) == keys[-1]
    facts = json.loads((copy / "pairs.json").read_text())
    (copy / "pairs.json").write_text(json.dumps({**facts, "digests": {**facts["digests"], "noisy": "another"}}))
    keys.append(key(configure(), copy))
    (copy / "pairs.json").write_text(json.dumps(facts))
    (copy / "graph.json").write_text((copy / "graph.json").read_text() + " ")
    keys.append(key(configure(), copy))
    assert len(set(keys)) == len(keys)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package as it is now, so that an edit during the tests changes nothing between one process and the next."""
    copy = tmp_path_factory.mktemp("package")
    shutil.copytree(Path(train.__file__).parents[1], copy / "behindthenoise", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def start(package, data, folder, config):
    """A training in a process of its own that saves after every step."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", PROGRAM, *arguments(data, folder, config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finished(process):
    """What a process says that is left alone."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def ended_by(process, checkpoint, number, wait_s):
    """What a process says that gets a signal some time after it has written a checkpoint of its own."""
    former = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    deadline = time.monotonic() + 120
    while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > former):
        assert process.poll() is None and time.monotonic() < deadline, "it ends or hangs without a checkpoint"
        time.sleep(0.005)
    time.sleep(wait_s)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_a_process_that_is_killed_again_and_again_ends_with_the_same_weights(package, data, tmp_path, normalisation):
    config, waits = configure(steps=400, normalisation=normalisation), random.Random(3)
    finished(start(package, data, tmp_path / "undisturbed", config))
    folder = tmp_path / "killed"
    for _ in range(3):
        process = start(package, data, folder, config)
        ended_by(process, folder / "checkpoint.safetensors", signal.SIGKILL, waits.uniform(0, 0.6))
        assert process.returncode == -signal.SIGKILL, "it was killed before it had ended"
        assert "weights.safetensors" not in names(folder)
    assert "goes on from" in finished(start(package, data, folder, config))
    weights = [(place / "weights.safetensors").read_bytes() for place in (folder, tmp_path / "undisturbed")]
    assert weights[0] == weights[1]
    assert history(folder) == history(tmp_path / "undisturbed")
    assert not [name for name in names(folder) if name.startswith("checkpoint")]


@pytest.mark.slow
def test_a_process_that_is_asked_to_end_saves_says_so_and_goes_on_later(package, data, tmp_path):
    config = configure(steps=400)
    finished(start(package, data, tmp_path / "undisturbed", config))
    folder = tmp_path / "stopped"
    process = start(package, data, folder, config)
    said = ended_by(process, folder / "checkpoint.safetensors", signal.SIGTERM, 0.2)
    assert process.returncode == 2
    assert "btn train: error: stopped by SIGTERM at step " in said
    assert "run the workflow again to go on from there" in said
    assert "Traceback" not in said
    assert names(folder) == ["checkpoint.safetensors"]
    assert "goes on from" in finished(start(package, data, folder, config))
    weights = [(place / "weights.safetensors").read_bytes() for place in (folder, tmp_path / "undisturbed")]
    assert weights[0] == weights[1]
    assert "checkpoint.safetensors" not in names(folder)


def test_weights_are_plain_numbers_of_the_folded_network(data, tmp_path):
    trained(data, tmp_path / "a", configure(normalisation="weight", steps=3))
    found = load_file(tmp_path / "a" / "weights.safetensors")
    assert {name.rsplit(".", 1)[1] for name in found} == {"weight", "bias"}
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def geometry(spacing, space="zyx", unit="um"):
    return Geometry(tuple(space[-len(spacing) :]), ("Fe",), "counts", tuple(spacing), unit)


def test_slices_whose_distance_nobody_gave_are_not_turned_into_the_image():
    assert exchangeable_axes(TrainingConfig(), geometry((1.0, 1.0, 1.0), unit="pixel")) == [1, 2]
    assert exchangeable_axes(TrainingConfig(turns=("z", "y", "x")), geometry((1.0, 1.0, 1.0), unit="pixel")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("turns", "spacing", "expected"),
    [
        ("auto", (1.0, 1.0), [0, 1]),
        ("auto", (1.0, 2.0), [[0], [1], []]),
        ("auto", (1.0, 1.0, 1.0), [0, 1, 2]),
        ("auto", (3.0, 1.0, 1.0), [1, 2]),
        ("auto", (1.0, 3.0, 1.0), [0, 2]),
        ("auto", (1.0, 1.0, 3.0), [0, 1]),
        ("auto", (1.0, 1.005, 1.0), [0, 1, 2]),
        ("auto", (5e-9, 1e-9, 1e-9), [1, 2]),
        ("none", (1.0, 1.0, 1.0), []),
        (("y", "x"), (1.0, 1.0, 1.0), [1, 2]),
        (("x", "z"), (1.0, 3.0, 1.0), [0, 2]),
        ((), (1.0, 1.0), []),
        (("x", "y"), (1e-9, 1e-9), [0, 1]),
    ],
    ids=str,
)
def test_axes_of_equal_spacing_may_be_exchanged(turns, spacing, expected):
    found = exchangeable_axes(TrainingConfig(turns=turns), geometry(spacing))
    # one axis alone is exchanged with nothing
    assert found in expected if expected and isinstance(expected[0], list) else found == expected


@given(st.permutations([1.0, 1.0, 1.005, 4.0]), st.integers(2, 3))
def test_axes_that_are_exchanged_by_themselves_have_the_same_spacing_and_there_are_no_more_of_them(spacing, ndim):
    steps = spacing[:ndim]
    found = exchangeable_axes(TrainingConfig(turns="auto"), geometry(steps))
    assert all(np.isclose(steps[one], steps[other], rtol=0.01) for one in found for other in found)
    assert len(found) == max(sum(np.isclose(one, other, rtol=0.01) for other in steps) for one in steps)


@pytest.mark.parametrize("decided", [[], ["y", "z"], ["z", "y", "x"]])
def test_what_the_configuration_decides_is_exchanged_whatever_files_tell(decided):
    found = exchangeable_axes(TrainingConfig(), geometry((3.0, 1.0, 1.0), unit="pixel"), decided)
    assert found == sorted("zyx".index(axis) for axis in decided)


def test_turns_about_an_axis_that_the_field_does_not_have_are_refused():
    with pytest.raises(ConfigError, match=r"training\.turns names z, but the field has y x; leave it out"):
        exchangeable_axes(TrainingConfig(turns=("z", "y")), geometry((1.0, 1.0)))


@pytest.mark.parametrize("steps", [(3.0, 1.0), (5e-9, 1e-9)])
def test_turns_between_axes_of_another_spacing_are_refused(steps):
    with pytest.raises(ConfigError, match=r"exchange axes of different spacing \(z [35].*, x 1.* um\); use auto or none"):
        exchangeable_axes(TrainingConfig(turns=("z", "x")), geometry((steps[0], steps[1], steps[1])))


def test_a_graph_that_cannot_be_read_ends_in_one_line(data, tmp_path, capsys):
    broken = Path(tmp_path / "graph.json")
    broken.write_text(json.dumps({**json.loads((data / "graph.json").read_text()), "version": 1}))
    options = [str(broken) if text == str(data / "graph.json") else text for text in arguments(data, tmp_path, configure())]
    assert main(options) == 2
    assert "btn train: error: graph has version 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("steps", [400, 30])
def test_a_training_that_a_killed_snakemake_has_left_hands_over(package, data, tmp_path, steps):
    """To one of the same settings its state; one of others begins anew, and what the former one had is not written over it."""
    config = configure(steps=steps)
    finished(start(package, data, tmp_path / "undisturbed", config))
    folder = tmp_path / "left"
    former = start(package, data, folder, configure(steps=400))
    while not (folder / "checkpoint.safetensors").exists():
        assert former.poll() is None
        time.sleep(0.005)
    former.send_signal(signal.SIGSTOP)  # until the other one has come
    heir = start(package, data, folder, config)
    while "asked to end" not in (line := heir.stdout.readline()):
        assert line, "it says nothing of the former one"
    assert f"process {former.pid} of an earlier run still makes {folder / 'train.json'}" in line
    former.send_signal(signal.SIGCONT)
    assert ("goes on from" if steps == 400 else "is of other work or unreadable") in finished(heir)
    assert "stopped by SIGTERM" in former.communicate(timeout=60)[0]
    weights = [(place / "weights.safetensors").read_bytes() for place in (folder, tmp_path / "undisturbed")]
    assert weights[0] == weights[1]
    assert history(folder) == history(tmp_path / "undisturbed")
    assert names(folder) == names(tmp_path / "undisturbed")
