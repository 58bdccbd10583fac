"""The command `btn plan`: what training and the volumes of a configuration will cost, before anything is trained."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from behindthenoise.config import Config, load
from behindthenoise.core import architecture as architectures
from behindthenoise.core import memory, patches, tiling, windows
from behindthenoise.core import split as splitting
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.calibration.thresholds import expect_enough
from behindthenoise.core.network import Network
from behindthenoise.core.training import Training
from behindthenoise.io.finished import PRIMARIES
from behindthenoise.io.geometry import UNNAMED, Axes, told_by
from behindthenoise.io.volumes import STATISTICS
from behindthenoise.run import check, fetch, ingest, place
from behindthenoise.run import networks as on_disk
from behindthenoise.run.status import jobs_of
from behindthenoise.run.train import accelerate
from behindthenoise.words import counted, in_bytes, in_edges, in_time

STEPS_TIMED = 3  # after a first one, which allocates
MOST_TIMED = 3  # members; the others are taken to be as fast for each multiply-add


@dataclass(frozen=True)
class Field:
    """Name, shape and number of channels of one volume, and whether its file does not name each of several."""

    name: str
    shape: tuple[int, ...]
    channels: int
    unnamed: bool = False


@dataclass(frozen=True, eq=False)
class Pairs:
    """Number of fast scans, where there are data, axes, and what the sources tell of their voxels."""

    scans: int
    mask: Bool[np.ndarray, " image *space"]
    axes: Axes
    told: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of one image."""
        return self.mask.shape[1:]


def plan(path: Path) -> str:
    """
    What trains and calibrates, time of training, tiles, memory, storage and time of every volume, and what the workflow takes.

    Raises
    ------
    BehindTheNoiseError
        If the configuration is wrong, a source cannot be read, or a volume does not fit the memory.
    """
    config = load(path)
    pairs = pairs_of(config)
    every = list(fields(config, pairs))
    drawn = drawn_of(config, every[0])
    blocks = [
        divided(config, pairs),
        training(config, drawn, every[0]),
        *(described(config, drawn, field) for field in every),
    ]
    return "\n\n".join("\n".join(block) for block in [*blocks, besides(config)])


def besides(config: Config) -> Iterator[str]:
    """What the workflow costs however little there is to compute."""
    count, seconds = sum(map(len, jobs_of(config).values())), seconds_of_start()
    yield (
        f"besides: {counted(count, 'job')} in all, of which each takes about {seconds:.2g} s to start: "
        f"{in_time(count * seconds)} on one core"
    )
    yield "  steps that run no network read the pairs and volumes again, some seconds for each million values (docs/clusters.md)"


def seconds_of_start() -> float:
    """Seconds that a job takes before it computes anything."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import behindthenoise.run.predict"], check=True)
    return time.perf_counter() - start


def drawn_of(config: Config, field: Field) -> list[Architecture]:
    """The architectures that `wire` will draw."""
    generators = [architectures.generator(config.ensemble.seed, member) for member in range(config.ensemble.size)]
    return [architectures.draw(config.network, random, ndim=len(field.shape), channels=field.channels) for random in generators]


def pairs_of(config: Config) -> Pairs:
    """What is known of the pairs from the metadata of their sources, which must fit together, and from the mask."""
    if config.pairs is not None:
        noisy, slow, lazy_mask, axes = ingest.opened(config.pairs)
        mask = ingest.read_mask_of(config.pairs, lazy_mask, (slow.shape[0], *slow.shape[3:]))
        return Pairs(noisy.shape[1], mask, axes, ingest.told_by_both(noisy, slow))
    assert config.synthetic is not None
    mask = np.ones((config.synthetic.images, *config.synthetic.shape), bool)
    return Pairs(config.synthetic.scans, mask, ingest.generated_axes(config.synthetic), {})


def divided(config: Config, pairs: Pairs) -> Iterator[str]:
    """What trains, calibrates and tests, and whether that can carry the guarantee."""
    gap = splitting.gap_of(config.split, config.network.radius_max)
    split = splitting.split(config.split, pairs.mask, gap)
    calibrates = split.role == splitting.CALIBRATION
    units = expect_enough(config.calibration, pairs.axes.value_unit, calibrates, pairs.scans)
    counts = ", ".join(f"{name} {np.mean(split.role == value):.0%}" for name, value in splitting.ROLES.items())
    yield (
        f"split: {counted(pairs.scans, 'scan')} of {counted(len(pairs.mask), 'image')} of {in_edges(pairs.shape)} voxels: "
        f"{counts}; {gap} voxels between roles"
    )
    yield f"  {units} can carry guarantee {config.calibration.guarantee}, if they are alike"


def fields(config: Config, pairs: Pairs) -> Iterator[Field]:
    """The field of the pairs, then the volumes; of sources only the metadata are read, and they must fit together."""
    axes = pairs.axes
    check.expect_channels(config.regions, axes.channels)
    trained, count = place.of_pairs(config.pairs, axes, pairs.told), len(axes.channels)
    yield Field("field", pairs.shape, count)
    for name, volume in config.volumes.items():
        if volume.synthetic is not None:
            place.of_volume(volume, None, trained, {})
            yield Field(name, tuple(volume.synthetic), count)
        else:
            found, _ = fetch.read(volume, config.pairs, axes)
            place.of_volume(volume, config.pairs, trained, told_by(found.attrs))
            yield Field(name, found.shape[1:], count, UNNAMED in found.attrs)


def training(config: Config, drawn: Sequence[Architecture], field: Field) -> Iterator[str]:
    """What is to be known of training, line by line."""
    window = windows_of(config, drawn[0], field)
    seconds = seconds_of_training(config, drawn, window)
    steps, batch, threads = config.training.steps, config.training.batch, config.training.threads
    yield f"training: {counted(len(drawn), 'member')}, each {steps} steps of {batch} patches of {in_edges(window)}"
    yield (
        f"  {in_time(seconds / len(drawn))} a member on this {on_disk.device().type} with {counted(threads, 'thread')}, "
        f"{in_time(seconds)} for all, shared by the members that train side by side; less where one stops early"
    )


def windows_of(config: Config, architecture: Architecture, field: Field) -> list[int]:
    """Edges of a training patch."""
    return [grid.window for grid in windows.lay_out(field.shape, config.training.patch, architecture.radius)[0]]


def seconds_of_training(config: Config, drawn: Sequence[Architecture], window: Sequence[int]) -> float:
    """Seconds that all members take to train, one after another, from a few steps of some of them on random numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.training.threads)
    timed = drawn[:MOST_TIMED]
    total = sum(_seconds_of_step(config, architecture, window) for architecture in timed) * config.training.steps
    torch.set_num_threads(threads)
    return total * sum(one.operations for one in drawn) / sum(one.operations for one in timed)


def _seconds_of_step(config: Config, architecture: Architecture, window: Sequence[int]) -> float:
    device, batch = on_disk.device(), config.training.batch
    noisy, clean = (torch.randn(batch, channels, *window) for channels in (architecture.in_channels, architecture.out_channels))
    pairs = torch.arange(batch)[:, None].expand(batch, 2)
    examples = patches.Patches(noisy, clean, torch.ones(batch, 1, *window), pairs, device).on(device)
    network = Network(architecture, normalisation=config.training.normalisation, precision=config.training.precision).to(device)
    started = Training(network, examples, examples, config.training, seed=[0])
    accelerate(network, examples.batch(np.zeros(batch, dtype=np.int64)).noisy)
    taken = []
    for _ in range(1 + STEPS_TIMED):
        start = time.perf_counter()
        started.advance()
        float(next(network.parameters()).detach().sum())  # waits for the device
        taken.append(time.perf_counter() - start)
    return sorted(taken[1:])[STEPS_TIMED // 2]


def described(config: Config, drawn: Sequence[Architecture], field: Field) -> Iterator[str]:
    """What is to be known of one volume, line by line."""
    inference, shape = config.inference, field.shape
    components = min(config.tokens.components, sum(architecture.latent for architecture in drawn))
    layout = memory.lay_out(shape, drawn, components, inference.memory_bytes, inference.tile_edge)
    core, halo, voxels = layout.core, layout.halo, prod(shape)
    tiles, shards = tiling.tiles(shape, core, halo), tiling.tiles(shape, layout.shard, 0)
    read = sum(prod(part.stop - part.start for part in tile.read) for tile in tiles)
    raw, finished = voxels * (16 * field.channels + 2 * components), voxels * finished_bytes(config, field.channels)
    seconds = seconds_of(drawn, core, halo)
    unnamed = ", not each of which its file names: taken in the order of the pairs" * field.unnamed
    yield f"volume {field.name}: {in_edges(shape)} voxels, channels {field.channels}{unnamed}"
    more = 100 * (read / voxels - 1)
    yield f"  {counted(len(tiles), 'tile')} of {in_edges(core)}, halo {halo}: {more:.0f} % more voxels read than written"
    yield f"  {counted(len(shards), 'shard')} of {in_edges(layout.shard)}, for {counted(inference.jobs, 'job')}"
    yield f"  memory of a job: at most {layout.peak_bytes / 1e9:.2f} GB of {inference.memory_gb:g} GB"
    yield (
        f"  storage before compression: input {in_bytes(4 * voxels * field.channels)}, raw results {in_bytes(raw)}, "
        f"finished volume {in_bytes(finished)} and its pyramid"
    )
    yield (
        f"  {len(drawn)} networks take {1e6 * seconds / prod(core):.3g} s for a million voxels on this {on_disk.device().type} "
        f"with {counted(torch.get_num_threads(), 'thread')}: "
        f"{in_time(voxels * seconds / prod(core))} for all, shared by the jobs that run side by side"
    )


def finished_bytes(config: Config, channels: int) -> int:
    """Bytes of a voxel in a finished volume: statistics and novelty, tokens at two levels, false colours, and what is asked for."""
    values = len(STATISTICS) * channels + 1 + channels * config.inference.spread
    return 4 * values + 2 + len(PRIMARIES) + bool(config.tokens.classes)


def seconds_of(drawn: Sequence[Architecture], core: Sequence[int], halo: int) -> float:
    """Seconds that all networks take for one tile, from some of them, untrained, on random numbers."""
    timed = drawn[:MOST_TIMED]
    random = np.random.default_rng(0)
    tile = torch.from_numpy(random.normal(size=(1, drawn[0].in_channels, *(edge + 2 * halo for edge in core))).astype(np.float32))
    tile = tile.to(on_disk.device())
    total = 0.0
    for architecture in timed:
        network = Network(architecture).eval().to(tile.device)
        total += min(_seconds(network, tile, halo) for _ in range(2))
    return total * sum(one.operations for one in drawn) / sum(one.operations for one in timed)


@torch.no_grad()
def _seconds(network: Network, tile: torch.Tensor, halo: int) -> float:
    start = time.perf_counter()
    quantiles, _ = network(tile, [(halo, halo)] * network.architecture.ndim)
    quantiles.sum().item()  # waits for the device
    return time.perf_counter() - start
