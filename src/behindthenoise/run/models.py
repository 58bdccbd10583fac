"""Networks, projections and token models on disk: plain numbers, nothing that could run code."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from behindthenoise.config import NetworkConfig
from behindthenoise.core.graph import Graph
from behindthenoise.core.inference import Projection
from behindthenoise.core.network import Network
from behindthenoise.core.tokens import TokenModel
from behindthenoise.errors import StoreError
from behindthenoise.io.record import read_json, write_json


def device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_graph(path: Path, graph: Graph) -> None:
    """Write `graph.json`."""
    write_json(path, graph.as_data())


def read_graph(path: Path) -> Graph:
    """Read `graph.json`."""
    return Graph.from_data(read_json(path))


def build_network(graph: Graph, config: NetworkConfig, *, channels: int, ndim: int) -> Network:
    """A network without trained weights; it has as many outputs as inputs."""
    return Network(graph, in_channels=channels, out_channels=channels, ndim=ndim, latent=config.latent, head=config.head)


def write_weights(path: Path, network: Network) -> None:
    """Write trained weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # channels-last tensors are stored as what they mean, not as they lie in memory
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def read_network(graph: Path, weights: Path, config: NetworkConfig, *, channels: int, ndim: int) -> Network:
    """
    A trained network, ready to predict.

    Raises
    ------
    StoreError
        If the weights are unreadable or belong to another network.
    """
    network = build_network(read_graph(graph), config, channels=channels, ndim=ndim)
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as problem:
        raise StoreError(f"weights {weights} do not fit {graph} ({problem}); delete both and run the workflow again") from problem
    return network.to(device()).eval()


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
