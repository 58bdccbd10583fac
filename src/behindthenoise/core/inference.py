"""Networks applied to arrays: standardised in, physical units out, masked voxels NaN."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from behindthenoise.core.network import Network


@dataclass(frozen=True)
class Scale:
    """
    Constants from the training voxels, one per channel: `(value - shift) / scale` is standardised.

    `gain` and `offset` put a fast scan on the clean image's scale: `(noisy - offset) / gain`, for comparison only.
    """

    noisy_shift: tuple[float, ...]
    noisy_scale: tuple[float, ...]
    clean_shift: tuple[float, ...]
    clean_scale: tuple[float, ...]
    gain: tuple[float, ...]
    offset: tuple[float, ...]

    def standardise_noisy(
        self, noisy: Float[np.ndarray, " *shape"], mask: Bool[np.ndarray, " *reduced"], axis: int
    ) -> Float[np.ndarray, " *shape"]:
        """Noisy values in standard units, masked voxels 0; `axis` is that of the channels."""
        values = (noisy - _along(self.noisy_shift, axis, noisy.ndim)) / _along(self.noisy_scale, axis, noisy.ndim)
        return np.where(np.expand_dims(mask, axis), values, np.float32(0))

    def standardise_clean(self, clean: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Clean values in standard units."""
        return np.asarray((clean - _along(self.clean_shift, axis, clean.ndim)) / _along(self.clean_scale, axis, clean.ndim))

    def restore_clean(self, values: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Standard units back into those of the clean image."""
        return np.asarray(values * _along(self.clean_scale, axis, values.ndim) + _along(self.clean_shift, axis, values.ndim))

    def match_noisy(self, noisy: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Noisy values on the clean image's scale."""
        return np.asarray((noisy - _along(self.offset, axis, noisy.ndim)) / _along(self.gain, axis, noisy.ndim))


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


@torch.no_grad()
def run_member(
    network: Network, standardised: Float[np.ndarray, " c *space"]
) -> tuple[Float[np.ndarray, " 3 out *space"], Float[np.ndarray, " l *space"]]:
    """Quantiles in standard units and latents of one network on one tile."""
    quantiles, latent = network(_tensor(network, standardised))
    return quantiles[0].cpu().numpy(), latent[0].cpu().numpy()


@torch.no_grad()
def run_ensemble(
    networks: Sequence[Network], projection: Projection, standardised: Float[np.ndarray, " c *space"]
) -> tuple[Float[np.ndarray, " 3 out *space"], Float[np.ndarray, " component *space"]]:
    """
    Averaged quantiles in standard units and the embedding of one tile.

    Members run one after another on the same tile; both sums stay on the device.
    """
    tile = _tensor(networks[0], standardised)
    offset = torch.from_numpy(projection.offset).to(tile)
    embedding = offset.view(-1, *[1] * (standardised.ndim - 1))
    total: torch.Tensor | None = None
    for network, matrix in zip(networks, projection.matrices, strict=True):
        quantiles, latent = network(tile)
        total = quantiles[0] if total is None else total + quantiles[0]
        embedding = embedding + torch.einsum("kl,l...->k...", torch.from_numpy(matrix).to(tile), latent[0])
    assert total is not None
    return (total / len(networks)).cpu().numpy(), embedding.cpu().numpy()


def _tensor(network: Network, standardised: np.ndarray) -> torch.Tensor:
    """The tile as a batch of one on the network's device."""
    device = next(network.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(standardised, dtype=np.float32))[None].to(device)


def _along(values: tuple[float, ...], axis: int, ndim: int) -> np.ndarray:
    """Per-channel constants, shaped to broadcast along one axis."""
    return np.asarray(values, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(ndim)])
