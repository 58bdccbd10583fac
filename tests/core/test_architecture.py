import json
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chisquare
from torch.utils.flop_counter import FlopCounterMode

from behindthenoise.config import NetworkConfig
from behindthenoise.core import unet
from behindthenoise.core.architecture import Architecture, draw, generator
from behindthenoise.core.network import Network
from behindthenoise.core.unet import UNet
from behindthenoise.errors import GraphError

quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


# configuration, seed, dimensions and channels of any small architecture of both kinds
cases = st.tuples(
    st.builds(
        NetworkConfig,
        kind=st.sampled_from(["smsnet", "unet"]),
        depth=st.integers(1, 12),
        width=st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
        dilation_by=st.sampled_from(["node", "edge"]),
        radius_max=st.integers(13, 30),
        input_output=st.booleans(),
        latent=st.integers(1, 5),
        head=st.integers(1, 6),
    ),
    st.integers(0, 2**31),
    st.sampled_from([2, 3]),
    st.integers(1, 3),
)


def made(case):
    config, seed, ndim, channels = case
    return draw(config, generator(seed, 0), ndim=ndim, channels=channels)


@given(cases)
@quick
def test_parameters_are_those_of_the_network(case):
    architecture = made(case)
    assert architecture.parameters == sum(parameter.numel() for parameter in Network(architecture).parameters())


@given(cases)
@quick
def test_operations_are_the_multiply_adds_that_torch_counts(case):
    architecture = made(case)
    # a multiple of every stride, so that nothing is padded
    noisy = torch.zeros(1, architecture.in_channels, *[16] * architecture.ndim)
    # torch counts its own convolutions alone
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        Network(architecture)(noisy)
    assert counter.get_total_flops() == 2 * architecture.operations * noisy[0, 0].numel()


@given(cases)
@quick
def test_plain_data_give_the_architecture_back(case):
    architecture = made(case)
    data = json.loads(json.dumps(architecture.as_data()))
    assert Architecture.from_data(data) == architecture


def test_plain_data_can_be_read_by_a_person():
    data = draw(NetworkConfig(depth=2), generator(0, 0), ndim=2, channels=1).as_data()
    header = ["version", "kind", "ndim", "in_channels", "out_channels", "latent", "head", "radius", "parameters", "wiring"]
    assert list(data) == header
    assert list(data["wiring"]) == ["depth", "edges", "outputs"]
    assert list(data["wiring"]["edges"][0]) == ["source", "dilation", "target", "channels"]
    deep = draw(NetworkConfig(kind="unet", radius_max=40), generator(0, 0), ndim=3, channels=2).as_data()
    assert list(deep) == header
    assert list(deep["wiring"]) == ["levels", "repeats", "width"]
    numbers = TypeAdapter(dict[str, int | str | dict[str, int]])
    assert numbers.validate_python(deep) == deep


@pytest.mark.parametrize("kind", ["smsnet", "unet"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda data: data.update(version=1),
            "graph has version 1 and kind .*; this program reads version 2 and kinds smsnet, unet",
        ),
        (lambda data: data.pop("version"), "graph has version None"),
        (lambda data: data.update(kind="transformer"), "kind 'transformer'; this program reads"),
        (lambda data: data.pop("latent"), r"graph is incomplete \('latent'\); draw it again"),
        (lambda data: data.update(head="wide"), r"graph is incomplete \(.*'wide'\); draw it again"),
        (lambda data: data.update(wiring={}), "graph is incomplete"),
        (lambda data: data.update(wiring=None), "graph is incomplete"),
        (lambda data: data.clear(), "graph has version None"),
    ],
    ids=["old", "no version", "kind", "no latent", "words", "no wiring", "null", "nothing"],
)
def test_foreign_data_are_refused(kind, edit, message):
    data = draw(NetworkConfig(kind=kind, radius_max=30), generator(1, 1), ndim=2, channels=1).as_data()
    edit(data)
    with pytest.raises(GraphError, match=message):
        Architecture.from_data(data)


@pytest.mark.parametrize("edge", [{"source": 0, "target": 1}, {"source": "0", "dilation": 1, "target": 1, "channels": 1}, 3, []])
def test_edges_of_another_form_are_refused(edge):
    data = json.loads(json.dumps(draw(NetworkConfig(), generator(1, 1), ndim=2, channels=1).as_data()))
    data["wiring"]["edges"][0] = edge
    with pytest.raises(GraphError, match="graph is incomplete"):
        Architecture.from_data(data)


@given(cases)
@quick
def test_the_halo_is_the_radius_up_to_a_multiple_of_the_stride(case):
    architecture = made(case)
    stride = architecture.wiring.stride
    assert architecture.halo % stride == 0
    assert 0 <= architecture.halo - architecture.radius < stride


@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_a_member_depends_on_its_seed_and_number_alone(kind):
    config = NetworkConfig(kind=kind, radius_max=40)
    members = [draw(config, generator(seed, member), ndim=2, channels=1) for seed in (1, 2) for member in range(4)]
    assert draw(config, generator(2, 3), ndim=2, channels=1) == members[-1]
    assert len(set(members)) > (4 if kind == "unet" else 7), "there are not many U-Nets"


@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_a_bound_on_the_parameters_is_kept(kind):
    config = NetworkConfig(kind=kind, radius_max=30, width=(2, 4))
    free = [draw(config, generator(0, member), ndim=3, channels=1).parameters for member in range(12)]
    bound = config.model_copy(update={"parameters_max": sorted(free)[4]})
    found = [draw(bound, generator(0, member), ndim=3, channels=1).parameters for member in range(12)]
    assert max(found) <= sorted(free)[4] < max(free)


def test_a_bound_on_the_parameters_changes_no_network_that_keeps_it():
    config = NetworkConfig()
    free = [draw(config, generator(1, member), ndim=2, channels=1) for member in range(6)]
    most = sorted(architecture.parameters for architecture in free)[3]
    bound = config.model_copy(update={"parameters_max": most})
    found = [draw(bound, generator(1, member), ndim=2, channels=1) for member in range(6)]
    assert [one == other for one, other in zip(free, found, strict=True)] == [one.parameters <= most for one in free]


@pytest.mark.parametrize("kind", ["smsnet", "unet"])
def test_a_bound_on_the_parameters_that_is_out_of_reach_is_refused_soon_with_what_there_is(kind):
    config = NetworkConfig(kind=kind, radius_max=30, parameters_max=50)
    started = time.monotonic()
    with pytest.raises(
        GraphError,
        match=r"none of 200 networks drawn has at most network\.parameters_max 50 parameters, they have \d{3,} to \d{4,}; allow",
    ) as refused:
        draw(config, generator(1, 0), ndim=2, channels=1)
    assert time.monotonic() - started < 10
    least, most = (int(word) for word in str(refused.value).split("they have ")[1].split(";")[0].split(" to "))
    free = config.model_copy(update={"parameters_max": None})
    random = generator(1, 0)
    seen = [draw(free, random, ndim=2, channels=1).parameters for _ in range(200)]
    assert (least, most) == (min(seen), max(seen))


@given(st.integers(1, 80), st.lists(st.integers(1, 6), min_size=1, max_size=2), st.integers(0, 2**31))
@settings(deadline=None)
def test_every_u_net_that_is_drawn_keeps_the_bound_on_the_radius(radius_max, width, seed):
    least = UNet(1, 1, 1).radius
    if radius_max < least:
        with pytest.raises(ValidationError, match=rf"{radius_max} is smaller than that of any U-Net; allow at least {least}"):
            NetworkConfig(kind="unet", radius_max=radius_max, width=tuple(width))
    else:
        drawn = unet.draw(NetworkConfig(kind="unet", radius_max=radius_max, width=tuple(width)), generator(seed, 0))
        assert drawn.radius <= radius_max
        assert any(drawn.width % channels == 0 for channels in width)


def test_u_nets_within_the_bound_are_drawn_evenly():
    config = NetworkConfig(kind="unet", radius_max=20, width=(2,))
    random = generator(0, 0)
    drawn = [unet.draw(config, random) for _ in range(2000)]
    every = {UNet(levels, repeats, 2 * factor) for levels in range(1, 5) for repeats in range(1, 4) for factor in (1, 2, 4, 8)}
    allowed = [one for one in every if one.radius <= 20]
    assert len(allowed) > 8
    assert chisquare([drawn.count(one) for one in allowed]).pvalue > 1e-4
