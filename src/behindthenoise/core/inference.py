"""Networks applied to arrays: standardised in, physical units out, masked voxels NaN."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from behindthenoise.core.network import Network
from behindthenoise.core.tokens import Projection


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
