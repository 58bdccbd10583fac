"""Verb `score`: held-out quantiles and truth → conformity scores of the calibration voxels."""

from pathlib import Path

import numpy as np

from behindthenoise.core import calibration
from behindthenoise.core.split import CALIBRATION
from behindthenoise.io.record import log
from behindthenoise.run import heldout as held_out
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, heldout: Path, scores: Path) -> None:
    """Write the scores of every channel, and the unit of each voxel; also those of the noisy scan taken as its own prediction."""
    loaded = store_of_pairs.read(pairs)
    content: dict[str, np.ndarray] = {}
    for channel in range(len(loaded.geometry.channels)):
        found = held_out.select(loaded, heldout, int(CALIBRATION), channel)
        lower, _, upper = calibration.rearrange(*found.quantiles)
        content[f"score_{channel}"] = calibration.scores(lower, upper, found.truth)
        content[f"noisy_{channel}"] = calibration.scores(found.noisy, found.noisy, found.truth)
        content["unit"] = found.unit
    log(f"score: {content['unit'].size} voxels of {np.unique(content['unit']).size} units")
    scores.parent.mkdir(parents=True, exist_ok=True)
    np.savez(scores, **content)  # type: ignore[arg-type]  # numpy's stub takes the names for flags
