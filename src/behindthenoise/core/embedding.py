"""The embedding: the ensemble's joined latents, projected."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16

STORED = np.float16  # finer than what seeds or members do to an embedding, by far


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


def embed(projection: Projection, latents: Sequence[Float[np.ndarray, " n latent"]]) -> Float[np.ndarray, " n component"]:
    """Embedding of sampled voxels."""
    parts = [z @ matrix.T for z, matrix in zip(latents, projection.matrices, strict=True)]
    return np.asarray(sum(parts) + projection.offset, dtype=np.float32)


def stored(embedding: Float[np.ndarray, " *shape"]) -> Float16[np.ndarray, " *shape"]:
    """The embedding as it is kept, where held-out voxels and volumes get their tokens from; beyond its range, the end of it."""
    largest = np.finfo(STORED).max
    return np.asarray(np.clip(embedding, -largest, largest), dtype=STORED)
