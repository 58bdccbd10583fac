"""Tokens: the ensemble's joined latents, projected to an embedding, and the nearest token of every voxel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float16, Int, UInt8

UNASSIGNED = 0
STORED = np.float16  # of an embedding: finer than what seeds or members do to it, by far


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


@dataclass(frozen=True)
class TokenModel:
    """Centroids of the tokens in the embedding, in the order of their numbers 1 to k."""

    centroids: Float[np.ndarray, " k component"]


def draw_sample(trains: Bool[np.ndarray, " image *space"], size: int, seed: int) -> Int[np.ndarray, " n"]:
    """Flat indices of random training voxels, rising; all of them where there are fewer than `size`."""
    candidates = np.flatnonzero(trains)
    chosen = np.random.default_rng(seed).choice(candidates, size=min(size, candidates.size), replace=False)
    return np.sort(chosen)


def embed(projection: Projection, latents: Sequence[Float[np.ndarray, " n latent"]]) -> Float[np.ndarray, " n component"]:
    """Embedding of sampled voxels."""
    parts = [z @ matrix.T for z, matrix in zip(latents, projection.matrices, strict=True)]
    return np.asarray(sum(parts) + projection.offset, dtype=np.float32)


def stored(embedding: Float[np.ndarray, " *shape"]) -> Float16[np.ndarray, " *shape"]:
    """The embedding as it is kept, where held-out voxels and volumes get their tokens from; what lies beyond its range at its end."""
    largest = np.finfo(STORED).max
    return np.asarray(np.clip(embedding, -largest, largest), dtype=STORED)


def assign(model: TokenModel, embedding: Float[np.ndarray, " component *space"]) -> UInt8[np.ndarray, " *space"]:
    """Number of the nearest token of every voxel, from 1; 0 where the embedding is NaN (masked)."""
    points = embedding.reshape(len(embedding), -1).astype(np.float32)
    nearness = model.centroids @ points - 0.5 * (model.centroids**2).sum(axis=1)[:, None]
    labels = (np.argmax(nearness, axis=0) + 1).astype(np.uint8)
    labels[_masked(points)] = UNASSIGNED
    return np.asarray(labels.reshape(embedding.shape[1:]))


def _masked(points: Float[np.ndarray, " component n"]) -> Bool[np.ndarray, " n"]:
    return np.asarray(np.isnan(points).any(axis=0))
