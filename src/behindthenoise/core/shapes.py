"""What one convolution is made of and costs; no torch, so that whoever only counts or draws need not load it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """
    What one convolution costs.

    Attributes
    ----------
    entering, leaving
        Channels.
    edge
        Edge of the kernel in voxels.
    dilation
        Distance of its taps in voxels of its own resolution.
    scale
        Edge of one of its voxels, in voxels of the input.
    """

    entering: int
    leaving: int
    edge: int = 3
    dilation: int = 1
    scale: int = 1

    def parameters(self, ndim: int) -> int:
        """Weights and biases."""
        return self.leaving * (self.entering * int(self.edge**ndim) + 1)

    def operations(self, ndim: int) -> float:
        """Multiply-adds for each voxel of the input."""
        return self.leaving * self.entering * float((self.edge / self.scale) ** ndim)
