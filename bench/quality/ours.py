"""
An ensemble of this project, each member trained for so many seconds of CPU time.

    python bench/quality/ours.py DATA.npz OUT.npz --seconds 120 --members 1 --network '{"depth": 20}' --training '{"batch": 8}'

What is not given is the configuration's default. Each member is trained on one thread, as many at a time as there are cores; the
prediction is the mean of their medians. How many steps fit is measured on a few steps first, which are thrown away.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from behindthenoise.config import NetworkConfig, TrainingConfig
from behindthenoise.core import architecture, patches
from behindthenoise.core.inference import run_member
from behindthenoise.core.network import Network
from behindthenoise.core.scale import Scale
from behindthenoise.core.training import VALIDATIONS, Training, validate
from behindthenoise.run.networks import keep_freed_memory

BLOCK = 64  # voxels; the edge of the blocks that are learned from or validated on as a whole
PROBE = 10  # steps


@dataclass(frozen=True)
class Pairs:
    """Standardised training pairs, and how to get back."""

    noisy: np.ndarray
    clean: np.ndarray
    scale: Scale


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--network", type=json.loads, default={}, help="settings of section `network`, as JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="settings of section `training`, as JSON")
    options = parser.parse_args()
    with np.load(options.data) as loaded:
        noisy, clean, test = loaded["train_noisy"], loaded["train_clean"], loaded["test_noisy"]
    pairs = standardised(noisy, clean)
    with ProcessPoolExecutor(min(options.members, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        results = list(
            pool.map(predicted, *zip(*[(options, pairs, test, member) for member in range(options.members)], strict=True))
        )
    total, members = sum(medians for medians, _ in results), [told for _, told in results]
    told = {key: sum(member[key] for member in members) for key in ("seconds", "parameters")} | {"members": members}
    np.savez(options.out, prediction=(total / options.members).astype(np.float32), told=json.dumps(told))
    print(json.dumps(told))


def predicted(options: argparse.Namespace, pairs: Pairs, test: np.ndarray, member: int) -> tuple[np.ndarray, dict[str, float]]:
    """Medians of one member on the test part, and what its training took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    network, told = trained(options, pairs, member)
    return medians(network, pairs.scale, test), told


def trained(options: argparse.Namespace, pairs: Pairs, member: int) -> tuple[Network, dict[str, float]]:
    """One member, and what its training took."""
    seed = (options.seed, member)
    channels = pairs.clean.shape[1]
    drawn = architecture.draw(NetworkConfig(**options.network), architecture.generator(*seed), ndim=2, channels=channels)
    config = TrainingConfig(**{"patience": VALIDATIONS, **options.training})
    config = config.model_copy(update={"steps": affordable_steps(drawn, pairs, config, seed, options.seconds)})
    start = time.process_time()
    training = begun(drawn, pairs, config, seed)
    while not training.finished:
        training.advance()
    network = training.result()
    seconds = time.process_time() - start
    return network, {"seconds": seconds, "parameters": drawn.parameters, "steps": training.step, "loss": training.best_loss}


def standardised(noisy: np.ndarray, clean: np.ndarray) -> Pairs:
    """Training pairs with mean 0 and variance 1 in each channel."""
    values = [*((part.mean(axes), part.std(axes)) for part, axes in ((noisy, (0, 1, 3, 4)), (clean, (0, 2, 3))))]
    (noisy_shift, noisy_scale), (clean_shift, clean_scale) = ([tuple(map(float, row)) for row in pair] for pair in values)
    none = (1.0,) * clean.shape[1]
    scale = Scale(noisy_shift, noisy_scale, clean_shift, clean_scale, none, none)
    return Pairs(standard_noisy(scale, noisy), scale.standardise_clean(clean, axis=1).astype(np.float32), scale)


def standard_noisy(scale: Scale, noisy: np.ndarray) -> np.ndarray:
    """Nothing is masked in these data."""
    seen = np.ones((*noisy.shape[:2], *noisy.shape[3:]), bool)
    return scale.standardise_noisy(noisy, seen, axis=2).astype(np.float32)


def begun(drawn: architecture.Architecture, pairs: Pairs, config: TrainingConfig, seed: tuple[int, int]) -> Training:
    """A training that is ready for its first step."""
    held_out = np.isin(blocks(pairs.clean[:, 0].shape), drawn_blocks(pairs, config, seed))
    learn, validation = (
        patches.cut(
            pairs.noisy,
            pairs.clean,
            counts,
            patch=config.patch,
            border=drawn.radius,
            border_weight=config.border_weight,
        )
        for counts in (~held_out, held_out)
    )
    network = Network(drawn, normalisation=config.normalisation, precision=config.precision)
    return Training(network, learn, validation, config, seed=[*seed, 2], exchangeable=(0, 1) if config.turns == "auto" else ())


def blocks(shape: tuple[int, ...]) -> np.ndarray:
    """Id of the block of each voxel: images of that size are one block each."""
    image, row, column = np.ogrid[tuple(map(slice, shape))]
    rows, columns = (-(-size // BLOCK) for size in shape[1:])
    return (image * rows + row // BLOCK) * columns + column // BLOCK


def drawn_blocks(pairs: Pairs, config: TrainingConfig, seed: tuple[int, int]) -> np.ndarray:
    """Blocks of the training part that only choose the best state."""
    ids = np.unique(blocks(pairs.clean[:, 0].shape))
    return np.random.default_rng([*seed, 1]).choice(ids, size=max(round(config.validation * len(ids)), 1), replace=False)


def affordable_steps(
    drawn: architecture.Architecture, pairs: Pairs, config: TrainingConfig, seed: tuple[int, int], seconds: float
) -> int:
    """Steps that fit into the seconds, validations included."""
    probe = begun(drawn, pairs, config.model_copy(update={"steps": 1000 * VALIDATIONS}), seed)
    probe.advance()  # the first step also allocates
    start = time.process_time()
    for _ in range(PROBE):
        probe.advance()
    step = (time.process_time() - start) / PROBE
    start = time.process_time()
    validate(probe.network, probe.held_out, config)
    validation = time.process_time() - start
    return max(int((seconds - VALIDATIONS * validation) / step), 1)


def medians(network: Network, scale: Scale, noisy: np.ndarray) -> np.ndarray:
    """Median of every scan in physical units."""
    standard = standard_noisy(scale, noisy)
    scans = [[run_member(network, scan)[0][1] for scan in image] for image in standard]
    return scale.restore_clean(np.array(scans), axis=2)


if __name__ == "__main__":
    main()
