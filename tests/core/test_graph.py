import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core.graph import Graph, draw, generator
from behindthenoise.errors import GraphError

configs = st.builds(
    NetworkConfig,
    depth=st.integers(1, 40),
    radius_max=st.integers(1, 30),
    dilations=st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple),
    degree_max=st.integers(1, 8),
    skip_decay=st.floats(0, 60),
    degree_decay=st.floats(0, 4),
    input_share=st.floats(0, 1),
    output_share=st.floats(0, 1),
)


def longest_path(graph):
    """Slow and obvious: every path from the input to an output, by its dilations."""

    def reach(node):
        ends = [0] if node in graph.outputs else []
        return ends + [graph.dilations[node] + length for target in graph.targets[node] for length in reach(target)]

    return max(reach(0))


@given(configs, st.integers(0, 2**32), st.integers(0, 50))
@settings(deadline=None, max_examples=200)
def test_every_drawn_graph_keeps_its_bounds_and_wastes_no_node(config, seed, member):
    graph = draw(config, generator(seed, member))
    assert graph.depth == config.depth
    assert graph.radius <= config.radius_max
    fed = set(itertools.chain.from_iterable(graph.targets))
    assert fed == set(range(1, config.depth + 1)), "every hidden node sees the input or another node"
    idle = [node for node in range(1, config.depth + 1) if not graph.targets[node] and node not in graph.outputs]
    assert not idle, "every hidden node reaches the latent"
    for node, targets in enumerate(graph.targets):
        assert all(target > node for target in targets) and len(set(targets)) == len(targets)
        assert node == 0 or len(targets) <= config.degree_max
        assert not targets or graph.dilations[node] in ((1,) if node == 0 else config.dilations)


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_the_radius_is_the_longest_path_of_dilations(seed):
    graph = draw(NetworkConfig(depth=9, radius_max=14), generator(seed, 0))
    assert graph.radius == longest_path(graph)


def test_a_member_depends_on_its_seed_and_number_alone():
    config = NetworkConfig()
    assert draw(config, generator(1, 7)) == draw(config, generator(1, 7))
    drawn = {draw(config, generator(seed, member)) for seed in (1, 2) for member in range(4)}
    assert len(drawn) == 8


def test_skips_follow_their_law():
    config = NetworkConfig(depth=60, degree_max=1, skip_decay=0.4, radius_max=200)
    skips = np.concatenate(
        [
            [graph.targets[node][0] - node for node in range(1, 30)]
            for member in range(400)
            for graph in [draw(config, generator(3, member))]
        ]
    )
    expected = np.exp(-0.4 * np.arange(1, 30))
    expected /= expected.sum()
    counts = np.bincount(skips, minlength=31)[1:30]
    chi_square = ((counts - skips.size * expected) ** 2 / (skips.size * expected))[:10].sum()
    assert chi_square < 35, "11 600 draws, 10 classes"


def test_degrees_follow_their_law():
    config = NetworkConfig(depth=40, degree_max=4, degree_decay=1.5, skip_decay=0, radius_max=300)
    degrees = np.concatenate(
        [[len(draw_targets) for draw_targets in draw(config, generator(4, member)).targets[1:30]] for member in range(300)]
    )
    expected = np.arange(1, 5) ** -1.5
    expected /= expected.sum()
    counts = np.bincount(degrees, minlength=5)[1:5]
    assert ((counts - degrees.size * expected) ** 2 / (degrees.size * expected)).sum() < 20


def test_plain_data_give_the_graph_back():
    graph = draw(NetworkConfig(), generator(1, 1))
    assert Graph.from_data(json.loads(json.dumps(graph.as_data()))) == graph


@pytest.mark.parametrize(("key", "value", "message"), [("version", 0, "version 0"), ("targets", [[1], [1]], "not point forward")])
def test_foreign_data_are_refused(key, value, message):
    data = {**draw(NetworkConfig(), generator(1, 1)).as_data(), key: value}
    with pytest.raises(GraphError, match=message):
        Graph.from_data(data)
