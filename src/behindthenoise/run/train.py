"""Verb `train`: pairs and architecture → trained weights of one member."""

import csv
import hashlib
import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from behindthenoise.config import Space, TrainingConfig, alike
from behindthenoise.core.network import Network
from behindthenoise.core.training import Progress, Training, assess
from behindthenoise.errors import ConfigError, StoppedError
from behindthenoise.io.checkpoint import read_checkpoint, write_checkpoint
from behindthenoise.io.geometry import Geometry
from behindthenoise.io.record import file_digest, log, read_json, write_json
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.architectures import read_architecture
from behindthenoise.run.examples import load_examples
from behindthenoise.stages import TURNS, Spec

CHECKPOINT_S = 30.0  # between two checkpoints: what a kill may cost


def run(
    spec: Spec,
    *,
    pairs: Path,
    graph: Path,
    weights: Path,
    history: Path,
    manifest: Path,
    member: int,
    memory_gb: float,
    members_per_gpu: int,
) -> None:
    """Write the weights, the history of the losses, and the manifest; go on from a checkpoint where there is one."""
    config, seed = spec.part("training", TrainingConfig), spec.get("ensemble.seed", int)
    torch.set_num_threads(config.threads)
    architecture = read_architecture(graph)
    device = on_disk.device(sharers=members_per_gpu)
    if config.precision == "bfloat16" and device.type == "cpu":
        log("train: gradients in bfloat16 cannot be trusted on a CPU; trains in float32")
    exchangeable = exchangeable_axes(config, store_of_pairs.read_geometry_by_files(pairs), spec.find(TURNS, list))
    learn, held_out = load_examples(
        pairs,
        config,
        architecture,
        np.random.default_rng([seed, member, 1]),
        memory_bytes=int(memory_gb * 1e9),
        device=device,
    )
    log(
        f"train: member {member} on {device}, {architecture.parameters} parameters, radius {architecture.radius}, "
        f"{len(learn)} patches, {len(held_out)} held out"
    )
    training = Training(
        Network(architecture, normalisation=config.normalisation, precision=config.precision).to(device),
        learn,
        held_out,
        config,
        seed=[seed, member, 2],
        exchangeable=exchangeable,
    )
    accelerate(training.network, learn.batch(np.zeros(config.batch, dtype=np.int64)).noisy)
    checkpoint = weights.with_name("checkpoint.safetensors")
    advance_to_end(training, checkpoint, checkpoint_key(spec, pairs, graph, member, device))
    trained = training.result()
    quality = assess(trained, held_out, config)
    on_disk.write_weights(weights, trained)
    write_history(history, training.history)
    best = min(training.history, key=lambda row: row.validation)
    log(f"train: best state at step {best.step}, validation loss {best.validation:.5f}, correlation {quality.correlation:.4f}")
    write_json(
        manifest,
        {
            "stage": "train",
            "member": member,
            "seed": seed,
            "spec": spec.as_data(),
            "weights": file_digest(weights),
            "graph": file_digest(graph),
            "parameters": architecture.parameters,
            "radius": architecture.radius,
            "operations_per_voxel": architecture.operations,
            "best_step": best.step,
            "steps": training.step,
            "validation_loss": quality.loss,
            "validation_correlation": quality.correlation,
            "validation_error": quality.mean_squared_error**0.5,
        },
    )
    checkpoint.unlink(missing_ok=True)


def accelerate(network: Network, sample: torch.Tensor) -> None:
    """
    On a GPU, record the launches of a training step once and replay them: networks as small as these are bound by launching.

    Calls in training mode are replayed, and must have the sample's shape; others run as ever.
    """
    if not sample.is_cuda:
        return
    try:
        torch.cuda.make_graphed_callables(network, (sample,))
    except RuntimeError as problem:
        log(f"train: CUDA graphs are not possible here, each step launches its kernels one by one ({problem})")


def advance_to_end(training: Training, checkpoint: Path, key: str) -> None:
    """
    Train until it is finished, with a checkpoint now and then, from the last one if there is one.

    Raises
    ------
    StoppedError
        If the process is asked to end; the state is on disk then.
    """
    kept = read_checkpoint(checkpoint, key)
    if kept is not None:
        training.restore(*kept)
        log(f"train: goes on from {checkpoint} at step {training.step}")
    elif checkpoint.exists():
        log(f"train: {checkpoint} is of other work or unreadable; starts anew")
    saved = time.monotonic()
    with asked_to_stop() as requests:
        while not training.finished:
            row = training.advance()
            if row is not None:
                tell(row, training.config.steps)
            if requests or time.monotonic() - saved > CHECKPOINT_S:
                write_checkpoint(checkpoint, key, *training.state())
                saved = time.monotonic()
            if requests:
                raise StoppedError(
                    f"stopped by {signal.Signals(requests[0]).name} at step {training.step} of {training.config.steps}; "
                    f"{checkpoint} holds the state; run the workflow again to go on from there"
                )


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Signals that asked this process to end, collected instead of obeyed, so that a step is not cut off."""
    requests: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _: requests.append(number)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield requests
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def checkpoint_key(spec: Spec, pairs: Path, graph: Path, member: int, device: torch.device) -> str:
    """What the state of a training depends on: specification, member, architecture, content of the pairs, torch, kind of device."""
    digests = read_json(pairs.with_suffix(".json")).get("digests")
    content = [spec.as_data(), member, file_digest(graph), digests, torch.__version__, device.type]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_history(path: Path, rows: list[Progress]) -> None:
    """Write one line for each validation."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0].as_row()))
        writer.writeheader()
        writer.writerows(row.as_row() for row in rows)


def exchangeable_axes(config: TrainingConfig, geometry: Geometry, decided: Sequence[Space] | None = None) -> list[int]:
    """
    Spatial axes that quarter turns may exchange.

    Parameters
    ----------
    geometry
        As files tell it.
    decided
        What `turns: auto` means by the config's sizes of voxels; None where it gives none, or none that decides anything.

    Raises
    ------
    ConfigError
        If axes are asked for that the field does not have, or whose spacing differs.
    """
    spacing = dict(zip(geometry.space, geometry.spacing, strict=True))
    if decided is not None:
        spacing, chosen = dict.fromkeys(geometry.space, 1.0), list(decided)
    elif config.turns == "auto":
        chosen = alike(spacing)
        if geometry.unit == "pixel":  # nobody said how far slices are apart
            chosen = [axis for axis in chosen if axis != "z"]
    else:
        chosen = [] if config.turns == "none" else list(config.turns)
    if unknown := sorted(set(chosen) - set(spacing)):
        raise ConfigError(f"training.turns names {' '.join(unknown)}, but the field has {' '.join(spacing)}; leave it out")
    if chosen and not np.allclose([spacing[axis] for axis in chosen], spacing[chosen[0]], rtol=0.01, atol=0):
        steps = ", ".join(f"{axis} {spacing[axis]:g}" for axis in chosen)
        raise ConfigError(f"training.turns would exchange axes of different spacing ({steps} {geometry.unit}); use auto or none")
    return sorted(geometry.space.index(axis) for axis in chosen)


def tell(row: Progress, steps: int) -> None:
    """One line of progress with the time that is left if training does not stop early."""
    left = row.time_s / row.step * (steps - row.step)
    log(
        f"step {row.step}/{steps}: loss {row.loss:.5f}, validation {row.validation:.5f}, rate {row.learning_rate:.2e}, "
        f"at most {left:.0f} s left"
    )
