import json
import math
from dataclasses import asdict, replace
from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import chisquare
from torch.nn import functional

from behindthenoise.config import NetworkConfig, TrainingConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core.network import Network
from behindthenoise.core.patches import Batch, Patches
from behindthenoise.core.training import Training, assess, augmented, pinball, rate_factor, validate
from behindthenoise.errors import TrainingError
from behindthenoise.io.checkpoint import read_checkpoint, write_checkpoint

LEVELS = (0.05, 0.5, 0.95)


def small_network(ndim=2, channels=1, **kind):
    config = NetworkConfig(depth=3, width=2, radius_max=3, latent=3, head=4)
    return Network(architectures.draw(config, architectures.generator(1, 0), ndim=ndim, channels=channels), **kind)


def examples(count, seed, ndim=2, edge=12, noise=0.3, slope=1.0):
    """Patches of random noise; the clean image is `slope` times the noisy one plus noise."""
    random = np.random.default_rng(seed)
    noisy = random.normal(size=(count, 1, *[edge] * ndim))
    clean = slope * noisy + noise * random.normal(size=noisy.shape)
    weight = random.choice([0.0, 0.1, 1.0], size=noisy.shape)
    index = torch.arange(count)
    tensors = (torch.from_numpy(values.astype(np.float32)) for values in (noisy, clean, weight))
    return Patches(*tensors, torch.stack([index, index], dim=1), torch.device("cpu"))


def begun(config, *, seed=3, learn=None, held_out=None, exchangeable=(0, 1)):
    """A training of which no step is done yet."""
    network = small_network(normalisation=config.normalisation, precision=config.precision)
    learn, held_out = learn or examples(8, 0), held_out or examples(4, 1)
    return Training(network, learn, held_out, config, seed=[seed, 0, 2], exchangeable=exchangeable)


def finished(training):
    """The same training, when it has ended."""
    while not training.finished:
        training.advance()
    return training


def trained(config, **choices):
    training = finished(begun(config, **choices))
    return training.result(), training.history, training.held_out


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


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    config = TrainingConfig(steps=12, batch=3)
    (one, rows, _), (again, rows_again, _), (other, _, _) = (trained(config, seed=seed) for seed in (3, 3, 4))
    assert same_bits(one.state_dict(), again.state_dict())
    assert not same_bits(one.state_dict(), other.state_dict())
    assert [(row.loss, row.validation) for row in rows] == [(row.loss, row.validation) for row in rows_again]


def test_training_leaves_global_random_numbers_alone():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # what must not change
    for normalisation in ("none", "batch"):
        trained(TrainingConfig(steps=3, normalisation=normalisation))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("disturb", [torch.rand, np.random.rand], ids=["torch", "numpy"])
def test_global_random_numbers_have_no_influence(disturb):
    config = TrainingConfig(steps=6, batch=2)
    expected, _, _ = trained(config)
    training = begun(config)
    while not training.finished:
        disturb(7)
        training.advance()
    assert same_bits(training.result().state_dict(), expected.state_dict())


def test_the_network_ends_in_its_best_state_and_not_in_its_last():
    # the held-out patches contradict those that are learned from, so that validation soon gets worse
    learn, held_out = examples(8, 0, slope=1.0), examples(4, 1, slope=-1.0)
    config = TrainingConfig(steps=40, batch=4, learning_rate=0.03, patience=100)
    training, seen = begun(config, learn=learn, held_out=held_out), []
    while not training.finished:
        seen.append(training.advance())
    best = min(row.validation for row in training.history)
    assert validate(training.result(), held_out, config) == pytest.approx(best, rel=1e-6)
    assert training.history[-1].validation > best, "the case is made so that the last state is not the best"
    assert [row for row in seen if row is not None] == training.history


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
    thinned = replace(held_out, pairs=held_out.pairs[:: -(-count // 128)])
    assert len(thinned.pairs) <= 128
    assert validate(network, held_out, config) == validate(network, thinned, config)


def moved_patches():
    """The clean image is the noisy one moved by a pixel along x, and otherwise from another side, which no network can know."""
    noisy = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return replace(examples(6, 0), noisy=noisy, clean=noisy.roll(1, dims=-1), weight=torch.ones_like(noisy))


@pytest.mark.parametrize(("choice", "exchangeable"), [({"flips": True}, ()), ({}, (0, 1))], ids=["flips", "turns"])
def test_without_flips_and_turns_the_patches_are_seen_as_they_are(choice, exchangeable):
    patches = moved_patches()
    fit = partial(trained, learn=patches, held_out=patches)
    same = {"steps": 120, "batch": 4, "learning_rate": 0.02, "flips": False}
    plain, augmented = (
        min(row.validation for row in fit(TrainingConfig(**{**same, **more}), exchangeable=axes)[1])
        for more, axes in (({}, ()), (choice, exchangeable))
    )
    assert plain < 0.8 * augmented


def numbered(ndim, edge=3):
    """A batch of one whose voxels all differ, in all three tensors alike."""
    shape = [edge] * ndim if isinstance(edge, int) else edge
    values = torch.arange(float(np.prod(shape))).view(1, 1, *shape)
    return Batch(values, values + 1000, values + 2000)


def symmetries(values, axes):
    """Every mirroring of a field together with every order of these axes."""
    others = [place if place not in axes else None for place in range(values.ndim)]
    found = set()
    for order in permutations(axes):
        left = list(order)
        places = [place if place is not None else left.pop(0) for place in others]
        for steps in product((1, -1), repeat=values.ndim):
            found.add(np.transpose(values, places)[tuple(slice(None, None, step) for step in steps)].tobytes())
    return found


@pytest.mark.parametrize(
    ("shape", "exchangeable", "count"),
    [
        ((3, 3), (0, 1), 8),
        ((3, 3, 3), (0, 1, 2), 48),
        ((3, 3), (), 4),
        ((3, 3, 3), (), 8),
        ((3, 3, 3), (1, 2), 16),
        ((3, 3, 3), (0, 2), 16),
        ((2, 3), (0, 1), 4),
        ((2, 3, 3), (0, 1, 2), 16),
        ((3, 2, 3), (0, 1, 2), 16),
    ],
    ids=str,
)
def test_augmentation_gives_exactly_the_symmetries_of_the_axes_that_may_be_exchanged(shape, exchangeable, count):
    batch = numbered(len(shape), shape)
    values = batch.noisy[0, 0].numpy()
    exchanged = [axis for axis in exchangeable if shape[axis] == 3]
    random, seen = np.random.default_rng(0), []
    for _ in range(60 * count):
        found = augmented(batch, random, flips=True, exchangeable=exchangeable)
        assert torch.equal(found.clean, found.noisy + 1000), "noisy, clean and weight move alike"
        assert torch.equal(found.weight, found.noisy + 2000)
        assert found.noisy.shape == batch.noisy.shape
        seen.append(found.noisy[0, 0].numpy().tobytes())
    expected = symmetries(values, exchanged)
    assert len(expected) == count
    assert set(seen) == expected
    assert chisquare([seen.count(one) for one in expected]).pvalue > 1e-4, "each as often as the next"


@pytest.mark.parametrize(("exchangeable", "count"), [((), 1), ((0, 1), 2), ((0, 1, 2), 6)])
def test_turns_without_flips_exchange_axes_alone(exchangeable, count):
    batch, random = numbered(3), np.random.default_rng(1)
    seen = {augmented(batch, random, flips=False, exchangeable=exchangeable).noisy.numpy().tobytes() for _ in range(100)}
    assert len(seen) == count


def test_channels_and_examples_stay_in_their_places(ndim):
    shape = (3, 2, *[4] * ndim)
    values = torch.arange(float(np.prod(shape))).view(shape)
    found = augmented(Batch(values, values, values[:, :1]), np.random.default_rng(2), flips=True, exchangeable=range(ndim))
    for example, channel in np.ndindex(3, 2):
        assert set(found.noisy[example, channel].flatten().tolist()) == set(values[example, channel].flatten().tolist())


# What a training is cut off from, and taken up again.


def by_value(state):
    """A state as a file gives it back: tensors of its own, and plain data through JSON."""
    tensors, facts = state
    return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(facts))


def comparable(history):
    """Rows of the history without what the clock says."""
    return [{key: value for key, value in asdict(row).items() if key not in ("time_s", "patches_per_s")} for row in history]


INTERRUPTED = {
    "none": {"steps": 21},
    "weight": {"steps": 5, "normalisation": "weight"},
    "batch": {"steps": 9, "normalisation": "batch"},
    "bfloat16": {"steps": 5, "precision": "bfloat16"},
    "early-stop": {"steps": 60, "patience": 1, "learning_rate": 0.05},
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_training_that_is_killed_at_any_step_ends_with_the_same_bits(name, tmp_path):
    config = TrainingConfig(**{"batch": 3, "learning_rate": 0.02, **INTERRUPTED[name]})
    choices = {"learn": examples(8, 0, slope=1.0), "held_out": examples(4, 1, slope=-1.0 if name == "early-stop" else 1.0)}
    states, training = [], begun(config, **choices)
    while True:
        states.append(by_value(training.state()))
        if training.finished:
            break
        training.advance()
    assert name != "early-stop" or training.step < config.steps
    expected, rows = training.result().state_dict(), comparable(training.history)
    for step, state in enumerate(states):
        path = tmp_path / "checkpoint.safetensors"
        write_checkpoint(path, "key", *state)
        for kept in (state, read_checkpoint(path, "key")):
            again = begun(config, **choices)
            again.restore(*by_value(kept))
            assert again.step == step
            assert same_bits(finished(again).result().state_dict(), expected), f"killed at step {step}"
            assert comparable(again.history) == rows


def test_a_training_may_be_killed_again_and_again():
    config = TrainingConfig(batch=3, steps=12)
    expected = finished(begun(config))
    training = begun(config)
    while not training.finished:
        training.advance()
        state = by_value(training.state())
        training = begun(config)
        training.restore(*state)
    assert same_bits(training.result().state_dict(), expected.result().state_dict())
    assert comparable(training.history) == comparable(expected.history)


def test_the_time_goes_on_from_where_it_was_and_lost_time_does_not_count():
    config = TrainingConfig(batch=3, steps=6)
    training = begun(config)
    training.advance()
    tensors, facts = training.state()
    assert 0 < facts["time_s"] < 60
    again = begun(config)
    again.restore(tensors, {**facts, "time_s": 1000.0})
    row = None
    while row is None:
        row = again.advance()
    assert 1000 < row.time_s < 1060
    assert row.patches_per_s == pytest.approx(row.step * 3 / row.time_s, abs=0.01)


@pytest.mark.parametrize("normalisation", ["none", "weight", "batch"])
def test_every_normalisation_learns_and_is_folded_at_the_end(normalisation):
    config = TrainingConfig(steps=100, batch=8, learning_rate=0.02, patience=100, normalisation=normalisation)
    network, history, held_out = trained(config, learn=examples(32, 0, slope=0.5), held_out=examples(8, 1, slope=0.5))
    assert min(row.validation for row in history) < 0.7 * history[0].validation
    assert not list(network.buffers()) and not network.training
    best = min(row.validation for row in history)
    assert validate(network, held_out, config) == pytest.approx(best, rel=0.1 if normalisation == "batch" else 1e-4)


def test_batch_statistics_of_the_result_are_those_of_the_training_patches():
    # one layer sees the input itself, whose mean is far from what the running mean has reached after a few steps
    config = TrainingConfig(steps=4, batch=4, learning_rate=1e-6, normalisation="batch")
    learn = replace(examples(16, 0), noisy=3 + 2 * examples(16, 0).noisy)
    training = finished(begun(config, learn=learn))
    training.result()
    layer = training.network.trunk[0]
    with torch.no_grad():
        raw = functional.conv2d(functional.pad(learn.noisy, [1] * 4, mode="replicate"), layer.weight)
    mean, variance = raw.mean((0, 2, 3)), raw.var((0, 2, 3))
    spread = float(variance.sqrt().mean())
    torch.testing.assert_close(layer.mean, mean, rtol=0, atol=0.1 * spread)
    torch.testing.assert_close(layer.variance, variance, rtol=0.1, atol=0)


def test_on_a_cpu_gradients_are_those_of_float32_whatever_is_asked_for(ndim):
    batch, gradients = examples(3, 0, ndim, edge=8), []
    exact, rough = small_network(ndim), small_network(ndim, precision="bfloat16")
    exact.initialise(batch.noisy, torch.Generator().manual_seed(0))
    rough.load_state_dict(exact.state_dict())
    for network in (exact, rough):
        pinball(network(batch.noisy)[0], batch.clean, batch.weight, LEVELS).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    with torch.no_grad():
        assert not torch.equal(exact(batch.noisy)[0], rough(batch.noisy)[0]), "without gradients the precision is as asked"


def denoising(count, seed):
    """Smooth fields under noise."""
    random = np.random.default_rng(seed)
    clean = gaussian_filter(random.normal(size=(count, 1, 32, 32)), (0, 0, 3, 3)) * 10
    noisy = clean + 0.5 * random.normal(size=clean.shape)
    tensors = [torch.from_numpy(values.astype(np.float32)) for values in (noisy, clean, np.ones_like(clean))]
    index = torch.arange(count)
    return Patches(*tensors, torch.stack([index, index], dim=1), torch.device("cpu"))


@pytest.mark.slow
def test_in_bfloat16_medians_stay_within_a_hundredth_of_the_width_of_the_intervals():
    network_config = NetworkConfig(depth=10)
    network = Network(architectures.draw(network_config, architectures.generator(0, 0), ndim=2, channels=1))
    config = TrainingConfig(steps=200, batch=8, learning_rate=0.01)
    exact = finished(Training(network, denoising(64, 0), denoising(16, 1), config, seed=[0])).result()
    rough = Network(exact.architecture, precision="bfloat16").eval()
    rough.load_state_dict(exact.state_dict())
    noisy = denoising(16, 2).noisy
    with torch.no_grad():
        (lower, median, upper), (_, other, _) = exact(noisy)[0].unbind(1), rough(noisy)[0].unbind(1)
    difference = float((other - median).square().mean().sqrt())
    assert difference < 0.01 * float((upper - lower).mean())


@pytest.mark.parametrize("count", [7, 300])
def test_the_quality_is_what_numpy_says_about_voxels_of_full_weight(count):
    held_out, network = examples(count, 8, edge=6), small_network()
    network.initialise(held_out.noisy, torch.Generator().manual_seed(0))
    config = TrainingConfig(batch=5)
    chosen = np.arange(0, count, -(-count // 128))
    batch = held_out.batch(chosen)
    with torch.no_grad():
        quantiles, _ = network.eval()(batch.noisy)
    full = (batch.weight == 1).numpy()
    median, clean = quantiles[:, 1].numpy()[full].astype(float), batch.clean.numpy()[full].astype(float)
    found = assess(network, held_out, config)
    assert found.correlation == pytest.approx(np.corrcoef(median, clean)[0, 1], rel=1e-5)
    assert found.mean_squared_error == pytest.approx(np.mean((median - clean) ** 2), rel=1e-5)
    assert found.loss == pytest.approx(float(pinball(quantiles, batch.clean, batch.weight, LEVELS)), rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_assessing_leaves_the_network_as_it_was(training):
    network, held_out = small_network(normalisation="batch"), examples(5, 8)
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assess(network, held_out, TrainingConfig())
    assert network.training == training
    assert same_bits(before, network.state_dict())


class Recorded:
    """Examples that note which are asked for, and which are announced."""

    def __init__(self, patches):
        self.patches, self.asked, self.announced = patches, [], []

    def __len__(self):
        return len(self.patches)

    def prepare(self, chosen):
        self.announced.append(chosen.tolist())

    def batch(self, chosen):
        self.asked.append(chosen.tolist())
        return self.patches.batch(chosen)


def test_the_examples_of_the_next_step_are_announced_and_drawn_evenly():
    learn = Recorded(examples(8, 0, edge=4))
    finished(begun(TrainingConfig(steps=60, batch=4, patience=100), learn=learn))
    drawn = learn.asked[1:]  # the first are for the initial weights
    assert drawn[1:] == learn.announced[:-1]
    counts = np.bincount(np.concatenate(drawn), minlength=8)
    assert chisquare(counts).pvalue > 1e-4


def test_a_training_that_runs_away_late_keeps_its_best_state(monkeypatch):
    training = begun(TrainingConfig(batch=3, steps=20))
    while len(training.history) < 5:
        training.advance()
    best = training.best_loss
    with torch.no_grad():
        next(training.network.parameters()).fill_(float("nan"))
    finished(training)
    assert training.step == 6
    assert math.isnan(training.history[-1].validation)
    assert validate(training.result(), training.held_out, training.config) == pytest.approx(best, rel=1e-5)


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
