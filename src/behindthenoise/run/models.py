"""Samples of voxels and projections on disk: plain numbers, nothing that could run code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from behindthenoise.core.embedding import Projection
from behindthenoise.io.npz import read_npz, write_npz


@dataclass(frozen=True)
class Sample:
    """
    What one member says about sampled voxels: of the training data, and then of volumes that tokens are fitted on as well.

    Attributes
    ----------
    voxels
        Flat index of each training voxel in (image, *space), rising; of a voxel of a volume, -1 minus its flat index in (*space).
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

    @property
    def trains(self) -> Bool[np.ndarray, " n"]:
        """Which voxels are training voxels."""
        return self.voxels >= 0

    @property
    def of_training(self) -> "Sample":
        """The training voxels alone."""
        count = int(self.trains.sum())  # they come first
        pairs = self.pairs[(self.pairs < count).all(axis=1)]
        return Sample(self.voxels[:count], self.latents[:count], self.quantiles[..., :count], pairs)

    def joined(self, other: "Sample") -> "Sample":
        """These voxels, then those of another sample."""
        return Sample(
            np.concatenate([self.voxels, other.voxels]),
            np.concatenate([self.latents, other.latents]),
            np.concatenate([self.quantiles, other.quantiles], axis=-1),
            np.concatenate([self.pairs, other.pairs + len(self.voxels)]),
        )


def write_sample(path: Path, sample: Sample) -> None:
    """Write one member's sample."""
    write_npz(path, vars(sample))


def read_samples(paths: Sequence[Path]) -> list[Sample]:
    """Every member's sample of the same voxels."""
    return [Sample(**read_npz(path)) for path in paths]


def write_projection(path: Path, projection: Projection, explained: Float[np.ndarray, " component"]) -> None:
    """Write the affine map from latents to embedding, with the share of variance of each component."""
    write_npz(path, {"matrices": np.stack(projection.matrices), "offset": projection.offset, "explained": explained})


def read_explained(path: Path) -> Float[np.ndarray, " component"]:
    """Share of the latents' variance that each component holds."""
    return read_npz(path)["explained"]


def read_projection(path: Path) -> Projection:
    """Read the affine map from latents to embedding."""
    content = read_npz(path)
    return Projection(tuple(content["matrices"]), content["offset"])
