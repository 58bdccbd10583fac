"""Training of one member: pinball losses of all three quantiles, best state on held-out training blocks."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from behindthenoise.config import TrainingConfig
from behindthenoise.core.network import Network
from behindthenoise.core.patches import Patches
from behindthenoise.errors import TrainingError

VALIDATIONS = 20  # per training, at most
VALIDATION_EXAMPLES = 128


@dataclass(frozen=True)
class Progress:
    """One row of `history.csv`; losses in units of the standardised clean image."""

    step: int
    loss: float
    validation: float
    learning_rate: float
    time_s: float

    def as_row(self) -> dict[str, float]:
        """Column names and values."""
        return asdict(self)


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


def train(
    network: Network,
    patches: Patches,
    held_out: Patches,
    config: TrainingConfig,
    random: torch.Generator,
    report: Callable[[Progress], None],
) -> list[Progress]:
    """
    Train in place and leave the network in its best state.

    Parameters
    ----------
    network
        An untrained network on its device.
    patches, held_out
        Examples to learn from, and those from training blocks that only choose the best state.
    random
        Source of the initial weights, the batches and the flips, on the CPU.
    report
        Called at every validation.

    Returns
    -------
    list of Progress
        One entry per validation.

    Raises
    ------
    TrainingError
        If the validation loss is no longer a number.
    """
    network.initialise(patches.noisy[_draw_batch(patches, 4 * config.batch, random)[:, 0]], random)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: rate_factor(done, config.steps))
    interval = -(-config.steps // VALIDATIONS)
    best, best_loss, waited = _copy_state(network), float("inf"), 0
    history: list[Progress] = []
    losses: list[float] = []
    start = time.monotonic()
    for step in range(1, config.steps + 1):
        rate = float(schedule.get_last_lr()[0])
        losses.append(_step(network, patches, config, optimiser, random))
        schedule.step()
        if step % interval and step < config.steps:
            continue
        loss = validate(network, held_out, config)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss} after {step} steps; "
                f"use a smaller training.learning_rate than {config.learning_rate:g}"
            )
        history.append(Progress(step, sum(losses) / len(losses), loss, rate, round(time.monotonic() - start, 3)))
        report(history[-1])
        losses.clear()
        if loss < best_loss:
            best, best_loss, waited = _copy_state(network), loss, 0
        else:
            waited += 1
            if waited >= config.patience:
                break
    network.load_state_dict(best)
    return history


def rate_factor(done: int, steps: int) -> float:
    """Share of the peak learning rate after `done` of `steps` steps: a rise over a tenth of them, then half a cosine."""
    rise = max(steps // 10, 1)
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(steps - rise, 1)))


@torch.no_grad()
def validate(network: Network, held_out: Patches, config: TrainingConfig) -> float:
    """Loss on a fixed, evenly spread part of the held-out examples."""
    stride = -(-len(held_out.pairs) // VALIDATION_EXAMPLES)
    total, weight_total = 0.0, 0.0
    for batch in held_out.pairs[::stride].split(config.batch):
        weight = held_out.weight[batch[:, 1]]
        quantiles, _ = network(held_out.noisy[batch[:, 0]])
        loss = pinball(quantiles, held_out.clean[batch[:, 1]], weight, config.quantiles)
        total += float(loss) * float(weight.sum())
        weight_total += float(weight.sum())
    return total / weight_total


def _step(
    network: Network, patches: Patches, config: TrainingConfig, optimiser: torch.optim.Optimizer, random: torch.Generator
) -> float:
    """One optimiser step on a random batch; returns its loss."""
    batch = _draw_batch(patches, config.batch, random)
    noisy, clean, weight = patches.noisy[batch[:, 0]], patches.clean[batch[:, 1]], patches.weight[batch[:, 1]]
    if config.flips:
        axes = [axis + 2 for axis in range(network.ndim) if torch.randint(2, (1,), generator=random).item()]
        noisy, clean, weight = noisy.flip(axes), clean.flip(axes), weight.flip(axes)
    quantiles, _ = network(noisy)
    loss = pinball(quantiles, clean, weight, config.quantiles)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _draw_batch(patches: Patches, size: int, random: torch.Generator) -> Int[Tensor, " b 2"]:
    """Random examples, with replacement."""
    chosen = torch.randint(len(patches.pairs), (size,), generator=random)
    return patches.pairs[chosen.to(patches.pairs.device)]


def _copy_state(network: Network) -> dict[str, Tensor]:
    """Weights that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
