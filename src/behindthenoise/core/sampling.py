"""Samples of voxels: those that the projection and the tokens are fitted on, with each other's company, and plain ones."""

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
from jaxtyping import Bool, Int

COMPANY = (2, 5)  # voxels; how far a voxel's company stands: beyond one point spread, within most structures
CROWD, REACH = 32, 4  # sampled voxels around one centre, and how far from it they are, in voxels
CROP, FEWEST_CROPS = 32, 64  # voxels along an edge of a crop: its margin costs little more than itself; crops of a volume


@dataclass(frozen=True, eq=False)
class Drawn:
    """
    Sampled voxels.

    Attributes
    ----------
    voxels
        Flat index of each in (image, *space), rising.
    pairs
        Places, in `voxels`, of two that are each other's company.
    """

    voxels: Int[np.ndarray, " n"]
    pairs: Int[np.ndarray, " pair 2"]


def draw_sample(trains: Bool[np.ndarray, " image *space"], size: int, seed: int) -> Drawn:
    """
    At most `size` training voxels in small crowds, which are spread evenly over all of them.

    A crowd are up to 32 voxels at most 4 voxels from a centre; two of a crowd keep company if they are 2 to 5 voxels apart.
    There are fewer voxels where crowds overlap, or reach beyond the training voxels; where these are not more, all are taken.
    """
    random = np.random.default_rng(seed)
    candidates = np.flatnonzero(trains)
    strata = np.linspace(0, candidates.size, min(max(size // CROWD, 1), candidates.size) + 1)
    centres = candidates[np.floor(random.uniform(strata[:-1], strata[1:])).astype(np.int64)]
    steps = _ball(trains.ndim - 1)
    order = random.permuted(np.broadcast_to(np.arange(1, len(steps)), (centres.size, len(steps) - 1)), axis=1)
    chosen = steps[np.concatenate([np.zeros((centres.size, 1), int), order[:, : min(CROWD, size) - 1]], axis=1)]
    image, *position = np.unravel_index(centres, trains.shape)
    there = np.stack(position, axis=-1)[:, None] + chosen
    inside = ((there >= 0) & (there < np.array(trains.shape[1:]))).all(axis=-1)
    places = np.where(inside[..., None], there, 0)
    flat = np.ravel_multi_index((image[:, None], *np.moveaxis(places, -1, 0)), trains.shape)
    inside &= trains.ravel()[flat]
    # where all fit, all are taken
    voxels = np.unique(flat[inside]) if candidates.size > size else candidates
    apart = np.linalg.norm(chosen[:, :, None] - chosen[:, None], axis=-1)
    near, far = COMPANY
    together = (apart >= near) & (apart <= far) & inside[:, :, None] & inside[:, None]
    crowd, one, other = np.nonzero(np.triu(together))
    return Drawn(voxels, np.searchsorted(voxels, np.stack([flat[crowd, one], flat[crowd, other]], axis=1)))


def occupied(mask: Bool[np.ndarray, " *space"]) -> Bool[np.ndarray, " *grid"]:
    """Which crops, on a grid from the first voxel on, hold a voxel of the mask."""
    for axis, size in enumerate(mask.shape):
        mask = np.logical_or.reduceat(mask, np.arange(0, size, CROP), axis=axis)
    return mask


def draw_crops(grid: Bool[np.ndarray, " *grid"], size: int, seed: int) -> Int[np.ndarray, " crop axis"]:
    """
    First voxels of crops that hold at least twice `size` voxels, if there are so many, spread evenly over those that are occupied.

    Parameters
    ----------
    grid
        From `occupied`.
    """
    random = np.random.default_rng(seed)
    candidates = np.flatnonzero(grid)
    count = max(FEWEST_CROPS, ceil(2 * size / CROP**grid.ndim))
    strata = np.linspace(0, candidates.size, min(count, candidates.size) + 1).astype(np.int64)
    chosen = candidates[random.integers(strata[:-1], strata[1:])]
    return CROP * np.stack(np.unravel_index(chosen, grid.shape), axis=-1)


def _ball(ndim: int) -> Int[np.ndarray, " step ndim"]:
    """Steps to all voxels of a ball, the centre first."""
    steps = np.array(list(product(range(-REACH, REACH + 1), repeat=ndim)))
    steps = steps[np.linalg.norm(steps, axis=1) <= REACH]
    return np.asarray(steps[np.argsort(np.linalg.norm(steps, axis=1), kind="stable")])


def subsample(size: int, limit: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Indices of `limit` of `size` voxels, drawn without replacement, rising; all where there are no more."""
    return np.arange(size) if size <= limit else np.sort(rng.choice(size, limit, replace=False, shuffle=False))
