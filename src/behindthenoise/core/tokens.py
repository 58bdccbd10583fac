"""Tokens: the ensemble's joined latents, projected to an embedding and clustered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from behindthenoise.core.inference import Projection

UNASSIGNED = 0


@dataclass(frozen=True)
class TokenModel:
    """Centroids of the tokens in the embedding, in the order of their numbers 1 to k."""

    centroids: Float[np.ndarray, " k component"]


def draw_sample(trains: Bool[np.ndarray, " image *space"], size: int, seed: int) -> Int[np.ndarray, " n"]:
    """Flat indices of random training voxels, rising; all of them where there are fewer than `size`."""
    candidates = np.flatnonzero(trains)
    chosen = np.random.default_rng(seed).choice(candidates, size=min(size, candidates.size), replace=False)
    return np.sort(chosen)


def fit_projection(
    latents: Sequence[Float[np.ndarray, " n latent"]], components: int
) -> tuple[Projection, Float[np.ndarray, " component"]]:
    """
    Projection of the joined latents of all members, and the share of variance that each component explains.

    Each member's latents are divided by their total spread, so that no member dominates; principal components follow,
    scaled by the fourth root of their variance, half way between raw and whitened.

    Parameters
    ----------
    latents
        For each member, the latents of the same n sampled voxels.
    components
        Components to keep; fewer where the latents have fewer.
    """
    means = [member.mean(axis=0) for member in latents]
    spreads = [max(float(np.sqrt(member.var(axis=0).sum())), 1e-12) for member in latents]
    joined = np.concatenate([(z - m) / s for z, m, s in zip(latents, means, spreads, strict=True)], axis=1)
    analysis = PCA(min(components, *joined.shape), svd_solver="covariance_eigh").fit(joined)
    weights = np.maximum(analysis.explained_variance_, 1e-12) ** -0.25
    matrix = analysis.components_ * weights[:, None]
    blocks = np.split(matrix, np.cumsum([member.shape[1] for member in latents])[:-1], axis=1)
    matrices = [block / spread for block, spread in zip(blocks, spreads, strict=True)]
    offset = -sum(block @ mean for block, mean in zip(matrices, means, strict=True)) - matrix @ analysis.mean_
    projection = Projection(tuple(block.astype(np.float32) for block in matrices), offset.astype(np.float32))
    return projection, analysis.explained_variance_ratio_


def embed(projection: Projection, latents: Sequence[Float[np.ndarray, " n latent"]]) -> Float[np.ndarray, " n component"]:
    """Embedding of sampled voxels."""
    parts = [z @ matrix.T for z, matrix in zip(latents, projection.matrices, strict=True)]
    return np.asarray(sum(parts) + projection.offset, dtype=np.float32)


def fit_tokens(
    embedding: Float[np.ndarray, " n component"], intensity: Float[np.ndarray, " n"], count: int, seed: int
) -> TokenModel:
    """
    Clusters of the sampled embedding, numbered by rising mean intensity.

    Parameters
    ----------
    intensity
        Predicted median of the first channel at the sampled voxels.
    """
    clusters = KMeans(count, n_init=10, random_state=seed).fit(embedding)
    sizes = np.bincount(clusters.labels_, minlength=count)
    means = np.bincount(clusters.labels_, weights=intensity, minlength=count) / np.maximum(sizes, 1)
    return TokenModel(clusters.cluster_centers_[np.argsort(means, kind="stable")].astype(np.float32))


def assign(model: TokenModel, embedding: Float[np.ndarray, " component *space"]) -> UInt8[np.ndarray, " *space"]:
    """Number of the nearest token of every voxel, from 1; 0 where the embedding is NaN (masked)."""
    points = embedding.reshape(len(embedding), -1)
    nearness = model.centroids @ points - 0.5 * (model.centroids**2).sum(axis=1)[:, None]
    labels = (np.argmax(nearness, axis=0) + 1).astype(np.uint8)
    labels[_masked(points)] = UNASSIGNED
    return np.asarray(labels.reshape(embedding.shape[1:]))


def _masked(points: Float[np.ndarray, " component n"]) -> Bool[np.ndarray, " n"]:
    return np.asarray(np.isnan(points).any(axis=0))
