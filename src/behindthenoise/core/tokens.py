"""Tokens: a tree of them, the token of every embedded voxel, and how unlike the training voxels it is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

UNASSIGNED = 0
DISTANCES, SMALLEST = 98304, 1024  # computed at once, so that they stay in the cache; for at least so many voxels


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

    def largest(self, count: int) -> Int[np.ndarray, " token"]:
        """Largest finest token, from 0, in each of so many tokens."""
        belongs = self.levels[count - 1] == np.arange(1, count + 1)[:, None]
        return np.asarray(np.where(belongs, self.sizes, -1).argmax(axis=1))


@dataclass(frozen=True, eq=False)
class TokenModel:
    """
    Tokens at one level of a tree, and how far from their centroids the voxels lie that they were fitted on.

    Attributes
    ----------
    tree
        Where they come from.
    count
        How many tokens there are.
    reference
        For each token, squared distances of its voxels in the sample to the nearest centroid, rising.
    """

    tree: TokenTree
    count: int
    reference: tuple[Float32[np.ndarray, " _"], ...]

    @classmethod
    def of_centroids(cls, centroids: Float[np.ndarray, " token component"]) -> "TokenModel":
        """Tokens at given places, without a coarser level between them and one; nothing is known of their voxels in a sample."""
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


def nearest(
    tree: TokenTree, embedding: Float[np.ndarray, " component *space"]
) -> tuple[UInt8[np.ndarray, " *space"], Float32[np.ndarray, " *space"]]:
    """Number of the nearest finest token of every voxel, from 1, and the squared distance to it; 0 and NaN where masked (NaN)."""
    points, count = embedding.reshape(len(embedding), -1), len(tree.centroids)
    finest, distances = np.empty(points.shape[1], np.uint8), np.empty(points.shape[1], np.float32)
    # |x - c|² = |x|² - 2 (x·c - |c|²/2): the bracket is a product of matrices, and largest for the nearest
    planes = np.hstack([tree.centroids, -0.5 * (tree.centroids**2).sum(axis=1, keepdims=True)])
    ranks = np.arange(count, 0, -1, dtype=np.uint8)[:, None]  # the first is highest, and wins where two are as near
    size = max(SMALLEST, DISTANCES // count)
    for start in range(0, points.shape[1], size):
        piece = points[:, start : start + size].astype(np.float32)
        nearness = planes @ np.vstack([piece, np.ones_like(piece[:1])])
        rank = ((nearness == nearness.max(axis=0)) * ranks).max(axis=0)  # 0 where masked, as NaN is equal to nothing
        finest[start : start + size] = np.where(rank, count - rank + 1, UNASSIGNED)
        offsets = piece - tree.centroids.T[:, count - np.maximum(rank, 1)]
        distances[start : start + size] = np.where(rank, (offsets**2).sum(axis=0), np.nan)
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

    NaN where there is no token, and where a token has no training voxel. The tokens are those of training voxels alone.

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
