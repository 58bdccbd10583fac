"""
What a voxel costs by the size of the tile that networks see at once: decision 0013.

Two networks of the presets' kind with untrained weights, one thread. Each tile has the halo that they need, and its time is divided
by the voxels of its core. CPU time, the faster of two passes after a first one; the whole list is gone through `--turns` times.
Beside it, the multiply-adds that the core needs, a second, as a share of those of a large matrix product in the same turn: nothing
that computes the same numbers in float32 could be faster by more than one over it.

    python bench/tiles.py                                    256² to 1024², 64³ to 128³
    python bench/tiles.py --shape 64 128 128 --turns 3
"""

import argparse
import os
import sys
import time
from math import prod
from pathlib import Path

# Threads that wait sleep: CPU time counts work. Read when torch is imported.
os.environ["OMP_WAIT_POLICY"] = "passive"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import torch

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture, memory
from behindthenoise.core.network import Network
from behindthenoise.run import networks

SHAPES = [(256, 256), (512, 512), (1024, 1024), (64, 64, 64), (96, 96, 96), (128, 128, 128)]
CONFIGS = {2: NetworkConfig(depth=8, radius_max=12), 3: NetworkConfig(depth=10, dilations=(1, 2, 3), radius_max=10)}
MEMBERS = 2
PRODUCT = 1024  # edge of the matrices whose product tells what the processor can do


def main() -> None:
    """Print microseconds a voxel of every tile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", action="append", help="of a tile's core; may be repeated")
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    networks.device()  # as `infer` does: freed memory is kept
    torch.set_num_threads(1)
    for _ in range(options.turns):
        for shape in options.shape or SHAPES:
            drawn = [
                architecture.draw(CONFIGS[len(shape)], architecture.generator(2025, m), ndim=len(shape), channels=1)
                for m in range(MEMBERS)
            ]
            halo = memory.ensemble_halo(drawn)
            found = [1e6 * seconds(Network(one).eval(), shape, halo) / prod(shape) for one in drawn]
            share = sum(one.operations for one in drawn) / sum(found) / product_rate()
            print(
                f"{' x '.join(map(str, shape))}, halo {halo}: {sum(found) / len(found):.2f} microseconds a voxel and network, "
                f"{share:.0%} of the speed of a matrix product",
                flush=True,
            )


def product_rate() -> float:
    """Multiply-adds of a matrix product in a microsecond of CPU time."""
    matrix, taken = torch.rand(PRODUCT, PRODUCT), []
    for _ in range(5):
        start = time.process_time()
        torch.mm(matrix, matrix)
        taken.append(time.process_time() - start)
    return float(PRODUCT**3 / min(taken) / 1e6)


@torch.no_grad()
def seconds(network: Network, shape: tuple[int, ...], halo: int) -> float:
    """CPU time of one tile."""
    tile, taken = torch.randn(1, 1, *(edge + 2 * halo for edge in shape)), []
    for _ in range(3):
        start = time.process_time()
        network(tile, [(halo, halo)] * len(shape))
        taken.append(time.process_time() - start)
    return min(taken[1:])


if __name__ == "__main__":
    main()
