"""The fit of the projection from the joined latents of all members to the embedding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA

from behindthenoise.core.embedding import Projection

DEAD = 1e-6  # spread of latents over their size below which they are one constant


def fit_projection(
    latents: Sequence[Float[np.ndarray, " n latent"]], components: int
) -> tuple[Projection, Float[np.ndarray, " component"]]:
    """
    Projection of the joined latents of all members, and the share of variance that each component explains.

    Each member's latents are divided by their total spread, so that no member dominates; principal components follow, at their
    own scale: what is spread more by whitening is mostly noise.

    Parameters
    ----------
    latents
        For each member, the latents of the same n sampled voxels.
    components
        Components to keep; fewer where the latents have fewer.
    """
    means = [member.mean(axis=0, dtype=np.float64) for member in latents]
    spreads = [_spread(member) for member in latents]
    joined = np.concatenate([(z - m) / s for z, m, s in zip(latents, means, spreads, strict=True)], axis=1)
    analysis = PCA(min(components, *joined.shape), svd_solver="covariance_eigh").fit(joined)
    matrix = analysis.components_
    blocks = np.split(matrix, np.cumsum([member.shape[1] for member in latents])[:-1], axis=1)
    matrices = [block / spread for block, spread in zip(blocks, spreads, strict=True)]
    offset = -sum(block @ mean for block, mean in zip(matrices, means, strict=True)) - matrix @ analysis.mean_
    projection = Projection(tuple(block.astype(np.float32) for block in matrices), offset.astype(np.float32))
    return projection, analysis.explained_variance_ratio_


def _spread(member: Float[np.ndarray, " n latent"]) -> float:
    """Total spread of one member's latents; infinite, so that it adds nothing, where it is no more than rounding."""
    spread = float(np.sqrt(member.var(axis=0, dtype=np.float64).sum()))
    return spread if spread > DEAD * float(np.abs(member).max(initial=0)) else np.inf
