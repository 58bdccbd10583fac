"""Training examples: where they lie, and which of them only choose the best state."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int

from behindthenoise.config import TrainingConfig
from behindthenoise.core import patches as patching
from behindthenoise.core import windows
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.memory import resident_bytes, step_bytes
from behindthenoise.core.patches import Examples
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN, training_units
from behindthenoise.errors import SplitError
from behindthenoise.io.record import log
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run import streaming
from behindthenoise.run.pairs import Loaded


def load_examples(
    pairs: Path,
    config: TrainingConfig,
    architecture: Architecture,
    random: np.random.Generator,
    *,
    memory_bytes: int,
    device: torch.device,
) -> tuple[Examples, Examples]:
    """
    Examples to learn from, and examples of other training units that choose the best state.

    They lie on the device if they fit there, else in memory if they fit there, else in the store of the pairs; what they hold
    does not depend on that.
    """
    images, scans, channels, *shape = store_of_pairs.noisy_shape(pairs)
    radius = architecture.radius
    steps = [(grid.window, grid.step) for grid in windows.lay_out(shape, config.patch, radius)[0]]
    needed = resident_bytes(shape, (images, scans, channels), steps, streaming.training_images(pairs))
    needed += step_bytes(architecture, config.batch, [window for window, _ in steps])
    if needed > memory_bytes:
        log(f"train: patches would take {needed / 1e9:.2f} GB of {memory_bytes / 1e9:.2f}, so they are read as they are drawn")
        learn, held_out = validation_split(streaming.training_units(pairs), config.validation, random)
        return streaming.stream(pairs, learn, config, radius, device), streaming.stream(pairs, held_out, config, radius, device)
    loaded = store_of_pairs.read(pairs)
    learn, held_out = validation_split(training_units(loaded.split), config.validation, random)
    return placed(cut(loaded, learn, config, radius), device), placed(cut(loaded, held_out, config, radius), device)


def placed(patches: patching.Patches, device: torch.device) -> patching.Patches:
    """Patches on the device, where half of its free memory holds them; otherwise where they are."""
    free = on_disk.free_bytes(device)
    if free is not None and patches.bytes() > free // 2:
        log(f"train: {patches.bytes() / 1e9:.2f} GB of patches stay in main memory")
        return patches.serving(device)
    return patches.on(device)


def validation_split(
    units: Int[np.ndarray, " unit"], share: float, random: np.random.Generator
) -> tuple[Int[np.ndarray, " learn"], Int[np.ndarray, " held_out"]]:
    """
    Training units to learn from, and training units that only choose the best state.

    Raises
    ------
    SplitError
        If there is only one training unit.
    """
    if len(units) < 2:
        raise SplitError(
            "1 training block or image cannot be shared between learning and validation, which takes at least 2; "
            "use a smaller split.block"
        )
    count = min(max(round(share * len(units)), 1), len(units) - 1)
    chosen = random.choice(units, size=count, replace=False)
    return np.setdiff1d(units, chosen), np.sort(chosen)


def cut(pairs: Loaded, units: Int[np.ndarray, " unit"], config: TrainingConfig, radius: int) -> patching.Patches:
    """Patches in which these training units count; voxels that calibrate or test are blanked, though no loss could reach them."""
    counts: Bool[np.ndarray, " image *space"] = (pairs.split.role == TRAIN) & np.isin(pairs.split.unit, units)
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
