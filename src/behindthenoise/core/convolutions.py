"""Convolutions that pad by repeating the border, and what may normalise them while they are trained."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# the one place where the number of dimensions chooses something; channels-last is the fastest layout
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
EPSILON = 1e-5
MOMENTUM = 0.1


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


class Convolution(Protocol):
    """What every kind of convolution can do; each is a module with `weight` and `bias`."""

    def __call__(self, features: Tensor) -> Tensor:
        """Convolved features."""

    def rescale(self, mean: Tensor, spread: Tensor) -> None:
        """Change the parameters so that an output of this mean and spread becomes one of mean 0 and spread 1."""

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the plain convolution that does the same once nothing is trained any more."""


class Plain(nn.Module):
    """No normalisation: weight and bias are what they are."""

    def __init__(self, shape: Shape, ndim: int) -> None:
        super().__init__()
        self.dilation = shape.dilation
        self.weight = nn.Parameter(torch.zeros(shape.leaving, shape.entering, *[shape.edge] * ndim))
        self.bias = nn.Parameter(torch.zeros(shape.leaving))

    def forward(self, features: Float[Tensor, " b c *space"]) -> Float[Tensor, " b out *space"]:
        """Convolved features."""
        return convolve(features, self.weight, self.bias, self.dilation)

    @torch.no_grad()
    def rescale(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> None:
        """Scale weight and bias."""
        self.weight.div_(_per_channel(spread, self.weight))
        self.bias.copy_((self.bias - mean) / spread)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as they are."""
        return self.weight, self.bias


class WeightStandardised(nn.Module):
    """
    Every filter is trained by its shape alone: mean 0 and sum of squares 1 over its taps, times a gain.

    References
    ----------
    Qiao et al. (2019), arXiv:1903.10520; Brock et al. (2021), arXiv:2101.08692, for the gain.
    """

    def __init__(self, shape: Shape, ndim: int) -> None:
        super().__init__()
        self.dilation = shape.dilation
        self.weight = nn.Parameter(torch.zeros(shape.leaving, shape.entering, *[shape.edge] * ndim))
        self.gain = nn.Parameter(torch.ones(shape.leaving))
        self.bias = nn.Parameter(torch.zeros(shape.leaving))

    def forward(self, features: Float[Tensor, " b c *space"]) -> Float[Tensor, " b out *space"]:
        """Convolved features."""
        return convolve(features, *self.folded(), self.dilation)

    @torch.no_grad()
    def rescale(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> None:
        """Scale gain and bias."""
        self.gain.div_(spread)
        self.bias.copy_((self.bias - mean) / spread)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The standardised weight, and the bias."""
        taps = list(range(1, self.weight.ndim))
        centred = self.weight - self.weight.mean(taps, keepdim=True)
        norm = centred.square().sum(taps, keepdim=True).add(EPSILON).rsqrt()
        return centred * norm * _per_channel(self.gain, self.weight), self.bias


class BatchNormalised(nn.Module):
    """
    Batch statistics while training, their running mean in evaluation.

    References
    ----------
    Ioffe & Szegedy (2015), arXiv:1502.03167.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, shape: Shape, ndim: int) -> None:
        super().__init__()
        self.dilation, self.momentum = shape.dilation, MOMENTUM
        self.weight = nn.Parameter(torch.zeros(shape.leaving, shape.entering, *[shape.edge] * ndim))
        self.gain = nn.Parameter(torch.ones(shape.leaving))
        self.bias = nn.Parameter(torch.zeros(shape.leaving))
        self.register_buffer("mean", torch.zeros(shape.leaving))
        self.register_buffer("variance", torch.ones(shape.leaving))

    def forward(self, features: Float[Tensor, " b c *space"]) -> Float[Tensor, " b out *space"]:
        """Convolved and normalised features."""
        if not self.training:
            return convolve(features, *self.folded(), self.dilation)
        raw = convolve(features, self.weight, None, self.dilation)
        return functional.batch_norm(
            raw, self.mean, self.variance, self.gain, self.bias, training=True, momentum=self.momentum, eps=EPSILON
        )

    def rescale(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> None:
        """Nothing: the batch does it."""

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the running statistics folded in."""
        factor = self.gain * (self.variance + EPSILON).rsqrt()
        return self.weight * _per_channel(factor, self.weight), self.bias - self.mean * factor


KINDS = {"none": Plain, "weight": WeightStandardised, "batch": BatchNormalised}


def convolve(
    features: Float[Tensor, " b c *space"], weight: Tensor, bias: Tensor | None, dilation: int
) -> Float[Tensor, " b out *space"]:
    """Convolution with an odd kernel over features padded by repeating their border."""
    ndim = features.ndim - 2
    reach = dilation * (weight.shape[-1] // 2)
    padded = functional.pad(features, [reach] * (2 * ndim), mode="replicate") if reach else features
    return CONVOLVE[ndim](padded, weight, bias, dilation=dilation)


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each filter, shaped to broadcast over its taps."""
    return values.view(-1, *[1] * (weight.ndim - 1))
