"""The ensemble's held-out quantiles beside the truth, as flat arrays of the voxels of one role."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int

from behindthenoise.io import stores
from behindthenoise.run.pairs import Pairs


@dataclass(frozen=True)
class HeldOut:
    """
    Voxels of one role and one channel, all scans one after another.

    Attributes
    ----------
    quantiles
        Lower, median and upper, in units of the clean image.
    noisy
        The fast scan, on the clean image's scale.
    truth
        The slow scan.
    unit
        Id of the block or image; the scans of a field share it.
    """

    quantiles: Float32[np.ndarray, " 3 n"]
    noisy: Float32[np.ndarray, " n"]
    truth: Float32[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]


def select(pairs: Pairs, store: Path, role: int, channel: int) -> HeldOut:
    """Held-out voxels of one role and channel."""
    array = stores.get_array(stores.open_group(store), "quantiles")
    chosen: Bool[np.ndarray, " image *space"] = pairs.split.role == role
    quantiles, noisy, truth, unit = [], [], [], []
    matched = pairs.scale.match_noisy(pairs.noisy, axis=2)
    for image in np.flatnonzero(chosen.reshape(len(chosen), -1).any(axis=1)).tolist():
        where = chosen[image]
        for scan in range(pairs.noisy.shape[1]):
            quantiles.append(np.asarray(array[image, scan, :, channel])[:, where])
            noisy.append(matched[image, scan, channel][where])
            truth.append(pairs.clean[image, channel][where])
            unit.append(pairs.split.unit[image][where])
    return HeldOut(np.concatenate(quantiles, axis=1), np.concatenate(noisy), np.concatenate(truth), np.concatenate(unit))
