"""Networks on disk and on their device: plain numbers, nothing that could run code."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from behindthenoise.core.network import Network
from behindthenoise.errors import StoreError
from behindthenoise.io.lease import device_index
from behindthenoise.run.architectures import read_architecture

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them
KEPT = 1 << 30  # bytes; more than the features of a tile on a CPU have


def device(*, sharers: int = 1) -> torch.device:
    """
    A GPU that is this process's until it ends, else the CPU; full float32, or tiles would show in the third digit.

    Parameters
    ----------
    sharers
        Processes that may share the GPU, this one among them.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    index = device_index(torch.cuda.device_count(), os.environ, sharers=sharers)
    if index is None:
        keep_freed_memory()
        return torch.device("cpu")
    torch.cuda.set_device(index)  # what names no device, as the recording of CUDA graphs, means this one
    return torch.device("cuda", index)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device with memory of its own; None where it is the processor's."""
    return None if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def keep_freed_memory() -> None:
    """
    Let this process keep the memory that it frees until it ends.

    Features of a tile are so large that glibc gives them back to the system at once; to be given as much again, page by page, takes
    a seventh to a third of a network's time (docs/decisions/0020). Another C library is left as it is.
    """
    with suppress(AttributeError):
        change = ctypes.CDLL(None).mallopt
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            change(threshold, KEPT)


def write_weights(path: Path, network: Network) -> None:
    """Write the weights of a folded network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # channels-last tensors are stored as what they mean, not as they lie in memory
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(save(tensors))  # as any file; `save_file` keeps others from reading it


def read_network(graph: Path, weights: Path, precision: str) -> Network:
    """
    A trained network, ready to predict.

    Raises
    ------
    StoreError
        If the weights are unreadable or belong to another network.
    """
    network = Network(read_architecture(graph), precision=precision)
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as problem:
        raise StoreError(f"weights {weights} do not fit {graph} ({problem}); delete both and run the workflow again") from problem
    return network.to(device()).eval()
