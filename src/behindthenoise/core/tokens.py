"""Tokens: the ensemble's joined latents, projected to an embedding, and the token of every voxel."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int, UInt8

UNASSIGNED = 0
STORED = np.float16  # of an embedding: finer than what seeds or members do to it, by far
COMPANY = (2, 5)  # voxels; how far a voxel's company stands: beyond one point spread, within most structures
CROWD, REACH = 32, 4  # sampled voxels around one centre, and how far from it they are, in voxels
PIECE = 2048  # voxels compared at once with all centroids, so that their distances stay in the cache


@dataclass(frozen=True)
class Projection:
    """
    Affine map from the joined latents of all members to the embedding.

    Attributes
    ----------
    matrices
        One per member, (component, latent): an embedding is the sum over members, so latents are never stored.
    offset
        Constant, (component,).
    """

    matrices: tuple[Float[np.ndarray, " component latent"], ...]
    offset: Float[np.ndarray, " component"]


@dataclass(frozen=True, eq=False)
class TokenTree:
    """
    Tokens at every level of detail: from a level to the next coarser one, two tokens become one.

    Attributes
    ----------
    centroids
        Of the finest tokens, in the embedding.
    sizes
        Sampled voxels in each finest token.
    levels
        Row k - 1 holds, for k tokens, the number of the token that each finest one belongs to. At every level numbers go from 1,
        by rising mean intensity.
    memory
        For k tokens, how much of the k-th distinction between them one step through the image leaves: 1 where neighbours always
        share it, 0 where they never do better than chance.
    """

    centroids: Float32[np.ndarray, " finest component"]
    sizes: Int[np.ndarray, " finest"]
    levels: UInt8[np.ndarray, " level finest"]
    memory: Float64[np.ndarray, " level"]


@dataclass(frozen=True, eq=False)
class TokenModel:
    """
    Tokens at one level of a tree, and how far from their centroids training voxels lie.

    Attributes
    ----------
    tree
        Where they come from.
    count
        How many tokens there are.
    reference
        For each token, squared distances of its training voxels to the nearest centroid, rising.
    """

    tree: TokenTree
    count: int
    reference: tuple[Float32[np.ndarray, " _"], ...]

    @classmethod
    def of_centroids(cls, centroids: Float[np.ndarray, " token component"]) -> "TokenModel":
        """Tokens at given places, without a coarser level between them and one; nothing is known of their training voxels."""
        count = len(centroids)
        levels = np.array([np.minimum(np.arange(1, count + 1), level) for level in range(1, count + 1)], np.uint8)
        tree = TokenTree(np.asarray(centroids, np.float32), np.ones(count, int), levels, np.ones(count))
        return cls(tree, count, (np.zeros(0, np.float32),) * count)

    @property
    def token_of(self) -> UInt8[np.ndarray, " finest"]:
        """Token, from 1, of each finest token."""
        return np.asarray(self.tree.levels[self.count - 1])

    @property
    def centres(self) -> Float[np.ndarray, " token component"]:
        """Where each token lies in the embedding: the mean over its sampled voxels."""
        belongs = self.token_of == np.arange(1, self.count + 1)[:, None]
        weights = np.where(belongs, np.maximum(self.tree.sizes, 1), 0)
        return np.asarray(weights @ self.tree.centroids.astype(np.float64) / weights.sum(axis=1, keepdims=True))

    @property
    def largest(self) -> Int[np.ndarray, " token"]:
        """Largest finest token, from 0, in each token: what keeps its colour when there are more tokens or fewer."""
        belongs = self.token_of == np.arange(1, self.count + 1)[:, None]
        return np.asarray(np.where(belongs, self.tree.sizes, -1).argmax(axis=1))


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


def _ball(ndim: int) -> Int[np.ndarray, " step ndim"]:
    """Steps to all voxels of a ball, the centre first."""
    steps = np.array(list(product(range(-REACH, REACH + 1), repeat=ndim)))
    steps = steps[np.linalg.norm(steps, axis=1) <= REACH]
    return np.asarray(steps[np.argsort(np.linalg.norm(steps, axis=1), kind="stable")])


def embed(projection: Projection, latents: Sequence[Float[np.ndarray, " n latent"]]) -> Float[np.ndarray, " n component"]:
    """Embedding of sampled voxels."""
    parts = [z @ matrix.T for z, matrix in zip(latents, projection.matrices, strict=True)]
    return np.asarray(sum(parts) + projection.offset, dtype=np.float32)


def stored(embedding: Float[np.ndarray, " *shape"]) -> Float16[np.ndarray, " *shape"]:
    """The embedding as it is kept, where held-out voxels and volumes get their tokens from; beyond its range, the end of it."""
    largest = np.finfo(STORED).max
    return np.asarray(np.clip(embedding, -largest, largest), dtype=STORED)


def nearest(
    tree: TokenTree, embedding: Float[np.ndarray, " component *space"]
) -> tuple[UInt8[np.ndarray, " *space"], Float32[np.ndarray, " *space"]]:
    """Number of the nearest finest token of every voxel, from 1, and the squared distance to it; 0 and NaN where masked (NaN)."""
    points = embedding.reshape(len(embedding), -1)
    finest, distances = np.empty(points.shape[1], np.uint8), np.empty(points.shape[1], np.float32)
    constant = 0.5 * (tree.centroids**2).sum(axis=1)
    for start in range(0, points.shape[1], PIECE):
        piece = np.ascontiguousarray(points[:, start : start + PIECE].T, dtype=np.float32)
        nearness = piece @ tree.centroids.T - constant
        best = nearness.argmax(axis=1)
        finest[start : start + PIECE] = best + 1
        distances[start : start + PIECE] = ((piece - tree.centroids[best]) ** 2).sum(axis=1)
    finest[np.isnan(distances)] = UNASSIGNED
    return finest.reshape(embedding.shape[1:]), distances.reshape(embedding.shape[1:])


def tokens_of(model: TokenModel, finest: UInt8[np.ndarray, " *space"]) -> UInt8[np.ndarray, " *space"]:
    """Token of every voxel whose finest token is known; 0 stays 0."""
    return np.asarray(np.concatenate([[UNASSIGNED], model.token_of]).astype(np.uint8)[finest])


def assign(model: TokenModel, embedding: Float[np.ndarray, " component *space"]) -> UInt8[np.ndarray, " *space"]:
    """Token of every voxel, from 1; 0 where the embedding is NaN (masked)."""
    return tokens_of(model, nearest(model.tree, embedding)[0])


def novelty(
    model: TokenModel, tokens: UInt8[np.ndarray, " *space"], distances: Float32[np.ndarray, " *space"]
) -> Float32[np.ndarray, " *space"]:
    """
    Share of a token's training voxels that lie nearer to the centroids than a voxel does, in [0, 1).

    NaN where there is no token, and where a token has no training voxel.

    One minus it is a conformal p-value: a voxel like the training voxels of its token has a novelty above 0.99 in one case of 100.

    Parameters
    ----------
    distances
        From `nearest`.

    References
    ----------
    Bates, Candès, Lei, Romano & Sesia (2023), Annals of Statistics 51, 149-178.
    """
    found = np.full(tokens.shape, np.nan, np.float32)
    for token, reference in enumerate(model.reference, start=1):
        if not reference.size:
            continue
        chosen = tokens == token
        # as many as are strictly nearer: a distance that training voxels have too is not new
        found[chosen] = np.searchsorted(reference, distances[chosen], side="left") / (reference.size + 1)
    return found
