"""Training patches, cut by qlty; border weights like its own say how much of a patch counts in the loss."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from qlty import NCYXQuilt, NCZYXQuilt
from torch import Tensor

from behindthenoise.core.windows import Grid, frame, lay_out, places


@dataclass(frozen=True)
class Batch:
    """Some examples on one device: standardised input and target, and the weight of each voxel in the loss."""

    noisy: Float[Tensor, " b c *window"]
    clean: Float[Tensor, " b out *window"]
    weight: Float[Tensor, " b 1 *window"]


@runtime_checkable
class Examples(Protocol):
    """Patches to draw from, wherever they lie."""

    def __len__(self) -> int:
        """How many there are."""

    def prepare(self, chosen: Int[np.ndarray, " b"]) -> None:
        """Begin to fetch those that will be asked for next."""

    def batch(self, chosen: Int[np.ndarray, " b"]) -> Batch:
        """Those with these indices."""


@dataclass(frozen=True)
class Patches:
    """
    Patches of every scan with the clean patches and weights they share.

    Attributes
    ----------
    noisy
        Standardised patches of all scans; masked voxels hold 0.
    clean, weight
        Standardised target and its weight in the loss; one for all scans of a field.
    pairs
        For each example the index into `noisy` and into `clean`.
    device
        Where batches are wanted; the patches may lie elsewhere.
    """

    noisy: Float[Tensor, " n c *window"]
    clean: Float[Tensor, " m out *window"]
    weight: Float[Tensor, " m 1 *window"]
    pairs: Int[Tensor, " example 2"]
    device: torch.device

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.pairs)

    def prepare(self, chosen: Int[np.ndarray, " b"]) -> None:
        """Nothing: they are here."""

    def batch(self, chosen: Int[np.ndarray, " b"]) -> Batch:
        """Examples with these indices."""
        pairs = self.pairs[torch.from_numpy(chosen).to(self.pairs.device)]
        taken = self.noisy[pairs[:, 0]], self.clean[pairs[:, 1]], self.weight[pairs[:, 1]]
        return Batch(*(tensor.to(self.device) for tensor in taken))

    def bytes(self) -> int:
        """Memory of all patches."""
        return sum(tensor.nbytes for tensor in (self.noisy, self.clean, self.weight, self.pairs))

    def on(self, device: torch.device) -> "Patches":
        """The same patches moved to a device."""
        moved = (tensor.to(device) for tensor in (self.noisy, self.clean, self.weight, self.pairs))
        noisy, clean, weight, pairs = moved
        return Patches(noisy, clean, weight, pairs, device)

    def serving(self, device: torch.device) -> "Patches":
        """The same patches where they are; their batches are sent to a device."""
        return replace(self, device=device)


def cut(
    noisy: Float[np.ndarray, " image scan c *space"],
    clean: Float[np.ndarray, " image out *space"],
    counts: Bool[np.ndarray, " image *space"],
    *,
    patch: int,
    border: int,
    border_weight: float,
) -> Patches:
    """
    All patches in which at least one voxel counts.

    Parameters
    ----------
    noisy, clean
        Standardised fields without NaN.
    counts
        Voxels that enter the loss.
    patch
        Edge of a patch in voxels.
    border
        Width of the frame in which the network sees padding instead of data; at most a quarter of the patch is used.
    border_weight
        Weight of that frame. Where a patch ends because the image ends, the padding is what inference will see
        too, and the frame has full weight.
    """
    grids, border = lay_out(counts.shape[1:], patch, border)
    quilt = _quilt(grids)
    frames = torch.from_numpy(np.stack([frame(grids, border, border_weight, index) for index, _ in places(grids)])[:, None])
    images, scans = noisy.shape[:2]
    clean_patches = quilt.unstitch(torch.from_numpy(clean))
    weights = quilt.unstitch(torch.from_numpy(counts[:, None].astype(np.float32))) * frames.repeat(images, *[1] * (clean.ndim - 1))
    noisy_patches = quilt.unstitch(torch.from_numpy(noisy.reshape(images * scans, *noisy.shape[2:])))
    kept = torch.nonzero(weights.flatten(1).sum(1) > 0).flatten()
    count = len(clean_patches) // images
    image, place = kept // count, kept % count
    positions = ((image[:, None] * scans + torch.arange(scans)) * count + place[:, None]).flatten()
    pairs = torch.stack([torch.arange(len(positions)), torch.arange(len(kept)).repeat_interleave(scans)], dim=1)
    return Patches(noisy_patches[positions], clean_patches[kept], weights[kept], pairs, pairs.device)


def _quilt(grids: list[Grid]) -> NCYXQuilt | NCZYXQuilt:
    """The qlty quilt with these grids."""
    quilt = {2: NCYXQuilt, 3: NCZYXQuilt}[len(grids)]
    return quilt(
        *(grid.size for grid in grids),
        window=tuple(grid.window for grid in grids),
        step=tuple(grid.step for grid in grids),
        border=None,
    )
