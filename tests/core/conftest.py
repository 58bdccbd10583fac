import numpy as np
import pytest
import torch

from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph as graphs
from behindthenoise.core.network import Network

TORCH_THREADS = 2


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def ndim(request):
    return request.param


@pytest.fixture
def config():
    return NetworkConfig(depth=8, width=3, radius_max=9, latent=4, head=6)


@pytest.fixture
def network(ndim, config):
    """A network with random weights, scaled on noise."""
    random = torch.Generator().manual_seed(3)
    made = Network(
        graphs.draw(config, graphs.generator(11, 0)),
        in_channels=2,
        out_channels=2,
        ndim=ndim,
        latent=config.latent,
        head=config.head,
    )
    made.initialise(torch.randn(2, 2, *[20] * ndim, generator=random), random)
    return made.eval()


@pytest.fixture
def random():
    return np.random.default_rng(5)
