"""The network: a trunk of convolutions, a latent vector per voxel, three heads that cannot cross."""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from behindthenoise.core.architecture import Architecture
from behindthenoise.core.convolutions import (
    KINDS,
    LAYOUT,
    POOL,
    BatchNormalised,
    Convolution,
    Margin,
    Plain,
    channels_last,
    fitted,
)
from behindthenoise.core.graph import Graph
from behindthenoise.core.unet import UNet


class Network(nn.Module):
    """
    Quantiles and latent of every voxel.

    In evaluation there is no batch or image statistic anywhere: what a voxel becomes is a fixed function of its neighbourhood
    of radius `architecture.radius`. Every convolution pads by repeating the border, so a tile that ends where the image ends
    sees what the image sees.

    Parameters
    ----------
    architecture
        Wiring and channels.
    normalisation
        What normalises the trunk's convolutions while they are trained: none, weight or batch.
    precision
        Arithmetic of the trunk; encoder, mixer and heads are float32 always.
    """

    def __init__(self, architecture: Architecture, *, normalisation: str = "none", precision: str = "float32") -> None:
        super().__init__()
        self.architecture = architecture
        self.precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        *trunk, encode, mix, heads = architecture.shapes()
        self.trunk = nn.ModuleList([KINDS[normalisation](shape, architecture.ndim) for shape in trunk])
        self.encode, self.mix, self.heads = (Plain(shape, architecture.ndim) for shape in (encode, mix, heads))
        self.to(memory_format=LAYOUT[architecture.ndim])  # type: ignore[call-overload]  # the stubs lack it without a dtype

    def forward(
        self, noisy: Float[Tensor, " b c *space"], margin: Margin | None = None
    ) -> tuple[Float[Tensor, " b 3 out *core"], Float[Tensor, " b l *core"]]:
        """
        Lower, median and upper quantile (axis 1) of every channel, and the latent.

        Parameters
        ----------
        noisy
            Standardised input; masked voxels hold 0.
        margin
            Voxels around those that are asked for, along each axis: they are read, and nothing is computed there that the others do
            not depend on. None asks for all.
        """
        noisy = channels_last(noisy)
        margin = margin or [(0, 0)] * self.architecture.ndim
        # on CPUs, torch's gradients of dilated convolutions in bfloat16 cannot be trusted (docs/decisions/0010)
        exact = noisy.device.type == "cpu" and torch.is_grad_enabled()
        latent = self.encode(self._features(noisy.to(torch.float32 if exact else self.precision), margin).float())
        noisy = _without(noisy, margin)
        mixed = functional.relu_(self.mix(torch.cat([latent, noisy], dim=1)))
        out = self.heads(torch.cat([mixed, noisy], dim=1)).unflatten(1, (3, self.architecture.out_channels))
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
            # drawn on the CPU and in the plain layout, so that every device and layout begins alike
            drawn = torch.empty(convolution.weight.shape)
            convolution.weight.copy_(nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=random))
            nn.init.zeros_(convolution.bias)
        hooks = [convolution.register_forward_hook(_standardise_output) for convolution in self._convolutions()]
        self(noisy)
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def folded(self) -> "Network":
        """The same function without anything that only training needs: plain convolutions."""
        plain = Network(self.architecture).to(self.encode.weight.device)
        plain.precision = self.precision
        for source, target in zip(self._convolutions(), plain._convolutions(), strict=True):
            weight, bias = cast(Convolution, source).folded()
            target.weight.copy_(weight)
            target.bias.copy_(bias)
        return plain.train(self.training)

    def statistics(self) -> list[BatchNormalised]:
        """Convolutions that keep statistics of batches."""
        return [module for module in self.trunk if isinstance(module, BatchNormalised)]

    def _convolutions(self) -> Iterator[Plain]:
        # all kinds have weight, bias and the methods of `Convolution`; Plain stands for them in the types
        yield from (cast(Plain, module) for module in [*self.trunk, self.encode, self.mix, self.heads])

    def _features(self, noisy: Tensor, margin: Margin) -> Tensor:
        """Everything that enters the latent, concatenated, without the margin."""
        wiring = self.architecture.wiring
        if isinstance(wiring, Graph):
            return _sparse(wiring, self.trunk, noisy, margin)
        return _without(_pyramid(wiring, self.trunk, noisy), margin)


def _sparse(graph: Graph, trunk: nn.ModuleList, noisy: Tensor, margin: Margin) -> Tensor:
    """
    Features that a sparse graph collects at its outputs.

    Parts wait in the order of their sources until their node's turn; a node whose features are used up is freed. Features are
    computed as far into the margin as the outputs see them. Where the margin ends before that, the image ends, and its border is
    repeated.
    """
    reaches = graph.reaches()

    def seen(nodes: Iterable[int]) -> Margin:
        reach = max(reaches[node] for node in nodes)
        return [(min(before, reach), min(after, reach)) for before, after in margin]

    arriving: dict[int, list[Tensor]] = {}
    features: dict[int, Tensor] = {}
    groups = graph.groups()
    last = {group[0].source: index for index, group in enumerate(groups)}
    leaving: dict[int, Tensor] = {}
    for index, (group, convolution) in enumerate(zip(groups, trunk, strict=True)):
        source = group[0].source
        if source not in features:
            features[source] = _active(arriving.pop(source)) if source else noisy
        there, wanted = seen([source]) if source else margin, seen(edge.target for edge in group)
        parts = convolution(features[source], _more(_more(wanted, group[0].dilation), there, -1))
        for edge, part in zip(group, parts.split([edge.channels for edge in group], dim=1), strict=True):
            arriving.setdefault(edge.target, []).append(_without(part, _more(wanted, seen([edge.target]), -1)))
        if last[source] == index:
            done = features.pop(source)
            if source in graph.outputs:
                leaving[source] = _without(done, there)
    return _joined([leaving[node] if node in leaving else _active(arriving[node]) for node in graph.outputs])


def _more(margin: Margin, other: Margin | int, sign: int = 1) -> Margin:
    """Two margins added side by side, or one and the same on every side."""
    others = [(other, other)] * len(margin) if isinstance(other, int) else other
    return [(before + sign * one, after + sign * two) for (before, after), (one, two) in zip(margin, others, strict=True)]


def _without(features: Tensor, margin: Margin) -> Tensor:
    """Features inside a margin."""
    return fitted(features, [(-before, -after) for before, after in margin])


def _pyramid(unet: UNet, trunk: nn.ModuleList, noisy: Tensor) -> Tensor:
    """Features of a U-Net; a field that is no multiple of the stride is padded at its far ends, and cropped again."""
    shape = noisy.shape[2:]
    missing = [-size % unet.stride for size in shape]
    features = functional.pad(noisy, [value for size in reversed(missing) for value in (0, size)], mode="replicate")
    convolutions, skipped = iter(trunk), []
    for _ in range(unet.levels):
        features = _repeated(features, convolutions, unet.repeats)
        skipped.append(features)
        features = POOL[len(shape)](features, 2)
    features = _repeated(features, convolutions, unet.repeats)
    for skip in reversed(skipped):
        finer = functional.interpolate(features, scale_factor=2, mode="nearest")
        features = _repeated(torch.cat([finer, skip], dim=1), convolutions, unet.repeats)
    return features[(slice(None), slice(None), *(slice(size) for size in shape))]


def _repeated(features: Tensor, convolutions: Iterator[nn.Module], count: int) -> Tensor:
    for _ in range(count):
        features = functional.relu_(next(convolutions)(features))
    return features


def _active(parts: list[Tensor]) -> Tensor:
    """Rectified features of a node; in place where joining has made a tensor of its own."""
    return functional.relu(parts[0]) if len(parts) == 1 else functional.relu_(torch.cat(parts, dim=1))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _standardise_output(module: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    """Forward hook: rescale a convolution so that this very output has mean 0 and variance 1 in each channel."""
    others = [axis for axis in range(output.ndim) if axis != 1]
    shape = [-1] + [1] * (output.ndim - 2)
    mean = output.float().mean(others)
    spread = output.float().std(others, correction=0).clamp_min(1e-3)  # a dead or constant channel is left alone
    cast(Convolution, module).rescale(mean, spread)
    return (output - mean.view(shape)) / spread.view(shape)
