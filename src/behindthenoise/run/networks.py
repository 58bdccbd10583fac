"""Networks on disk and on their device: plain numbers, nothing that could run code."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from behindthenoise.config import NetworkConfig
from behindthenoise.core.graph import Graph
from behindthenoise.core.network import Network
from behindthenoise.errors import StoreError
from behindthenoise.run.graphs import read_graph


def device() -> torch.device:
    """The first GPU that this process may use, else the CPU; full float32 there, or tiles would show in the third digit."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
