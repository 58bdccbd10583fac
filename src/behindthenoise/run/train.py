"""Verb `train`: pairs and graph → trained weights of one member."""

import csv
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from behindthenoise.config import NetworkConfig, TrainingConfig
from behindthenoise.core import network as networks
from behindthenoise.core import patches as patching
from behindthenoise.core import training
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN, Split, training_units
from behindthenoise.errors import SplitError
from behindthenoise.io.record import file_digest, log, write_json
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.graphs import read_graph
from behindthenoise.run.pairs import Pairs
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, graph: Path, weights: Path, history: Path, manifest: Path, member: int) -> None:
    """Write the weights, the history of the losses, and the manifest."""
    config, seed = spec.get("training", TrainingConfig), spec.get("ensemble.seed", int)
    torch.set_num_threads(config.threads)
    loaded = store_of_pairs.read(pairs)
    drawn = read_graph(graph)
    device = on_disk.device()
    network = on_disk.build_network(
        drawn, spec.get("network", NetworkConfig), channels=len(loaded.geometry.channels), ndim=len(loaded.shape)
    ).to(device)
    examples, held_out = (
        cut(loaded, counts, config, drawn.radius).to(device)
        for counts in validation_split(loaded.split, config.validation, np.random.default_rng([seed, member, 1]))
    )
    log(
        f"train: member {member} on {device}, {networks.parameter_count(network)} parameters, radius {drawn.radius}, "
        f"{len(examples.pairs)} patches, {len(held_out.pairs)} held out"
    )
    random = torch.Generator().manual_seed(int(np.random.default_rng([seed, member, 2]).integers(2**63)))
    rows = training.train(network, examples, held_out, config, random, lambda row: tell(row, config.steps))
    on_disk.write_weights(weights, network)
    with history.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0].as_row()))
        writer.writeheader()
        writer.writerows(row.as_row() for row in rows)
    best = min(rows, key=lambda row: row.validation)
    log(f"train: best state at step {best.step}, validation loss {best.validation:.5f}")
    write_json(
        manifest,
        {
            "stage": "train",
            "member": member,
            "seed": seed,
            "spec": spec.as_data(),
            "weights": file_digest(weights),
            "graph": file_digest(graph),
            "parameters": networks.parameter_count(network),
            "radius": drawn.radius,
            "best_step": best.step,
            "steps": rows[-1].step,
            "validation_loss": best.validation,
        },
    )


def validation_split(
    split: Split, share: float, random: np.random.Generator
) -> tuple[Bool[np.ndarray, " image *space"], Bool[np.ndarray, " image *space"]]:
    """
    Voxels to learn from, and voxels of whole training units that only choose the best state.

    Raises
    ------
    SplitError
        If there is only one training unit.
    """
    units = training_units(split)
    if len(units) < 2:
        raise SplitError(
            "1 training block or image cannot be shared between learning and validation, which takes at least 2; "
            "use a smaller split.block"
        )
    count = min(max(round(share * len(units)), 1), len(units) - 1)
    chosen = np.isin(split.unit, random.choice(units, size=count, replace=False))
    trains = split.role == TRAIN
    return trains & ~chosen, trains & chosen


def cut(pairs: Pairs, counts: Bool[np.ndarray, " image *space"], config: TrainingConfig, radius: int) -> patching.Patches:
    """Patches of the images that train; voxels that calibrate or test are blanked, though no loss could reach them."""
    used = counts.reshape(len(counts), -1).any(axis=1)
    role = pairs.split.role[used]
    visible = pairs.mask[used] & (role != CALIBRATION) & (role != TEST)
    noisy, clean = pairs.noisy[used], pairs.clean[used]
    seen = np.broadcast_to(visible[:, None], (*noisy.shape[:2], *visible.shape[1:]))
    return patching.cut(
        pairs.scale.standardise_noisy(noisy, seen, axis=2),
        np.nan_to_num(pairs.scale.standardise_clean(clean, axis=1)),
        counts[used],
        patch=config.patch,
        border=radius,
        border_weight=config.border_weight,
    )


def tell(row: training.Progress, steps: int) -> None:
    """One line of progress with the time that is left if training does not stop early."""
    left = row.time_s / row.step * (steps - row.step)
    log(
        f"step {row.step}/{steps}: loss {row.loss:.5f}, validation {row.validation:.5f}, rate {row.learning_rate:.2e}, "
        f"at most {left:.0f} s left"
    )
