"""Fits of the projection and of the tokens, on a sample of training voxels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from behindthenoise.core.tokens import Projection, TokenModel


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
