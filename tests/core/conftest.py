import numpy as np
import pytest
import torch

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core.network import Network


@pytest.fixture(autouse=True)
def one_thread():
    """Networks as small as these lose more time by waiting for a second thread than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    made = Network(architectures.draw(config, architectures.generator(11, 0), ndim=ndim, channels=2))
    made.initialise(torch.randn(2, 2, *[20] * ndim, generator=random), random)
    return made.eval()


@pytest.fixture
def random():
    return np.random.default_rng(5)
