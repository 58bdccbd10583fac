"""The network: a random graph of dilated convolutions, a latent vector per voxel, three heads that cannot cross."""

from collections.abc import Iterator
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from behindthenoise.core.graph import Graph

# the one place where the number of dimensions chooses something: convolution and fastest memory layout
CONVOLUTIONS = {2: (nn.Conv2d, torch.channels_last), 3: (nn.Conv3d, torch.channels_last_3d)}


class Network(nn.Module):
    """
    Quantiles and latent of every voxel.

    There is no batch or image statistic anywhere: what a voxel becomes is a fixed function of its neighbourhood of radius
    `graph.radius`. Instead of normalising, `initialise` scales every convolution once, on a batch of training patches.
    Every convolution pads by repeating the border, so a tile that ends where the image ends sees what the image sees.

    Parameters
    ----------
    graph
        The wiring.
    in_channels, out_channels
        Channels of the noisy input and of the clean image.
    ndim
        Spatial dimensions, 2 or 3.
    latent, head
        Length of the latent vector; hidden channels of the heads.
    """

    def __init__(self, graph: Graph, *, in_channels: int, out_channels: int, ndim: int, latent: int, head: int) -> None:
        super().__init__()
        convolution, self.layout = CONVOLUTIONS[ndim]
        self.graph = graph
        self.ndim = ndim
        self.out_channels = out_channels
        widths = graph.channels(in_channels)
        self.hidden = nn.ModuleDict(
            {
                str(node): convolution(widths[node], graph.width * len(targets), 3, dilation=graph.dilations[node])
                for node, targets in enumerate(graph.targets)
                if targets
            }
        )
        self.encode = convolution(sum(widths[node] for node in graph.outputs), latent, 1)
        self.mix = convolution(latent + in_channels, head, 1)
        self.heads = convolution(head + in_channels, 3 * out_channels, 1)

    def forward(self, noisy: Float[Tensor, " b c *space"]) -> tuple[Float[Tensor, " b 3 out *space"], Float[Tensor, " b l *space"]]:
        """
        Lower, median and upper quantile (axis 1) of every channel, and the latent.

        Parameters
        ----------
        noisy
            Standardised input; masked voxels hold 0.
        """
        noisy = noisy.contiguous(memory_format=self.layout)
        latent = self.encode(self._features(noisy))
        mixed = functional.relu(self.mix(torch.cat([latent, noisy], dim=1)))
        out = self.heads(torch.cat([mixed, noisy], dim=1)).unflatten(1, (3, self.out_channels))
        below, median, above = out.unbind(1)
        quantiles = torch.stack([median - functional.softplus(below), median, median + functional.softplus(above)], dim=1)
        return quantiles, latent

    @torch.no_grad()
    def initialise(self, noisy: Float[Tensor, " b c *space"], random: torch.Generator) -> None:
        """
        Random weights, scaled so that every convolution gives mean 0 and variance 1 on `noisy`.

        References
        ----------
        Salimans & Kingma (2016), arXiv:1602.07868, section 3; Mishkin & Matas (2016), arXiv:1511.06422.
        """
        for convolution in self._convolutions():
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=random)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        noisy = noisy.contiguous(memory_format=self.layout)
        hooks = [convolution.register_forward_hook(_standardise_output) for convolution in self._convolutions()]
        self(noisy)
        for hook in hooks:
            hook.remove()

    def _convolutions(self) -> Iterator[nn.Conv2d | nn.Conv3d]:
        for module in chain(self.hidden.values(), [self.encode, self.mix, self.heads]):
            assert isinstance(module, nn.Conv2d | nn.Conv3d)
            yield module

    def _features(self, noisy: Tensor) -> Tensor:
        """Everything that enters the latent, concatenated."""
        arriving: dict[int, list[Tensor]] = {0: [noisy]}
        leaving: list[Tensor] = []
        for node, targets in enumerate(self.graph.targets):
            features = _concatenated(arriving.pop(node))
            if node in self.graph.outputs:
                leaving.append(features)
            if not targets:
                continue
            padded = functional.pad(features, [self.graph.dilations[node]] * (2 * self.ndim), mode="replicate")
            parts = functional.relu(self.hidden[str(node)](padded)).split(self.graph.width, dim=1)
            for target, part in zip(targets, parts, strict=True):
                arriving.setdefault(target, []).append(part)
        return torch.cat(leaving, dim=1)


def parameter_count(network: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def _concatenated(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _standardise_output(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook: rescale a convolution so that this very output has mean 0 and variance 1 in each channel."""
    assert isinstance(module, nn.Conv2d | nn.Conv3d)
    others = [axis for axis in range(output.ndim) if axis != 1]
    shape = [-1] + [1] * (output.ndim - 2)
    mean = output.mean(others)
    spread = output.std(others, correction=0).clamp_min(1e-3)  # a dead or constant channel is left alone
    module.weight /= spread.view(-1, *[1] * (module.weight.ndim - 1))
    assert module.bias is not None
    module.bias.copy_((module.bias - mean) / spread)
    return (output - mean.view(shape)) / spread.view(shape)
