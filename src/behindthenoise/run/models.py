"""Latents, projections and tokens on disk: plain numbers, nothing that could run code."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from behindthenoise.core.tokens import Projection, TokenModel


def write_latents(path: Path, latents: Float[np.ndarray, " n latent"], median: Float[np.ndarray, " n"]) -> None:
    """Write one member's latents of the sampled voxels, and its median of the first channel there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, latents=latents, median=median)


def read_latents(paths: list[Path]) -> tuple[list[Float[np.ndarray, " n latent"]], Float[np.ndarray, " n"]]:
    """Latents of every member, and the ensemble's median of the first channel."""
    latents, medians = [], []
    for path in paths:
        with np.load(path) as content:
            latents.append(content["latents"])
            medians.append(content["median"])
    return latents, np.mean(medians, axis=0)


def write_projection(path: Path, projection: Projection, explained: Float[np.ndarray, " component"]) -> None:
    """Write the affine map from latents to embedding, with the share of variance of each component."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, matrices=np.stack(projection.matrices), offset=projection.offset, explained=explained)


def read_projection(path: Path) -> Projection:
    """Read the affine map from latents to embedding."""
    with np.load(path) as content:
        return Projection(tuple(content["matrices"]), content["offset"])


def write_tokens(path: Path, tokens: TokenModel) -> None:
    """Write the tokens' centroids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, centroids=tokens.centroids)


def read_tokens(path: Path) -> TokenModel:
    """Read the tokens' centroids."""
    with np.load(path) as content:
        return TokenModel(content["centroids"])
