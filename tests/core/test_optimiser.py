import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from behindthenoise.core.optimiser import Optimiser, orthogonalised


def parameters(ndim, seed=0, layout=torch.contiguous_format):
    """Weights of several shapes, one of them with more rows than columns, and their biases."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(12, 1), (4, 12), (3, 16)]
    weights = [torch.randn(*shape, *[3] * ndim, generator=random) for shape in shapes[:2]]
    weights.append(torch.randn(*shapes[2], *[1] * ndim, generator=random))
    biases = [torch.randn(shape[0], generator=random) for shape in shapes]
    return [nn.Parameter(value.contiguous(memory_format=layout) if value.ndim == 4 else value) for value in [*weights, *biases]]


def move(optimiser, owned, steps, seed=1, rate=0.02):
    """Steps along gradients that depend on the seed and the step alone."""
    for step in steps:
        random = torch.Generator().manual_seed(1000 * seed + step)
        for parameter in owned:
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimiser.step(rate)


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 30), st.floats(-5, 8))
@settings(deadline=None, max_examples=50)
def test_singular_values_become_nearly_one_and_their_vectors_stay(seed, rows, columns, scale):
    random = np.random.default_rng(seed)
    rank = min(rows, columns)
    left, right = (np.linalg.qr(random.normal(size=(size, rank)))[0] for size in (rows, columns))
    matrix = left * random.uniform(0.2, 1, rank) * 10**scale @ right.T
    found = orthogonalised(torch.tensor(matrix, dtype=torch.float32)[None])[0].double().numpy()
    core = left.T @ found @ right
    assert np.allclose(left @ core @ right.T, found, atol=1e-3)
    assert 0.6 < np.linalg.svd(core, compute_uv=False).min() <= np.linalg.svd(core, compute_uv=False).max() < 1.3
    assert np.allclose(core, np.diag(np.diag(core)), atol=1e-2)


def test_what_has_no_gradient_does_not_move():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_padding_by_zeros_changes_nothing():
    matrix = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(2))
    padded = orthogonalised(nn.functional.pad(matrix, (0, 5, 0, 7)))
    torch.testing.assert_close(padded[:, :4, :9], orthogonalised(matrix), rtol=0, atol=1e-6)
    assert not padded[:, 4:].any()
    assert not padded[:, :, 9:].any()


def test_weights_move_as_with_muon_of_torch_which_takes_matrices_one_by_one(ndim):
    ours = parameters(ndim)
    theirs = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in ours if weight.ndim > 1]
    muon = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    optimiser = Optimiser(ours, weight_decay=0.1)
    before = [weight.detach().clone() for weight in theirs]
    for step in range(3):
        move(optimiser, ours, [step])
        for matrix, weight in zip(theirs, ours, strict=False):
            matrix.grad = weight.grad.flatten(1)
        muon.step()
    for start, matrix, weight in zip(before, theirs, ours, strict=False):
        moved = (weight.detach().flatten(1) - start).norm()
        assert (weight.detach().flatten(1) - matrix).norm() < 0.03 * moved  # torch's iteration runs in bfloat16


def test_biases_move_as_with_adamw_of_torch(ndim):
    ours = parameters(ndim)
    theirs = [nn.Parameter(bias.detach().clone()) for bias in ours if bias.ndim == 1]
    adam = torch.optim.AdamW(theirs, lr=0.02, weight_decay=0.1)
    optimiser = Optimiser(ours, weight_decay=0.1)
    for step in range(3):
        move(optimiser, ours, [step])
        for vector, bias in zip(theirs, ours[-len(theirs) :], strict=True):
            vector.grad = bias.grad.clone()
        adam.step()
    torch.testing.assert_close([*map(torch.Tensor.detach, ours[-len(theirs) :])], [*map(torch.Tensor.detach, theirs)])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_do_not_depend_on_how_weights_lie_in_memory(layout):
    plain, other = parameters(2), parameters(2, layout=layout)
    for owned in (plain, other):
        move(Optimiser(owned, weight_decay=1e-4), owned, range(3))
    assert all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))


def test_an_optimiser_that_is_taken_up_again_goes_on_with_the_same_bits():
    whole, again = parameters(3), parameters(3)
    move(Optimiser(whole, weight_decay=1e-4), whole, range(6))
    first = Optimiser(again, weight_decay=1e-4)
    move(first, again, range(3))
    kept = {name: value.clone() for name, value in first.state().items()}
    second = Optimiser(again, weight_decay=1e-4)
    second.restore(kept)
    move(second, again, range(3, 6))
    assert all(torch.equal(one, two) for one, two in zip(whole, again, strict=True))


def test_what_has_no_gradient_stays_where_it_is():
    owned = parameters(2)
    before = [parameter.detach().clone() for parameter in owned]
    optimiser = Optimiser(owned, weight_decay=0.0)
    optimiser.step(0.1)
    assert all(torch.equal(one, two) for one, two in zip(owned, before, strict=True))
    owned[0].grad = torch.ones_like(owned[0])
    optimiser.step(0.1)
    assert [not torch.equal(one, two) for one, two in zip(owned, before, strict=True)] == [True, *[False] * 5]


def test_padding_costs_at_most_four_times_what_the_weights_hold():
    sizes = [(8, 1), (8, 8), (64, 96), (32, 192), (24, 8), (1, 8), (200, 3)]
    weights = [nn.Parameter(torch.zeros(*size, 3, 3)) for size in sizes]
    optimiser = Optimiser([*weights, nn.Parameter(torch.zeros(3))], weight_decay=0.0)
    held = sum(value.numel() for name, value in optimiser.state().items() if name.startswith("momentum"))
    assert held < 4 * sum(weight.numel() for weight in weights)
