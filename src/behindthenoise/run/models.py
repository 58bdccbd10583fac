"""Samples of training voxels and projections on disk: plain numbers, nothing that could run code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int

from behindthenoise.core.embedding import Projection


@dataclass(frozen=True)
class Sample:
    """
    What one member says about sampled training voxels.

    Attributes
    ----------
    voxels
        Flat index of each voxel in (image, *space), rising.
    latents
        Latent vectors.
    quantiles
        Lower, median and upper quantile of every channel, in units of the clean image.
    pairs
        Places of two voxels that are each other's company.
    """

    voxels: Int[np.ndarray, " n"]
    latents: Float32[np.ndarray, " n latent"]
    quantiles: Float32[np.ndarray, " 3 c n"]
    pairs: Int[np.ndarray, " pair 2"]


def write_sample(path: Path, sample: Sample) -> None:
    """Write one member's sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **vars(sample))


def read_samples(paths: Sequence[Path]) -> list[Sample]:
    """Every member's sample of the same voxels."""
    found = []
    for path in paths:
        with np.load(path) as content:
            found.append(Sample(**content))
    return found


def write_projection(path: Path, projection: Projection, explained: Float[np.ndarray, " component"]) -> None:
    """Write the affine map from latents to embedding, with the share of variance of each component."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, matrices=np.stack(projection.matrices), offset=projection.offset, explained=explained)


def read_projection(path: Path) -> Projection:
    """Read the affine map from latents to embedding."""
    with np.load(path) as content:
        return Projection(tuple(content["matrices"]), content["offset"])
