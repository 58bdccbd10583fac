import copy
import gc
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.network import Network
from behindthenoise.core.unet import UNet

NORMALISATIONS = ["none", "weight", "batch"]
UNETS = [UNet(1, 1, 2), UNet(2, 2, 2), UNet(3, 1, 1)]


def drawn(config, seed=0, *, ndim=2, channels=1):
    return architectures.draw(config, architectures.generator(seed, 0), ndim=ndim, channels=channels)


def u_net(unet, *, ndim=2, channels=1):
    return Architecture(unet, ndim, channels, channels, latent=3, head=4)


def ready(network, size=12, seed=0):
    """Weights that any network may have at the start."""
    random = torch.Generator().manual_seed(seed)
    architecture = network.architecture
    network.initialise(torch.randn(2, architecture.in_channels, *[size] * architecture.ndim, generator=random), random)
    return network


def noise(architecture, size, seed=1, batch=2):
    shape = [size] * architecture.ndim if isinstance(size, int) else size
    return torch.randn(batch, architecture.in_channels, *shape, generator=torch.Generator().manual_seed(seed))


def expect_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


# The oracles: no convolution, padding, pooling or interpolation of torch, double precision, one edge or one tap at a time.


def look(features, offset):
    """Features of the voxel at an offset, or of the last voxel before the field ends."""
    for axis, step in enumerate(offset, start=2):
        places = (torch.arange(features.shape[axis]) + step).clamp(0, features.shape[axis] - 1)
        features = features.index_select(axis, places)
    return features


def slow_convolution(features, weight, bias, dilation=1):
    reach, ndim = weight.shape[-1] // 2, features.ndim - 2
    total = bias.view(1, -1, *[1] * ndim)
    for tap in product(range(weight.shape[-1]), repeat=ndim):
        seen = look(features, [dilation * (place - reach) for place in tap])
        total = total + torch.einsum("oc,bc...->bo...", weight[(slice(None), slice(None), *tap)], seen)
    return total


def slow_graph(graph, weights, noisy):
    """Edge by edge, straight from the graph: what enters the latent."""
    keys = sorted({(edge.source, edge.dilation) for edge in graph.edges})
    arriving = {0: [noisy]}
    for node in range(graph.depth + 1):
        for place, (source, dilation) in enumerate(keys):
            start = 0
            for edge in sorted((edge.target, edge) for edge in graph.edges if (edge.source, edge.dilation) == (source, dilation)):
                part = slice(start, start + edge[1].channels)
                start = part.stop
                if source == node:
                    weight, bias = weights[place]
                    features = torch.cat(arriving[node], dim=1)
                    made = torch.relu(slow_convolution(features, weight[part], bias[part], dilation))
                    arriving.setdefault(edge[0], []).append(made)
    return torch.cat([part for node in graph.outputs for part in arriving[node]], dim=1)


def slow_u_net(unet, weights, noisy):  # one loop for each thing that a level does
    """Level by level: what enters the latent."""
    stride, space, sizes, features = 2**unet.levels, range(2, noisy.ndim), noisy.shape[2:], noisy
    for axis in space:
        places = torch.arange(-(-noisy.shape[axis] // stride) * stride).clamp(max=noisy.shape[axis] - 1)
        features = features.index_select(axis, places)
    left, skipped = list(weights), []

    def convolved(features):
        for _ in range(unet.repeats):
            features = torch.relu(slow_convolution(features, *left.pop(0)))
        return features

    for _ in range(unet.levels):
        features = convolved(features)
        skipped.append(features)
        for axis in space:
            features = features.unflatten(axis, (-1, 2)).amax(axis + 1)
    features = convolved(features)
    while skipped:
        for axis in space:
            features = features.repeat_interleave(2, dim=axis)
        features = convolved(torch.cat([features, skipped.pop()], dim=1))
    assert not left
    return features[(..., *(slice(size) for size in sizes))]


def softplus(values):
    return torch.logaddexp(values, torch.zeros_like(values))


def slow_network(network, noisy):
    """Quantiles and latent in double precision, as functions of the network's own parameters."""
    architecture, noisy = network.architecture, noisy.double()
    weights = [(layer.weight.double(), layer.bias.double()) for layer in network.trunk]
    slow = slow_u_net if isinstance(architecture.wiring, UNet) else slow_graph
    features = slow(architecture.wiring, weights, noisy)
    encode, mix, heads = ((layer.weight.double(), layer.bias.double()) for layer in (network.encode, network.mix, network.heads))
    latent = slow_convolution(features, *encode)
    mixed = torch.relu(slow_convolution(torch.cat([latent, noisy], dim=1), *mix))
    out = slow_convolution(torch.cat([mixed, noisy], dim=1), *heads)
    below, median, above = out.chunk(3, dim=1)
    quantiles = torch.stack([median - softplus(below), median, median + softplus(above)], dim=1)
    return quantiles, latent


def expect_equal_with_gradients(network, noisy):
    """Both forms agree in what they give, and in the gradients of a random sum of it by every parameter and by the input."""
    found, expected = [], []
    for function, results in ((network, found), (lambda values: slow_network(network, values), expected)):
        values = noisy.clone().requires_grad_()
        quantiles, latent = function(values)
        random = torch.Generator().manual_seed(2)
        total = sum((result * torch.randn(result.shape, generator=random)).sum() for result in (quantiles, latent))
        results += [quantiles, latent, *torch.autograd.grad(total, [values, *network.parameters()])]
    # a gradient far smaller than others is what is left of sums like them: eight last digits of theirs, 1e-6, are what it may lack
    left = max(float(gradient.abs().max()) for gradient in expected[2:]) / 10
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        scale = max(float(other.detach().abs().max()), 1e-3, left if index >= 2 else 0)
        torch.testing.assert_close(one.double() / scale, other.double() / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("input_output", [False, True], ids=["", "with-input"])
@pytest.mark.parametrize("width", [(3,), (1, 2, 4)], ids=["one-width", "widths"])
@pytest.mark.parametrize("dilation_by", ["node", "edge"])
def test_the_fused_network_equals_the_edge_by_edge_one_with_all_gradients(ndim, dilation_by, width, input_output):
    config = NetworkConfig(depth=7, width=width, radius_max=9, dilation_by=dilation_by, input_output=input_output, latent=4, head=6)
    architecture = drawn(config, 1, ndim=ndim, channels=2)
    network = ready(Network(architecture)).eval()
    expect_equal_with_gradients(network, noise(architecture, {2: (9, 12), 3: (5, 6, 7)}[ndim]))


@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from(["node", "edge"]), st.booleans())
@example(185, 5, "edge", False)  # one bias has a gradient of a 2700th of the largest
@example(3954, 11, "node", True)  # one bias has a gradient of a 148th of the largest, and lacks the last digit of that one
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_any_fused_network_equals_the_edge_by_edge_one(seed, depth, dilation_by, input_output):
    config = NetworkConfig(depth=depth, width=(1, 2), dilation_by=dilation_by, input_output=input_output, latent=2, head=3)
    architecture = drawn(config, seed)
    expect_equal_with_gradients(ready(Network(architecture), seed=seed).eval(), noise(architecture, (6, 7), batch=1))


@pytest.mark.parametrize("unet", UNETS, ids=str)
def test_the_u_net_equals_the_slow_one_with_all_gradients(ndim, unet):
    architecture = u_net(unet, ndim=ndim, channels=2)
    network = ready(Network(architecture), size=16).eval()
    expect_equal_with_gradients(network, noise(architecture, {2: (9, 14), 3: (5, 6, 9)}[ndim]))


def reached(architecture, at, size):
    """Voxels whose latent is changed by the voxel at `at`, relative to it: exact, as nothing cancels and nothing is closed."""
    network = Network(architecture)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # a path of single taps keeps its value, whatever the depth
            parameter.fill_(0 if "bias" in name else 1 / parameter.shape[1])
        noisy = torch.zeros(1, architecture.in_channels, *[size] * architecture.ndim)
        noisy[(0, 0, *at)] = 1
        latent = network(noisy)[1]
    assert torch.isfinite(latent).all()
    return torch.nonzero(latent[0, 0]) - torch.tensor(at)


@pytest.mark.parametrize("dilation_by", ["node", "edge"])
@pytest.mark.parametrize("member", range(3))
def test_the_receptive_radius_of_a_sparse_network_is_exact(ndim, member, dilation_by, config):
    architecture = drawn(config.model_copy(update={"dilation_by": dilation_by}), member, ndim=ndim)
    size = 2 * architecture.radius + 5
    found = reached(architecture, [size // 2] * ndim, size)
    assert found.abs().amax(0).tolist() == [architecture.radius] * ndim, "nothing beyond the radius, something at it"


@pytest.mark.parametrize("unet", [UNet(1, 1, 1), UNet(1, 3, 1), UNet(2, 1, 1), UNet(2, 2, 1), UNet(3, 1, 1)], ids=str)
def test_nothing_beyond_the_receptive_radius_of_a_u_net_changes_wherever_it_lies_in_a_stride(ndim, unet):
    if ndim == 3 and unet.radius > 20:
        pytest.skip("the axes of a U-Net are alike; seen in 2D")
    architecture = u_net(unet, ndim=ndim)
    size = -(-(2 * unet.radius + unet.stride) // unet.stride + 1) * unet.stride
    first = size // 2 // unet.stride * unet.stride
    found = [reached(architecture, [first + place] * ndim, size) for place in range(unet.stride)]
    reaches = [int(offsets.abs().max()) for offsets in found]
    assert unet.radius - 1 <= max(reaches) <= unet.radius, "no voxel of a stride reaches farther, one reaches nearly as far"


@given(st.integers(0, 2**31), st.sampled_from([2, 3]), st.floats(0.01, 1e4), st.sampled_from(["smsnet", "unet"]))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_the_heads_cannot_cross(seed, ndim, scale, kind):
    config = NetworkConfig(depth=4, radius_max=4 if kind == "smsnet" else 8, latent=3, head=4, kind=kind)
    architecture = drawn(config, seed, ndim=ndim, channels=2)
    network = ready(Network(architecture), seed=seed)
    lower, median, upper = network(scale * noise(architecture, 7, seed))[0].unbind(1)
    assert (lower <= median).all() and (median <= upper).all()


@pytest.mark.parametrize("architecture", [drawn(NetworkConfig(depth=8, radius_max=9), 2, channels=2), u_net(UNETS[1], channels=2)])
def test_a_flat_volume_equals_its_image(architecture):
    deep = ready(Network(Architecture(**{**vars(architecture), "ndim": 3})))
    flat = Network(architecture)
    # repeated padding shows a slice to every tap of the kernel along z, so the sum over z is what a slice meets
    flat.load_state_dict({name: value.sum(2) if value.ndim == 5 else value for name, value in deep.state_dict().items()})
    noisy = noise(architecture, (16, 19))
    with torch.no_grad():
        expect_close([volume.squeeze(-3) for volume in deep(noisy[:, :, None])], flat(noisy))


def test_neighbours_in_a_batch_change_nothing(network, ndim):
    noisy = torch.randn(3, 2, *[10] * ndim, generator=torch.Generator().manual_seed(4))
    together, _ = network(noisy)
    alone = torch.cat([network(one[None])[0] for one in noisy])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["none", "weight"])
@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_initial_outputs_have_mean_zero_and_variance_one(ndim, kind, normalisation, config):
    architecture = drawn(config.model_copy(update={"kind": kind, "radius_max": 13}), 5, ndim=ndim, channels=2)
    network = Network(architecture, normalisation=normalisation)
    noisy = 5 + 3 * noise(architecture, 24)
    network.initialise(noisy, torch.Generator().manual_seed(9))
    quantiles, latent = network(noisy)
    for values in (latent, quantiles[:, 1]):
        channels = values.detach().transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(channels.mean(axis=1), 0, atol=1e-4)
        np.testing.assert_allclose(channels.std(axis=1), 1, atol=1e-3)


def briefly_trained(architecture, normalisation, steps=6):
    """A network a few large steps away from its start, with statistics of its own."""
    network = ready(Network(architecture, normalisation=normalisation).train())
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(steps):
        noisy = 1 + 2 * noise(architecture, 12, seed=step)
        quantiles, _ = network(noisy)
        optimiser.zero_grad()
        (quantiles - noisy[:, None]).abs().mean().backward()
        optimiser.step()
    return network


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_the_folded_network_does_the_same_as_the_trained_one(ndim, kind, normalisation, config):
    architecture = drawn(config.model_copy(update={"kind": kind, "radius_max": 13}), 4, ndim=ndim, channels=2)
    network = briefly_trained(architecture, normalisation).eval()
    folded = network.folded()
    noisy = 1 + 2 * noise(architecture, 12, seed=50)
    with torch.no_grad():
        expect_close(folded(noisy), network(noisy))
    assert sum(parameter.numel() for parameter in folded.parameters()) == architecture.parameters
    assert not list(folded.buffers()), "nothing is left that only training needs"


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_folding_shares_no_memory_with_the_trained_network(normalisation, config):
    architecture = drawn(config)
    network = briefly_trained(architecture, normalisation).eval()
    folded, noisy = network.folded(), noise(architecture, 12)
    with torch.no_grad():
        before = folded(noisy)[0]
        for parameter in network.parameters():
            parameter.add_(1)
        torch.testing.assert_close(folded(noisy)[0], before, rtol=0, atol=0)


def test_evaluation_equals_training_with_frozen_batch_statistics(ndim, config):
    architecture = drawn(config, 4, ndim=ndim, channels=2)
    network = briefly_trained(architecture, "batch").eval()
    layers = list(network.trunk)
    seen = []
    hooks = [layer.register_forward_hook(lambda *told: seen.append((told[1][0], told[2]))) for layer in layers]
    with torch.no_grad():
        network(noise(architecture, 12, seed=60))
    for hook in hooks:
        hook.remove()
    convolve = {2: functional.conv2d, 3: functional.conv3d}[ndim]
    for layer, (features, output) in zip(layers, seen, strict=True):
        padded = functional.pad(features, [layer.dilation] * (2 * ndim), mode="replicate")
        raw = convolve(padded, layer.weight, dilation=layer.dilation)
        frozen = functional.batch_norm(raw, layer.mean, layer.variance, layer.gain, layer.bias, training=False, eps=1e-5)
        torch.testing.assert_close(output, frozen, rtol=1e-5, atol=1e-5 * float(frozen.detach().abs().max()))


def test_batch_statistics_move_in_training_alone(config):
    architecture = drawn(config)
    network = briefly_trained(architecture, "batch")
    noisy = 3 + noise(architecture, 12)
    before = copy.deepcopy([dict(layer.named_buffers()) for layer in network.trunk])
    with torch.no_grad():
        network.eval()(noisy)
        same = [dict(layer.named_buffers()) for layer in network.trunk]
        assert all(torch.equal(old[name], new[name]) for old, new in zip(before, same, strict=True) for name in old)
        network.train()(noisy)
        moved = [dict(layer.named_buffers()) for layer in network.trunk]
    assert not any(torch.equal(old[name], new[name]) for old, new in zip(before, moved, strict=True) for name in old)


def tensors_reachable(thing):
    """Every tensor that a thing keeps alive."""
    found, seen, waiting = [], set(), [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ in ("module", "function", "builtin_function_or_method"):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one)
        waiting += gc.get_referents(one)
    return found


@pytest.mark.parametrize("architecture", [drawn(NetworkConfig(depth=8, radius_max=9)), u_net(UNETS[1])], ids=["smsnet", "unet"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_no_activation_outlives_a_forward(architecture, normalisation):
    network = ready(Network(architecture, normalisation=normalisation)).eval()
    noisy = noise(architecture, 40)
    before = {id(one) for one in gc.get_objects() if issubclass(type(one), torch.Tensor)}
    with torch.no_grad():
        network(noisy)
    largest = max(parameter.numel() for parameter in network.parameters())
    reachable = tensors_reachable(network)
    assert len(reachable) >= len(list(network.parameters())), "the search finds what is there"
    assert max(tensor.numel() for tensor in reachable) <= largest < noisy.numel()
    gc.collect()
    assert not [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and id(one) not in before]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_network_in_training_can_be_copied(normalisation, config):
    architecture = drawn(config)
    network = briefly_trained(architecture, normalisation)
    twin, noisy = copy.deepcopy(network).eval(), noise(architecture, 12)
    with torch.no_grad():
        torch.testing.assert_close(twin(noisy), network.eval()(noisy), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_the_precision_reaches_the_trunk_alone(kind, config):
    architecture = drawn(config.model_copy(update={"kind": kind, "radius_max": 13}))
    exact = ready(Network(architecture)).eval()
    rough = Network(architecture, precision="bfloat16").eval()
    rough.load_state_dict(exact.state_dict())
    kinds = []
    for layer in [*rough.trunk, rough.encode, rough.mix, rough.heads]:
        layer.register_forward_hook(lambda *told: kinds.append(told[2].dtype))
    noisy = noise(architecture, 20)
    with torch.no_grad():
        found, expected = rough(noisy), exact(noisy)
    assert kinds == [torch.bfloat16] * len(rough.trunk) + [torch.float32] * 3
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert 0 < float((one - other).square().mean().sqrt()) < 0.05 * float(other.std())
    assert rough.folded().precision == torch.bfloat16
