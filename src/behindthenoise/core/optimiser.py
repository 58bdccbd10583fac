"""The optimiser: weights move along orthogonalised momentum, biases and gains as AdamW moves them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
# of the quintic iteration: its slope at 0 is as steep as it can be, and singular values end between 0.7 and 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


class Optimiser:
    """
    Muon for the weights of convolutions, AdamW for what has one number a channel.

    A weight is a matrix, from what enters to what leaves. Its step is its momentum with all singular values made nearly equal, so
    that directions which the loss hardly shows are learned as fast as the others. Matrices of similar shapes are orthogonalised
    together, as one stack. What has no gradient has a step of zero.

    Parameters
    ----------
    parameters
        Of the network, on its device.
    weight_decay
        Decoupled: a step shrinks parameters by its rate times this.

    References
    ----------
    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; Loshchilov & Hutter (2019), arXiv:1711.05101.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float) -> None:
        self._decay = weight_decay
        self._parameters = list(parameters)
        alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.ndim > 1:
                alike.setdefault(tuple(size.bit_length() for size in _sizes(parameter)), []).append(parameter)
        self._stacks = [Stack(weights) for weights in alike.values()]
        vectors = [parameter for parameter in parameters if parameter.ndim == 1]
        self._adam = torch.optim.AdamW(vectors, lr=0.0, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move all parameters by their gradients."""
        for stack in self._stacks:
            stack.step(rate, self._decay)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, beside the parameters."""
        found = {f"momentum.{index}": stack.momentum for index, stack in enumerate(self._stacks)}
        for index, moments in self._adam.state_dict()["state"].items():
            found |= {f"{index}.{name}": value for name, value in moments.items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up where `state` was taken."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            first, second = name.split(".")
            if first == "momentum":
                self._stacks[int(second)].momentum.copy_(value)
            else:
                moments.setdefault(int(first), {})[second] = value.clone()
        self._adam.load_state_dict({"state": moments, "param_groups": self._adam.state_dict()["param_groups"]})


class Stack:
    """
    Weights whose matrices are of similar shapes, and their momentum.

    Attributes
    ----------
    momentum
        (weight, shorter, longer): padded by zeros, which stay zeros.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights: list[Tensor] = list(weights)
        shorter, longer = (max(sizes) for sizes in zip(*map(_sizes, weights), strict=True))
        device = weights[0].device
        self.momentum = torch.zeros(len(weights), shorter, longer, device=device)
        ratios = torch.tensor([weight.shape[0] / weight[0].numel() for weight in weights], device=device)
        self._gains = ratios.clamp_min(1).sqrt()[:, None, None]  # wider outputs than inputs

    def step(self, rate: float, decay: float) -> None:
        """Move all weights by their gradients."""
        gradients = torch.zeros_like(self.momentum)
        pairs = zip(self._views(gradients), self._weights, strict=True)
        known = [(view, weight.grad) for view, weight in pairs if weight.grad is not None]
        if known:
            torch._foreach_copy_([view for view, _ in known], [gradient for _, gradient in known])
        self.momentum.lerp_(gradients, 1 - MOMENTUM)
        steps = orthogonalised(gradients.lerp_(self.momentum, MOMENTUM)).mul_(self._gains)  # Nesterov's momentum
        torch._foreach_mul_(self._weights, 1 - rate * decay)
        torch._foreach_sub_(self._weights, self._views(steps), alpha=rate)

    def _views(self, padded: Tensor) -> list[Tensor]:
        """The parts of a stack that are not padding, shaped as the weights are."""
        found = []
        for matrix, weight in zip(padded, self._weights, strict=True):
            leaving, entering = weight.shape[0], weight[0].numel()
            part = matrix[:leaving, :entering] if leaving <= entering else matrix[:entering, :leaving].T
            found.append(part.unflatten(1, weight.shape[1:]))
        return found


def orthogonalised(matrices: Float[Tensor, " n rows columns"]) -> Float[Tensor, " n rows columns"]:
    """
    Matrices of the same singular vectors whose singular values are about 1, by a Newton-Schulz iteration; zeros stay zeros.

    References
    ----------
    Bernstein & Newhouse (2024), arXiv:2409.20325, section 2; the coefficients are those of Jordan et al. (2024).
    """
    linear, cubic, quintic = COEFFICIENTS
    scaled = matrices / matrices.flatten(1).norm(dim=1).clamp_min(EPSILON)[:, None, None]
    identity = torch.eye(matrices.shape[1], device=matrices.device).expand(len(matrices), -1, -1)
    # every iteration multiplies the matrices by a polynomial of their Gram matrix, so these small ones are all that is iterated
    gram, product = scaled @ scaled.mT, identity
    for _ in range(ITERATIONS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic).add_(identity, alpha=linear)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    return torch.bmm(product, scaled)


def _sizes(weight: Tensor) -> tuple[int, int]:
    """Shorter and longer edge of a weight as a matrix."""
    leaving, entering = weight.shape[0], weight[0].numel()
    return min(leaving, entering), max(leaving, entering)
