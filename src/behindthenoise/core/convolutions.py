"""Convolutions that pad by repeating the border, and what may normalise them while they are trained."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from behindthenoise.core.shapes import Shape


def _product(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution as a product of matrices."""
    return functional.linear(features.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def _convolution(features: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """A convolution without padding."""
    ndim = features.ndim - 2
    if features.device.type == "cpu" and features.dtype == torch.float32 and torch._C._get_mkldnn_enabled():
        # asked for a convolution, torch takes its own for a batch of one, which every tile is: in 3D they take ten times as long
        return torch.mkldnn_convolution(features, weight, bias, [0] * ndim, [1] * ndim, [dilation] * ndim, 1)
    return CONVOLVE[ndim](features, weight, bias, dilation=dilation)


# Voxels before and after a region along each axis.
Margin = Sequence[tuple[int, int]]

# the one place where the number of dimensions chooses something; channels-last is the fastest layout
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
# oneDNN has no fast 1x1 convolution in 3D
POINTWISE: dict[int, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {2: _convolution, 3: _product}
POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
EPSILON = 1e-5
MOMENTUM = 0.1


class Convolution(Protocol):
    """What every kind of convolution can do; each is a module with `weight` and `bias`."""

    def __call__(self, features: Tensor, room: Margin | None = None) -> Tensor:
        """Convolved features; see `convolve`."""

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

    def forward(self, features: Float[Tensor, " b c *space"], room: Margin | None = None) -> Float[Tensor, " b out *there"]:
        """Convolved features."""
        return convolve(features, self.weight, self.bias, self.dilation, room)

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

    def forward(self, features: Float[Tensor, " b c *space"], room: Margin | None = None) -> Float[Tensor, " b out *there"]:
        """Convolved features."""
        return convolve(features, *self.folded(), self.dilation, room)

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

    def forward(self, features: Float[Tensor, " b c *space"], room: Margin | None = None) -> Float[Tensor, " b out *there"]:
        """Convolved and normalised features."""
        if not self.training:
            return convolve(features, *self.folded(), self.dilation, room)
        raw = convolve(features, self.weight, None, self.dilation, room)
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
    features: Float[Tensor, " b c *space"], weight: Tensor, bias: Tensor | None, dilation: int, room: Margin | None = None
) -> Float[Tensor, " b out *there"]:
    """
    Convolution with an odd kernel, in the arithmetic of the features.

    Parameters
    ----------
    room
        By how much the convolution reads beyond the features, where their border is repeated; negative where it needs less than
        there is. None reads as far as the kernel reaches, so that the features keep their size.
    """
    ndim, reach = features.ndim - 2, dilation * (weight.shape[-1] // 2)
    weight, bias = weight.to(features.dtype), None if bias is None else bias.to(features.dtype)
    around = fitted(features, [(reach, reach)] * ndim if room is None else room)
    return _convolution(around, weight, bias, dilation) if reach else POINTWISE[ndim](around, weight, bias)


def fitted(features: Float[Tensor, " b c *space"], room: Margin) -> Float[Tensor, " b c *there"]:
    """The features with so much more around them, by repeating their border, or less where `room` is negative."""
    if any(side < 0 for sides in room for side in sides):
        inner = [
            slice(max(-before, 0), size + min(after, 0)) for (before, after), size in zip(room, features.shape[2:], strict=True)
        ]
        features = features[(slice(None), slice(None), *inner)]
    more = [max(side, 0) for sides in reversed(room) for side in sides]
    return functional.pad(features, more, mode="replicate") if any(more) else features


def channels_last(tensor: Float[Tensor, " b c *space"]) -> Float[Tensor, " b c *space"]:
    """
    The same values, each voxel's channels side by side, which is the layout that convolutions are fastest in.

    `Tensor.contiguous` would leave a tensor of one channel as it is, and with it every layer after it.
    """
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=LAYOUT[tensor.ndim - 2]).copy_(tensor)


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each filter, shaped to broadcast over its taps."""
    return values.view(-1, *[1] * (weight.ndim - 1))
