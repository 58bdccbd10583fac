from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig, TrainingConfig
from behindthenoise.core import graph as graphs
from behindthenoise.core.network import Network
from behindthenoise.core.patches import Patches
from behindthenoise.core.training import pinball, rate_factor, train, validate
from behindthenoise.errors import TrainingError

LEVELS = (0.05, 0.5, 0.95)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks as small as these lose more time by waiting for a second thread than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_network(ndim=2, channels=1):
    config = NetworkConfig(depth=3, width=2, radius_max=3, latent=3, head=4)
    graph = graphs.draw(config, graphs.generator(1, 0))
    return Network(graph, in_channels=channels, out_channels=channels, ndim=ndim, latent=3, head=4)


def examples(count, seed, ndim=2, edge=12, noise=0.3, slope=1.0):
    """Patches of random noise; the clean image is `slope` times the noisy one plus noise."""
    random = np.random.default_rng(seed)
    noisy = random.normal(size=(count, 1, *[edge] * ndim))
    clean = slope * noisy + noise * random.normal(size=noisy.shape)
    weight = random.choice([0.0, 0.1, 1.0], size=noisy.shape)
    index = torch.arange(count)
    tensors = (torch.from_numpy(values.astype(np.float32)) for values in (noisy, clean, weight))
    return Patches(*tensors, torch.stack([index, index], dim=1))


def trained(config, *, seed=3, learn=None, held_out=None, report=id):
    network = small_network()
    held_out = held_out or examples(4, 1)
    history = train(network, learn or examples(8, 0), held_out, config, torch.Generator().manual_seed(seed), report)
    return network, history, held_out


@given(st.integers(0, 2**31), st.sampled_from([2, 3]), st.integers(1, 3))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_pinball_is_its_definition_voxel_by_voxel(seed, ndim, channels):
    random = np.random.default_rng(seed)
    quantiles = random.normal(size=(2, 3, channels, *[4] * ndim))
    clean = random.normal(size=(2, channels, *[4] * ndim))
    weight = random.choice([0.0, 0.1, 1.0], size=(2, 1, *[4] * ndim), p=[0.3, 0.3, 0.4])
    levels = tuple(np.sort(random.uniform(0.01, 0.99, 3)))
    total = 0.0
    for item, level, channel in np.ndindex(2, 3, channels):
        for voxel in np.ndindex(*[4] * ndim):
            error = clean[(item, channel, *voxel)] - quantiles[(item, level, channel, *voxel)]
            loss = levels[level] * error if error >= 0 else (1 - levels[level]) * -error
            total += weight[(item, 0, *voxel)] * loss
    found = pinball(*map(torch.from_numpy, (quantiles, clean, weight)), levels)
    assert float(found) == pytest.approx(total / (3 * channels * weight.sum()), rel=1e-9)


@pytest.mark.parametrize("hidden", [1e6, -1e6, 0.0])
def test_a_voxel_of_weight_zero_changes_neither_loss_nor_gradients(ndim, hidden):
    network, batch = small_network(ndim), examples(3, 5, ndim, edge=8)
    network.initialise(batch.noisy, torch.Generator().manual_seed(0))
    assert (batch.weight == 0).any()

    def loss_and_gradients(clean):
        network.zero_grad()
        loss = pinball(network(batch.noisy)[0], clean, batch.weight, LEVELS)
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in network.parameters())]

    expected = loss_and_gradients(batch.clean)
    found = loss_and_gradients(torch.where(batch.weight == 0, hidden, batch.clean))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_batch_in_which_nothing_counts_has_loss_zero():
    batch = examples(2, 5)
    quantiles = torch.zeros(2, 3, 1, 12, 12)
    assert float(pinball(quantiles, batch.clean, torch.zeros_like(batch.weight), LEVELS)) == 0


def test_minimising_pinball_gives_the_quantiles_of_skewed_noise():
    noise = torch.from_numpy(np.random.default_rng(2).exponential(size=4000)).view(1, 1, 40, 100)
    constants = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([constants], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 600)
    for _ in range(600):
        optimiser.zero_grad()
        pinball(constants.view(1, 3, 1, 1, 1).expand(1, 3, 1, 40, 100), noise, torch.ones_like(noise), LEVELS).backward()
        optimiser.step()
        schedule.step()
    below = [float((noise <= constant).double().mean()) for constant in constants.detach()]
    np.testing.assert_allclose(below, LEVELS, atol=0.005)


def test_training_learns_a_linear_relation_and_its_spread():
    config = TrainingConfig(steps=150, batch=4, learning_rate=0.02, patience=100)
    network, history, held_out = trained(config, learn=examples(16, 0, noise=0.3, slope=0.5), held_out=examples(8, 1, slope=0.5))
    with torch.no_grad():
        lower, median, upper = network(held_out.noisy)[0].unbind(1)
    inside = (held_out.clean >= lower) & (held_out.clean <= upper)
    assert history[-1].validation < 0.6 * history[0].validation
    assert float((median - 0.5 * held_out.noisy).abs().mean()) < 0.1
    assert 0.84 < float(inside.double().mean()) < 0.96


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    config = TrainingConfig(steps=12, batch=3)
    (one, rows, _), (again, rows_again, _), (other, _, _) = (trained(config, seed=seed) for seed in (3, 3, 4))
    states = [network.state_dict() for network in (one, again, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
    assert [(row.loss, row.validation) for row in rows] == [(row.loss, row.validation) for row in rows_again]


def test_training_leaves_global_random_numbers_alone():
    network = small_network()
    before = torch.random.get_rng_state()
    train(network, examples(4, 0), examples(2, 1), TrainingConfig(steps=3), torch.Generator().manual_seed(0), id)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_network_ends_in_its_best_state_and_not_in_its_last():
    # the held-out patches contradict those that are learned from, so that validation soon gets worse
    learn, held_out = examples(8, 0, slope=1.0), examples(4, 1, slope=-1.0)
    config = TrainingConfig(steps=40, batch=4, learning_rate=0.03, patience=100)
    seen = []
    network, history, _ = trained(config, learn=learn, held_out=held_out, report=seen.append)
    best = min(row.validation for row in history)
    assert validate(network, held_out, config) == best
    assert history[-1].validation > best, "the case is made so that the last state is not the best"
    assert seen == history


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_after_as_many_validations_without_improvement_as_patience_allows(patience):
    learn, held_out = examples(8, 0, slope=1.0), examples(4, 1, slope=-1.0)
    config = TrainingConfig(steps=400, batch=4, learning_rate=0.05, patience=patience)
    _, history, _ = trained(config, learn=learn, held_out=held_out)
    losses = [row.validation for row in history]
    assert history[-1].step < config.steps
    assert len(losses) - 1 - int(np.argmin(losses)) == patience
    records = np.minimum.accumulate(losses)
    waits = np.arange(len(losses)) - [losses.index(record) for record in records]
    assert (waits[:-1] < patience).all(), "not one validation too late"


@pytest.mark.parametrize("steps", [1, 7, 20, 45])
def test_the_last_step_is_validated_and_the_loss_is_the_mean_since_the_last_validation(steps):
    # hardly a step is made, so every batch has nearly the same loss, and a wrong divisor shows
    _, history, _ = trained(TrainingConfig(steps=steps, batch=8, learning_rate=1e-9, patience=100))
    assert history[-1].step == steps
    assert len(history) <= 20
    losses = [row.loss for row in history]
    np.testing.assert_allclose(losses, np.median(losses), rtol=0.25)


def test_validation_is_the_weighted_mean_over_all_batches():
    network, held_out = small_network(), examples(7, 8)
    network.initialise(held_out.noisy, torch.Generator().manual_seed(0))
    values = [validate(network, held_out, TrainingConfig(batch=batch)) for batch in (1, 3, 7)]
    with torch.no_grad():
        whole = float(pinball(network(held_out.noisy)[0], held_out.clean, held_out.weight, LEVELS))
    np.testing.assert_allclose(values, whole, rtol=1e-5)


@pytest.mark.parametrize("count", [129, 300])
def test_many_held_out_examples_are_thinned_evenly(count):
    held_out = examples(count, 8, edge=4)
    network = small_network()
    network.initialise(held_out.noisy, torch.Generator().manual_seed(0))
    config = TrainingConfig(batch=64)
    thinned = Patches(held_out.noisy, held_out.clean, held_out.weight, held_out.pairs[:: -(-count // 128)])
    assert len(thinned.pairs) <= 128
    assert validate(network, held_out, config) == validate(network, thinned, config)


def test_without_flips_the_patches_are_seen_as_they_are():
    # the clean image is the noisy one moved by a pixel along x; mirrored, it is moved the other way, which no network can know
    noisy = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    index = torch.arange(6)
    patches = Patches(noisy, noisy.roll(1, dims=-1), torch.ones_like(noisy), torch.stack([index, index], dim=1))
    fit = partial(trained, learn=patches, held_out=patches)
    losses = [
        min(row.validation for row in fit(TrainingConfig(steps=120, batch=4, learning_rate=0.02, flips=flips))[1])
        for flips in (False, True)
    ]
    assert losses[0] < 0.8 * losses[1]


def test_a_training_that_runs_away_is_refused():
    with pytest.raises(
        TrainingError, match=r"validation loss is nan after \d+ steps; use a smaller training\.learning_rate than 1e\+30"
    ):
        trained(TrainingConfig(steps=20, batch=2, learning_rate=1e30))


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 300])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing(steps):
    factors = [rate_factor(done, steps) for done in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert steps < 100 or factors[-1] < 1e-3
