import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph as graphs
from behindthenoise.core.network import Network


def slow_forward(network, noisy):
    """Edge by edge, straight from the graph: the oracle for the module's fused convolutions."""
    graph, convolve = network.graph, {2: functional.conv2d, 3: functional.conv3d}[network.ndim]
    arrived = {0: [noisy]}
    for node, targets in enumerate(graph.targets):
        features = torch.cat(arrived[node], dim=1)
        for place, target in enumerate(targets):
            part = slice(place * graph.width, (place + 1) * graph.width)
            module, dilation = network.hidden[str(node)], graph.dilations[node]
            padded = functional.pad(features, [dilation] * (2 * network.ndim), mode="replicate")
            result = functional.relu(convolve(padded, module.weight[part], module.bias[part], dilation=dilation))
            arrived.setdefault(target, []).append(result)
    latent, start = network.encode.bias.view(1, -1, *[1] * network.ndim), 0
    for node in graph.outputs:
        features = torch.cat(arrived[node], dim=1)
        weight = network.encode.weight[:, start : start + features.shape[1]]
        start += features.shape[1]
        latent = latent + convolve(features, weight)
    mixed = functional.relu(network.mix(torch.cat([latent, noisy], dim=1)))
    return network.heads(torch.cat([mixed, noisy], dim=1)), latent


def test_the_fused_network_equals_the_edge_by_edge_one(network, ndim):
    noisy = torch.randn(2, 2, *[12] * ndim, generator=torch.Generator().manual_seed(0))
    quantiles, latent = network(noisy)
    raw, expected = slow_forward(network, noisy)
    below, median, above = raw.unflatten(1, (3, 2)).unbind(1)
    torch.testing.assert_close(latent, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantiles[:, 1], median, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantiles[:, 1] - quantiles[:, 0], functional.softplus(below), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quantiles[:, 2] - quantiles[:, 1], functional.softplus(above), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("member", range(4))
def test_the_receptive_radius_is_exact(ndim, member, config):
    graph = graphs.draw(config, graphs.generator(0, member))
    network = Network(graph, in_channels=1, out_channels=1, ndim=ndim, latent=4, head=6)
    for parameter in network.parameters():  # positive weights: no ReLU closes and nothing cancels
        torch.nn.init.constant_(parameter, 0.05)
    size = 2 * graph.radius + 5
    noisy = torch.ones(1, 1, *[size] * ndim, requires_grad=True)
    centre = (0, 0, *[size // 2] * ndim)
    quantiles, latent = network(noisy)
    for output in (latent[centre], quantiles[:, 1][centre]):
        (gradient,) = torch.autograd.grad(output, noisy, retain_graph=True)
        reached = torch.nonzero(gradient[0, 0]) - size // 2
        assert int(reached.abs().max()) == graph.radius, "nothing beyond the radius, something at it"


@given(st.integers(0, 2**31), st.sampled_from([2, 3]), st.floats(0.01, 1e4))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_the_heads_cannot_cross(seed, ndim, scale):
    config = NetworkConfig(depth=4, radius_max=4, latent=3, head=4)
    network = Network(graphs.draw(config, graphs.generator(seed, 0)), in_channels=1, out_channels=2, ndim=ndim, latent=3, head=4)
    noisy = scale * torch.randn(1, 1, *[7] * ndim, generator=torch.Generator().manual_seed(seed))
    lower, median, upper = network(noisy)[0].unbind(1)
    assert (lower <= median).all() and (median <= upper).all()


def test_a_flat_volume_equals_its_image(config):
    graph = graphs.draw(config, graphs.generator(2, 0))
    flat, deep = (Network(graph, in_channels=2, out_channels=2, ndim=ndim, latent=4, head=6) for ndim in (2, 3))
    random = torch.Generator().manual_seed(1)
    deep.initialise(torch.randn(1, 2, 4, 16, 16, generator=random), random)
    # repeated padding shows a slice to every tap of the kernel along z, so the sum over z is what a slice meets
    flat.load_state_dict({name: value.sum(2) if value.ndim == 5 else value for name, value in deep.state_dict().items()})
    noisy = torch.randn(1, 2, 16, 18, generator=random)
    for image, volume in zip(flat(noisy), deep(noisy[:, :, None]), strict=True):
        torch.testing.assert_close(volume.squeeze(-3), image, rtol=1e-5, atol=1e-5)


def test_neighbours_in_a_batch_change_nothing(network, ndim):
    noisy = torch.randn(3, 2, *[10] * ndim, generator=torch.Generator().manual_seed(4))
    together, _ = network(noisy)
    alone = torch.cat([network(one[None])[0] for one in noisy])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_initial_outputs_have_mean_zero_and_variance_one(network, ndim):
    random = torch.Generator().manual_seed(9)
    noisy = 5 + 3 * torch.randn(2, 2, *[24] * ndim, generator=random)
    network.initialise(noisy, random)
    quantiles, latent = network(noisy)
    for values in (latent, quantiles[:, 1]):
        channels = values.detach().transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(channels.mean(axis=1), 0, atol=1e-4)
        np.testing.assert_allclose(channels.std(axis=1), 1, atol=1e-3)
