"""Verb `check`: refuse before the first training what would fail after the last."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from behindthenoise.config import (
    CalibrationConfig,
    InferenceConfig,
    PairsConfig,
    RegionConfig,
    TokensConfig,
    TrainingConfig,
    VolumeConfig,
)
from behindthenoise.core import memory, windows
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.calibration.scores import expect_support
from behindthenoise.core.calibration.thresholds import expect_enough
from behindthenoise.core.split import CALIBRATION
from behindthenoise.errors import ConfigError, MemoryLimitError
from behindthenoise.io import stores
from behindthenoise.io.geometry import expect_axes
from behindthenoise.io.record import log, read_json
from behindthenoise.run.architectures import read_architecture
from behindthenoise.stages import Spec

LARGE = 1_000_000  # voxels along an axis: no tile reaches the end


def run(spec: Spec, *, pairs: Path, graph: Path) -> None:
    """Raise the error that a later verb would raise; do nothing otherwise."""
    facts = read_json(pairs)
    config = spec.get("calibration", CalibrationConfig)
    role = stores.whole_array(stores.open_group(pairs.with_suffix(".zarr")), "role")
    calibrates = (np.asarray(role[image]) == CALIBRATION for image in range(role.shape[0]))
    units = expect_enough(config, facts["value_unit"], calibrates, facts["scans"])
    for channel, (least, largest) in zip(facts["channels"], facts["clean_range"], strict=True):
        expect_support(config.support, channel, least, largest)
    expect_channels(spec.get("regions", dict[str, RegionConfig]), facts["channels"])
    like = spec.find("pairs", PairsConfig)
    places: list[PairsConfig | VolumeConfig] = [*spec.get("volumes", dict[str, VolumeConfig]).values(), *([like] if like else [])]
    for place in places:
        expect_axes(facts["space"], place.origin, place.spacing)
    inference = spec.get("inference", InferenceConfig)
    expect_voxels(spec.part("tokens", TokensConfig).least, facts["voxels"]["train"])
    # volumes may be larger than the field of the pairs, and then a tile is not cut at its end
    shape = [LARGE] * len(facts["shape"]) if spec.sections["volumes"] else facts["shape"]
    components = spec.get("tokens.components", int)
    layout = memory.lay_out(shape, [read_architecture(graph)], components, inference.memory_bytes, inference.tile_edge)
    log(f"check: {units} can carry guarantee {config.guarantee}")
    training = spec.part("training", TrainingConfig)
    expect_step(read_architecture(graph), training, facts["shape"])
    log(f"check: tiles of {layout.core} voxels, halo {layout.halo}, {layout.voxel_bytes} bytes per voxel")


def expect_channels(regions: Mapping[str, RegionConfig], channels: Sequence[str]) -> None:
    """
    Nothing, if the pairs have every channel in which regions are asked for.

    Raises
    ------
    ConfigError
        Names the channel and those that there are.
    """
    for name, region in regions.items():
        if region.channel not in channels:
            raise ConfigError(f"regions.{name}.channel is {region.channel!r}; the pairs have {', '.join(map(repr, channels))}")


def expect_step(architecture: Architecture, training: TrainingConfig, shape: Sequence[int]) -> None:
    """
    Nothing, if one step of a training fits into the memory of a training.

    Raises
    ------
    MemoryLimitError
        Says how much it takes.
    """
    window = [grid.window for grid in windows.lay_out(shape, training.patch, architecture.radius)[0]]
    needed = memory.BASELINE_BYTES + memory.step_bytes(architecture, training.batch, window)
    if needed > training.memory_gb * 1e9:
        raise MemoryLimitError(
            f"a training step on {training.batch} patches of {' x '.join(map(str, window))} voxels needs up to {needed / 1e9:.1f} "
            f"GB, training.memory_gb allows {training.memory_gb:g}; use a smaller training.patch or batch, or more memory"
        )


def expect_voxels(tokens: int, trains: int) -> None:
    """
    Nothing, if there are enough training voxels to cluster.

    Raises
    ------
    ConfigError
        Says how many there are.
    """
    if tokens > trains:
        raise ConfigError(f"tokens.count is {tokens}, but only {trains} voxels train; ask for fewer tokens")
