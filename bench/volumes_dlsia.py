"""
The rival in bench/volumes.py: DLSIA's networks on the wires of ours, tile by tile through qlty, from a stored volume to a store.

`bench/volumes.py throughput` starts this with the Python of `.venv-dlsia` (bench/dlsia.py says how to make that) and reads the one
line of JSON that it prints. Timed are reading, cutting into windows, the networks, stitching and writing; not the imports, and not
the compilation of qlty's stitching. What ours does besides (standard units and back, spread, embedding, digests) is left out.
"""

import argparse
import json
import sys
import time
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

# Not this folder, where `import dlsia` would find a bench; ours runs from its source.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

if find_spec("torchvision") is None:
    run_path(str(Path(__file__).with_name("dlsia.py")))  # for the empty modules that it puts in its place

import networkx as nx
import numpy as np
import torch
import zarr
from dlsia.core.networks import cerberus, sms3d, smsnet
from qlty import NCYXQuilt, NCZYXQuilt
from torch import Tensor, nn

from behindthenoise.core.architecture import Architecture
from behindthenoise.core.graph import Graph
from behindthenoise.io.record import peak_memory_bytes

SPARSE = {2: smsnet.SMSNet, 3: sms3d.SMSNet3D}
QUILTS = {2: NCYXQuilt, 3: NCZYXQuilt}
BORDER_WEIGHT = 0.1  # what qlty's documentation advises
# By axis and kernel: every node of ours has the size of the image, which is a stride of one and no padding of the output.
SCALING = {f"{axis}{kernel}": {0: {0: (1, None)}} for axis in "DHW" for kernel in (1, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--graphs", type=Path, nargs="+", required=True)
    parser.add_argument("--volume", type=Path, required=True, help="array of the noisy volume, channel first")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--core", type=int, nargs="+", required=True)
    parser.add_argument("--halo", type=int, required=True)
    parser.add_argument("--tiles", type=int, required=True, help="at most so many along each axis")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    networks = [matched(Architecture.from_data(json.loads(path.read_text()))) for path in options.graphs]
    noisy = zarr.open_array(options.volume, mode="r")
    crop, quilt = quilted(noisy.shape[1:], options.core, options.halo, options.tiles)
    if len(crop) == 2:
        NCYXQuilt(8, 8, (4, 4), (4, 4), None).stitch(torch.zeros(4, 3, 4, 4))  # numba compiles
    wall, cpu = time.monotonic(), time.process_time()
    denoise(networks, noisy, crop, quilt, options.store)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(json.dumps({"crop": crop, "wall_s": wall, "cpu_s": cpu, "peak_gb": peak_memory_bytes() / 1e9}))


def matched(architecture: Architecture) -> nn.Module:
    """
    DLSIA's network with the nodes, edges, channels and dilations of ours, random weights, ready to predict.

    Edges to DLSIA's sink, which are convolutions of their own, have as many channels as the latent. Each of its three heads has a
    third of our heads' channels, rounded down.
    """
    wiring = architecture.wiring
    assert isinstance(wiring, Graph), "DLSIA's rival of ours is a sparse graph"
    sink, graph = wiring.depth + 1, nx.DiGraph()
    graph.add_nodes_from(range(sink + 1), size=0)
    for edge in wiring.edges:
        graph.add_edge(edge.source, edge.target, channels=edge.channels, dilation=edge.dilation)
    for node in wiring.outputs:
        graph.add_edge(node, sink, channels=architecture.latent, dilation=1)
    widths = OrderedDict(enumerate([*wiring.channels(architecture.in_channels), len(wiring.outputs) * architecture.latent]))
    shape = (64,) * architecture.ndim  # DLSIA keeps it, and reads it nowhere once there is a table of scales
    base = SPARSE[architecture.ndim](architecture.in_channels, architecture.latent, shape, shape, SCALING, graph, widths)
    head = [max(1, architecture.head // 3)]
    network: nn.Module = cerberus.Cerberus(architecture.in_channels, architecture.out_channels, base, projection_layers=head)
    return network.eval()


def quilted(shape: tuple[int, ...], core: list[int], halo: int, tiles: int) -> tuple[tuple[int, ...], Any]:
    """Shape of a crop that windows of core and halo fill exactly, as qlty wants it in 3D, and the quilt that cuts it."""
    window = tuple(min(size, edge + 2 * halo) for size, edge in zip(shape, core, strict=True))
    counts = [
        max(1, min(tiles, (size - 2 * halo) // edge)) if whole == edge + 2 * halo else 1
        for size, edge, whole in zip(shape, core, window, strict=True)
    ]
    crop = tuple(whole + (count - 1) * edge for whole, count, edge in zip(window, counts, core, strict=True))
    return crop, QUILTS[len(shape)](*crop, window, tuple(core), (halo,) * len(crop), BORDER_WEIGHT)


@torch.no_grad()
def denoise(networks: list[nn.Module], noisy: Any, crop: tuple[int, ...], quilt: Any, store: Path) -> None:
    """Read, cut, predict, stitch and write."""
    volume = torch.from_numpy(np.asarray(noisy[(slice(None), *map(slice, crop))]))
    patches = quilt.unstitch(volume[None])
    quantiles, _ = quilt.stitch(torch.cat([averaged(networks, patch[None]) for patch in patches]))
    zarr.create_array(store, data=quantiles[0].numpy(), chunks=(len(quantiles[0]), *quilt.step))


def averaged(networks: list[nn.Module], patch: Tensor) -> Tensor:
    """Quantiles, one after another along the channels, averaged over members."""
    total = torch.zeros(())
    for network in networks:
        total = total + torch.cat(network(patch), dim=1)
    return total / len(networks)


if __name__ == "__main__":
    main()
