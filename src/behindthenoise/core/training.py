"""Training of one member: pinball losses of all three quantiles, best state on held-out training blocks."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from behindthenoise.config import TrainingConfig
from behindthenoise.core.network import Network
from behindthenoise.core.optimiser import Optimiser
from behindthenoise.core.patches import Batch, Examples
from behindthenoise.errors import TrainingError

VALIDATIONS = 20  # per training, at most
VALIDATION_EXAMPLES = 128
SETTLING = 64  # batches that give the statistics of batch normalisation after the last step
START, STEP, SETTLE = range(3)  # streams of randomness that one seed feeds


@dataclass(frozen=True)
class Progress:
    """
    One row of `history.csv`.

    Attributes
    ----------
    step
        Steps done.
    loss
        Mean training loss since the last row, in units of the standardised clean image.
    validation
        Loss on the held-out examples.
    learning_rate
        Of the last step.
    time_s
        Seconds since the start, without those that a killed training lost.
    patches_per_s
        Mean since the start, validation included.
    """

    step: int
    loss: float
    validation: float
    learning_rate: float
    time_s: float
    patches_per_s: float

    def as_row(self) -> dict[str, int | float]:
        """Column names and values."""
        return asdict(self)


@dataclass(frozen=True)
class Quality:
    """How a trained network does on its held-out examples, over voxels of full weight; never on calibration or test data."""

    loss: float
    correlation: float
    mean_squared_error: float


def pinball(
    quantiles: Float[Tensor, " b 3 out *space"],
    clean: Float[Tensor, " b out *space"],
    weight: Float[Tensor, " b 1 *space"],
    levels: tuple[float, float, float],
) -> Float[Tensor, ""]:
    """
    Weighted mean pinball loss over voxels, channels and the three levels.

    References
    ----------
    Koenker & Bassett (1978), doi:10.2307/1913643.
    """
    error = clean[:, None] - quantiles
    level = torch.tensor(levels, dtype=error.dtype, device=error.device).view(1, 3, *[1] * (error.ndim - 2))
    loss = torch.maximum(level * error, (level - 1) * error).mean(dim=(1, 2))
    return (loss * weight[:, 0]).sum() / weight.sum().clamp_min(1e-12)


class Training:
    """
    One training, step by step, that can be put down and taken up again.

    What happens in a step depends on the seed and the step's number alone, so that a training which goes on from its `state`
    ends with the weights of one that was never interrupted: the same bits on a CPU with the same number of threads.

    Parameters
    ----------
    network
        An untrained network on its device; it is trained in place.
    learn, held_out
        Examples to learn from, and those from training blocks that only choose the best state.
    config
        How to train.
    seed
        Entropy of the initial weights, the batches and the augmentation.
    exchangeable
        Spatial axes that quarter turns may exchange.
    """

    def __init__(
        self,
        network: Network,
        learn: Examples,
        held_out: Examples,
        config: TrainingConfig,
        *,
        seed: Sequence[int],
        exchangeable: Sequence[int] = (),
    ) -> None:
        self.network, self.learn, self.held_out, self.config = network, learn, held_out, config
        self.seed, self.exchangeable = tuple(seed), tuple(exchangeable)
        self.step, self.waited, self.best_loss = 0, 0, math.inf
        self.history: list[Progress] = []
        self._losses: list[Tensor] = []
        random = self._random(START)
        first = learn.batch(random.integers(len(learn), size=4 * config.batch))
        network.train().initialise(first.noisy, torch.Generator().manual_seed(int(random.integers(2**63))))
        self._best = _copied(network)
        self._optimiser = Optimiser(list(network.parameters()), config.weight_decay)
        self._before_s, self._started = 0.0, time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the validation loss has not fallen for too long."""
        return self.step >= self.config.steps or self.waited >= self.config.patience

    @property
    def time_s(self) -> float:
        """Seconds of training, over all interruptions."""
        return self._before_s + time.monotonic() - self._started

    def advance(self) -> Progress | None:
        """
        One optimiser step; a row of the history where it ends with a validation.

        Raises
        ------
        TrainingError
            If the first validation loss is not a number; where a later one is not, training ends with its best state.
        """
        rate = self.config.learning_rate * rate_factor(self.step, self.config.steps)
        chosen, random = self._drawn(self.step)
        batch = augmented(self.learn.batch(chosen), random, flips=self.config.flips, exchangeable=self.exchangeable)
        self.learn.prepare(self._drawn(self.step + 1)[0])
        quantiles, _ = self.network(batch.noisy)
        loss = pinball(quantiles, batch.clean, batch.weight, self.config.quantiles)
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step(rate)
        self._losses.append(loss.detach())
        self.step += 1
        interval = -(-self.config.steps // VALIDATIONS)
        return None if self.step % interval and self.step < self.config.steps else self._validate(rate)

    def result(self) -> Network:
        """
        The network in its best state, folded.

        Batch normalisation takes the statistics of that state from fresh batches first, since the running ones lag behind.
        """
        self.network.load_state_dict(self._best)
        self._settle()
        return self.network.eval().folded()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on: tensors, and plain data."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        tensors |= {f"optimiser.{name}": value for name, value in self._optimiser.state().items()}
        facts = {
            "step": self.step,
            "waited": self.waited,
            "best_loss": self.best_loss,
            "losses": [float(loss) for loss in self._losses],
            "history": [row.as_row() for row in self.history],
            "time_s": self.time_s,
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take up where `state` was taken."""
        device = next(self.network.parameters()).device
        self.network.load_state_dict(_under("network.", tensors))
        self._best = {name: value.to(device) for name, value in _under("best.", tensors).items()}
        self._optimiser.restore(_under("optimiser.", tensors))
        self.step, self.waited, self.best_loss = facts["step"], facts["waited"], facts["best_loss"]
        self._losses = [torch.tensor(loss) for loss in facts["losses"]]
        self.history = [Progress(**row) for row in facts["history"]]
        self._before_s, self._started = facts["time_s"], time.monotonic()

    def _random(self, *stream: int) -> np.random.Generator:
        """Randomness of one purpose, independent of all others."""
        return np.random.default_rng([*self.seed, *stream])

    def _drawn(self, step: int) -> tuple[Int[np.ndarray, " b"], np.random.Generator]:
        """Examples of a step, drawn with replacement, and the randomness of their augmentation."""
        random = self._random(STEP, step)
        return random.integers(len(self.learn), size=self.config.batch), random

    def _validate(self, rate: float) -> Progress:
        """Validate, keep the state if it is the best, and add a row to the history."""
        loss = validate(self.network, self.held_out, self.config)
        if not math.isfinite(loss) and not self.history:
            raise TrainingError(
                f"the validation loss is {loss} after {self.step} steps; "
                f"use a smaller training.learning_rate than {self.config.learning_rate:g}"
            )
        mean = sum(float(value) for value in self._losses) / len(self._losses)
        time_s = round(self.time_s, 3)
        row = Progress(self.step, mean, loss, rate, time_s, round(self.step * self.config.batch / max(time_s, 1e-3), 2))
        self.history.append(row)
        self._losses.clear()
        if not math.isfinite(loss):
            self.waited = self.config.patience  # the best state so far stands
        elif loss < self.best_loss:
            self._best, self.best_loss, self.waited = _copied(self.network), loss, 0
        else:
            self.waited += 1
        return row

    @torch.no_grad()
    def _settle(self) -> None:
        """Replace running statistics of batches by their mean over fresh ones."""
        statistics = self.network.statistics()
        if not statistics:
            return
        self.network.train()
        random = self._random(SETTLE)
        sums = [[torch.zeros_like(layer.mean) for _ in range(3)] for layer in statistics]
        for layer in statistics:
            layer.momentum = 1.0
        for _ in range(SETTLING):
            # not `self.network(...)`, which may replay a recorded graph with the former momentum
            Network.forward(self.network, self.learn.batch(random.integers(len(self.learn), size=self.config.batch)).noisy)
            for layer, (mean, square, variance) in zip(statistics, sums, strict=True):
                mean.add_(layer.mean, alpha=1 / SETTLING)
                square.add_(layer.mean.square(), alpha=1 / SETTLING)
                variance.add_(layer.variance, alpha=1 / SETTLING)
        for layer, (mean, square, variance) in zip(statistics, sums, strict=True):
            layer.mean.copy_(mean)
            layer.variance.copy_(variance + square - mean.square())


def rate_factor(done: int, steps: int) -> float:
    """Share of the peak learning rate after `done` of `steps` steps: a rise over a tenth of them, then half a cosine."""
    rise = max(steps // 10, 1)
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(steps - rise, 1)))


def augmented(batch: Batch, random: np.random.Generator, *, flips: bool, exchangeable: Sequence[int]) -> Batch:
    """
    The batch seen from another side: mirrored along random axes, with exchangeable axes in random order.

    Together these are all mirrorings and quarter turns that leave the other axes where they are.

    Parameters
    ----------
    exchangeable
        Spatial axes of equal spacing; only those whose windows are equally long are exchanged.
    """
    ndim = batch.noisy.ndim - 2
    mirrored = [axis + 2 for axis in range(ndim) if random.integers(2)] if flips else []
    order = np.arange(ndim + 2)
    for size in sorted({batch.noisy.shape[axis + 2] for axis in exchangeable}):
        axes = np.array([axis + 2 for axis in exchangeable if batch.noisy.shape[axis + 2] == size])
        order[axes] = random.permutation(axes)
    turned = (tensor.permute(*order.tolist()).flip(mirrored) for tensor in (batch.noisy, batch.clean, batch.weight))
    return Batch(*turned)


def validate(network: Network, held_out: Examples, config: TrainingConfig) -> float:
    """Loss on a fixed, evenly spread part of the held-out examples."""
    return assess(network, held_out, config).loss


@torch.no_grad()
def assess(network: Network, held_out: Examples, config: TrainingConfig) -> Quality:
    """Loss, and accuracy of the median, on a fixed, evenly spread part of the held-out examples."""
    training = network.training
    network.eval()
    chosen = np.arange(0, len(held_out), -(-len(held_out) // VALIDATION_EXAMPLES))
    total = weights = 0.0
    moments = np.zeros(6)
    for part in np.split(chosen, range(config.batch, len(chosen), config.batch)):
        batch = held_out.batch(part)
        quantiles, _ = network(batch.noisy)
        weight = float(batch.weight.sum())
        total += float(pinball(quantiles, batch.clean, batch.weight, config.quantiles)) * weight
        weights += weight
        moments += _moments(quantiles[:, 1], batch)
    network.train(training)
    count, x, y, xx, yy, xy = moments
    spread = math.sqrt(max(xx - x * x / count, 0) * max(yy - y * y / count, 0)) if count else 0.0
    correlation = (xy - x * y / count) / spread if spread else 0.0
    return Quality(total / weights, correlation, (xx - 2 * xy + yy) / count if count else math.nan)


def _moments(median: Tensor, batch: Batch) -> np.ndarray:
    """Count, sums and sums of products of median and target, over voxels of full weight."""
    full = (batch.weight == 1).expand_as(median)
    x, y = median[full].double(), batch.clean[full].double()
    return np.array([len(x), *(float(value.sum()) for value in (x, y, x * x, y * y, x * y))])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _copied(network: Network) -> dict[str, Tensor]:
    """Weights that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
