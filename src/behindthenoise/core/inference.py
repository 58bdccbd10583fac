"""Networks applied to one tile: of one member, or of all with averaged quantiles, their spread, and the embedding."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from behindthenoise.core.convolutions import Margin
from behindthenoise.core.embedding import Projection
from behindthenoise.core.network import Network


@torch.no_grad()
def run_member(
    network: Network, standardised: Float[np.ndarray, " c *read"], margin: Margin | None = None
) -> tuple[Float[np.ndarray, " 3 out *core"], Float[np.ndarray, " l *core"]]:
    """Quantiles in standard units and latents of one network on one tile, without its margin."""
    quantiles, latent = network(_tensor(network, standardised), margin)
    return quantiles[0].cpu().numpy(), latent[0].cpu().numpy()


@torch.no_grad()
def run_ensemble(
    networks: Sequence[Network],
    projection: Projection,
    standardised: Float[np.ndarray, " c *read"],
    margin: Margin | None = None,
) -> tuple[Float[np.ndarray, " 3 out *core"], Float[np.ndarray, " out *core"], Float[np.ndarray, " component *core"]]:
    """
    Averaged quantiles and standard deviation of the members' medians, in standard units, and the embedding of one tile's core.

    Members run one after another on the same tile; all sums stay on the device.

    References
    ----------
    Welford (1962), Technometrics 4, 419-420, for the standard deviation in one pass.
    """
    tile = _tensor(networks[0], standardised)
    offset = torch.from_numpy(projection.offset).to(tile)
    embedding = offset.view(-1, *[1] * (standardised.ndim - 1))
    mean = tile.new_zeros(())
    squares = tile.new_zeros(())
    for count, (network, matrix) in enumerate(zip(networks, projection.matrices, strict=True), start=1):
        quantiles, latent = network(tile, margin)
        change = quantiles[0] - mean
        mean = mean + change / count
        squares = squares + change[1] * (quantiles[0, 1] - mean[1])
        embedding = embedding + torch.einsum("kl,l...->k...", torch.from_numpy(matrix).to(tile), latent[0])
    spread = (squares / len(networks)).clamp_min(0).sqrt()
    return mean.cpu().numpy(), spread.cpu().numpy(), embedding.cpu().numpy()


def _tensor(network: Network, standardised: np.ndarray) -> torch.Tensor:
    """The tile as a batch of one on the network's device."""
    device = next(network.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(standardised, dtype=np.float32))[None].to(device)
