from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from behindthenoise.config import NetworkConfig
from behindthenoise.core.architecture import generator
from behindthenoise.core.graph import Edge, Graph, draw
from behindthenoise.errors import GraphError

UNLIKELY = 1e-4  # p-values below this fail; seeds are fixed, so a test that passes goes on to pass
WIDE = 10_000  # a bound on the radius that binds nothing


@st.composite
def configs(draw):
    dilations = tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=4)))
    degree_min = draw(st.integers(1, 4))
    return NetworkConfig(
        depth=draw(st.integers(1, 40)),
        width=tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))),
        radius_max=1 + min(dilations) + draw(st.integers(0, 30)),
        dilations=dilations,
        dilation_by=draw(st.sampled_from(["node", "edge"])),
        degree_min=degree_min,
        degree_max=degree_min + draw(st.integers(0, 5)),
        skip_decay=draw(st.floats(0, 60)),
        degree_decay=draw(st.floats(0, 4)),
        input_share=draw(st.floats(0, 1)),
        output_share=draw(st.floats(0, 1)),
        input_output=draw(st.booleans()),
    )


def many(config, count, seed=0):
    return [draw(config, generator(seed, member)) for member in range(count)]


def leaving(graph, node):
    """Edges of one node, in the order in which they are drawn."""
    return sorted((edge for edge in graph.edges if edge.source == node), key=lambda edge: edge.target)


def longest_path(graph):
    """Slow and obvious: every path from the input to an output, by its dilations."""

    def reach(node):
        ends = [0] if node in graph.outputs else []
        return ends + [edge.dilation + length for edge in leaving(graph, node) for length in reach(edge.target)]

    return max(reach(0))


def fields_when_drawn(graph):
    """Radius that each hidden node may have: every node may yet see the input, through a dilation of 1."""
    found = {}
    for node in range(1, graph.depth + 1):
        arriving = [found[edge.source] + edge.dilation for edge in graph.edges if edge.target == node and edge.source > 0]
        found[node] = max([1, *arriving])
    return found


def likely(counts, expected):
    """Whether counts look like drawn with these probabilities; classes too rare for the chi-square law are joined."""
    total = sum(counts.values())
    assert set(counts) <= set(expected), "nothing was drawn that cannot be"
    rare = [key for key, share in expected.items() if share * total < 5]
    common = [key for key in expected if key not in rare]
    observed = [counts.get(key, 0) for key in common] + [sum(counts.get(key, 0) for key in rare)] * bool(rare)
    projected = [expected[key] * total for key in common] + [sum(expected[key] for key in rare) * total] * bool(rare)
    return len(observed) == 1 or chisquare(observed, projected).pvalue > UNLIKELY


def law_of_targets(config):
    """Probability of each set of nodes that node 1 may feed, summed over all orders in which they can be drawn."""
    skips = range(1, config.depth)
    weight = {skip: np.exp(-config.skip_decay * skip) for skip in skips}
    degrees = [degree for degree in range(config.degree_min, config.degree_max + 1) if degree < config.depth]
    norm = sum(degree**-config.degree_decay for degree in degrees)
    law = {}
    for degree in degrees:
        for chosen in combinations(skips, degree):
            share = 0.0
            for order in permutations(chosen):
                chance, left = 1.0, sum(weight.values())
                for skip in order:
                    chance *= weight[skip] / left
                    left -= weight[skip]
                share += chance
            law[tuple(1 + skip for skip in chosen)] = degree**-config.degree_decay / norm * share
    assert sum(law.values()) == pytest.approx(1)
    return law


@given(configs(), st.integers(0, 2**32), st.integers(0, 50))
@settings(deadline=None, max_examples=200)
def test_every_drawn_graph_keeps_its_bounds_and_wastes_no_node(config, seed, member):
    graph = draw(config, generator(seed, member))
    hidden = set(range(1, config.depth + 1))
    assert graph.depth == config.depth
    assert graph.radius <= config.radius_max
    assert {edge.target for edge in graph.edges} == hidden, "every hidden node sees the input or another node"
    assert hidden <= {edge.source for edge in graph.edges} | set(graph.outputs), "every hidden node reaches the latent"
    assert len({(edge.source, edge.target) for edge in graph.edges}) == len(graph.edges)
    assert (0 in graph.outputs) == config.input_output
    fields = fields_when_drawn(graph)
    for edge in graph.edges:
        assert edge.target > edge.source
        assert edge.dilation in ((1,) if edge.source == 0 else config.dilations)
        assert edge.channels in config.width
    for node in hidden - {config.depth}:
        found = leaving(graph, node)
        if fields[node] + min(config.dilations) > config.radius_max:
            assert not found, "a node whose field is full feeds the sink alone"
        else:
            reach = config.depth - node
            # a skip whose weight underflows cannot be drawn
            possible = sum(np.exp(-config.skip_decay * skip) / np.exp(0) > 0 for skip in range(reach))
            assert min(config.degree_min, reach, possible) <= len(found) <= config.degree_max
        assert config.dilation_by == "edge" or len({edge.dilation for edge in found}) <= 1


@given(configs(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_groups_are_all_edges_in_an_order_that_can_be_computed(config, seed):
    graph = draw(config, generator(seed, 0))
    groups = graph.groups()
    assert sorted(edge for group in groups for edge in group) == list(graph.edges)
    shared = [{(edge.source, edge.dilation) for edge in group} for group in groups]
    assert all(len(keys) == 1 for keys in shared)
    assert len(set.union(*shared)) == len(groups), "no more convolutions than pairs of source and dilation"
    sources = [group[0].source for group in groups]
    assert sources == sorted(sources), "a source comes after all that feeds it"


@given(st.integers(0, 2**32), st.sampled_from(["node", "edge"]))
@settings(deadline=None, max_examples=60)
def test_the_radius_is_the_longest_path_of_dilations(seed, dilation_by):
    graph = draw(NetworkConfig(depth=9, radius_max=14, dilation_by=dilation_by), generator(seed, 0))
    assert graph.radius == longest_path(graph)


def test_the_bound_on_the_radius_is_used_and_not_only_kept():
    config = NetworkConfig(depth=30, radius_max=9)
    assert max(graph.radius for graph in many(config, 20)) == 9


def test_a_member_depends_on_its_seed_and_number_alone():
    config = NetworkConfig()
    assert draw(config, generator(1, 7)) == draw(config, generator(1, 7))
    assert len({draw(config, generator(seed, member)) for seed in (1, 2) for member in range(4)}) == 8


@pytest.mark.parametrize(
    ("decay", "gamma", "least", "most"),
    [(0.5, 0.5, 1, 3), (0.0, 2.0, 1, 4), (1.2, 0.0, 2, 3), (2.5, 1.0, 2, 2), (0.3, 3.0, 1, 20)],
)
def test_sets_of_targets_follow_their_law_exactly(decay, gamma, least, most):
    config = NetworkConfig(depth=6, radius_max=WIDE, skip_decay=decay, degree_decay=gamma, degree_min=least, degree_max=most)
    drawn = Counter(tuple(edge.target for edge in leaving(graph, 1)) for graph in many(config, 1500, seed=17))
    assert likely(drawn, law_of_targets(config))


def test_the_law_of_another_decay_is_told_apart():
    config = NetworkConfig(depth=6, radius_max=WIDE, skip_decay=0.5, degree_decay=0.5)
    drawn = Counter(tuple(edge.target for edge in leaving(graph, 1)) for graph in many(config, 1500, seed=17))
    for other in ({"skip_decay": 0.8}, {"degree_decay": 1.0}, {"degree_max": 4}):
        wrong = law_of_targets(NetworkConfig(**{"depth": 6, "skip_decay": 0.5, "degree_decay": 0.5} | other))
        assert not set(drawn) <= set(wrong) or not likely(drawn, wrong)


@pytest.mark.parametrize("radius_max", [WIDE, 8])
@pytest.mark.parametrize("dilation_by", ["node", "edge"])
def test_dilations_are_drawn_evenly_from_those_that_leave_the_field_in_its_bound(radius_max, dilation_by):
    dilations = (1, 2, 4, 5)
    config = NetworkConfig(depth=12, radius_max=radius_max, dilations=dilations, dilation_by=dilation_by)
    counts = {}
    for graph in many(config, 250, seed=5):
        for node, field in fields_when_drawn(graph).items():
            allowed = tuple(dilation for dilation in dilations if field + dilation <= radius_max)
            drawn = [edge.dilation for edge in leaving(graph, node)]
            for dilation in drawn[:1] if dilation_by == "node" else drawn:
                counts.setdefault(allowed, Counter())[dilation] += 1
    assert len(counts) == (1 if radius_max == WIDE else 4), "8 leaves room for all, or for 1, 2 and 4, for 1 and 2, or for 1"
    for allowed, found in counts.items():
        assert likely(found, dict.fromkeys(allowed, 1 / len(allowed)))


def test_edges_of_one_node_draw_their_dilations_independently_of_each_other():
    config = NetworkConfig(depth=8, radius_max=WIDE, dilations=(1, 2, 3), dilation_by="edge", degree_min=2, degree_max=2)
    pairs = Counter(
        tuple(edge.dilation for edge in leaving(graph, node)) for graph in many(config, 250, seed=6) for node in range(1, 7)
    )
    assert likely(pairs, dict.fromkeys(product((1, 2, 3), repeat=2), 1 / 9))


def test_widths_are_drawn_evenly_for_every_edge():
    config = NetworkConfig(depth=12, radius_max=WIDE, width=(2, 3, 7))
    graphs = many(config, 100, seed=7)
    for edges in ([edge for graph in graphs for edge in graph.edges if bool(edge.source) == hidden] for hidden in (True, False)):
        assert likely(Counter(edge.channels for edge in edges), dict.fromkeys((2, 3, 7), 1 / 3))


@given(configs(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_shares_of_the_optional_nodes_are_exact_to_the_nearest_whole_number(config, seed):
    graph = draw(config, generator(seed, 0))
    hidden = set(range(1, graph.depth + 1))
    fed = {edge.target for edge in graph.edges if edge.source > 0}
    feeding = {edge.source for edge in graph.edges if edge.source > 0}
    entries = {edge.target for edge in graph.edges if edge.source == 0}
    outputs = set(graph.outputs) - {0}
    assert entries >= hidden - fed
    assert outputs >= hidden - feeding
    assert abs(len(entries & fed) - config.input_share * len(fed)) <= 0.5
    assert abs(len(outputs & feeding) - config.output_share * len(feeding)) <= 0.5


def test_optional_nodes_are_chosen_evenly():
    # a decay this steep makes a chain: nodes 2 to 5 may see the input, nodes 1 to 4 may feed the latent
    config = NetworkConfig(depth=5, radius_max=WIDE, degree_max=1, skip_decay=60.0, input_share=0.5, output_share=0.5)
    graphs = many(config, 800, seed=8)
    entries = Counter(tuple(edge.target for edge in leaving(graph, 0) if edge.target > 1) for graph in graphs)
    outputs = Counter(tuple(node for node in graph.outputs if node < 5) for graph in graphs)
    assert likely(entries, dict.fromkeys(combinations((2, 3, 4, 5), 2), 1 / 6))
    assert likely(outputs, dict.fromkeys(combinations((1, 2, 3, 4), 2), 1 / 6))


@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 19))
def test_a_radius_without_room_for_an_edge_is_refused(depth, least, missing):
    radius = max(1 + least - 1 - missing, 1)
    with pytest.raises(ValidationError, match=rf"radius_max {radius} leaves no room .* allow at least {1 + least}"):
        NetworkConfig(depth=depth, dilations=(least, least + 3), radius_max=radius)
    assert draw(NetworkConfig(depth=1, dilations=(least,), radius_max=1), generator(0, 0)).radius == 1


def test_more_edges_at_least_than_at_most_are_refused():
    with pytest.raises(ValidationError, match="degree_min 3 is larger than degree_max 2; lower it"):
        NetworkConfig(degree_min=3, degree_max=2)


@given(configs(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_plain_data_give_the_graph_back(config, seed):
    graph = draw(config, generator(seed, 1))
    assert Graph.from_data(graph.as_data()) == graph


@pytest.mark.parametrize(
    ("edges", "outputs", "message"),
    [
        ([Edge(0, 1, 1, 2), Edge(1, 1, 2, 2), Edge(2, 1, 1, 2)], [2], "not point forward"),
        ([Edge(0, 1, 1, 2), Edge(1, 1, 2, 2), Edge(2, 1, 2, 2)], [2], "not point forward"),
        ([Edge(0, 1, 1, 2), Edge(1, 1, 2, 2), Edge(1, 1, 3, 2)], [2], "not point forward"),
        ([Edge(-1, 1, 1, 2), Edge(1, 1, 2, 2)], [2], "not point forward"),
        ([Edge(0, 1, 1, 2)], [1], "nothing feeds"),
        ([Edge(0, 1, 1, 2), Edge(0, 1, 2, 2)], [3], "does not exist"),
        ([Edge(0, 1, 1, 2), Edge(0, 1, 2, 2)], [-1], "does not exist"),
        ([Edge(0, 1, 1, 2), Edge(0, 1, 2, 2)], [], "does not exist"),
        ([Edge(0, 1, 1, 2), Edge(0, 0, 2, 2)], [1, 2], "dilation"),
        ([Edge(0, 1, 1, 2), Edge(0, 1, 2, 0)], [1, 2], "channel"),
    ],
    ids=["back", "loop", "beyond", "before", "unfed", "no output", "negative output", "none", "no dilation", "no channel"],
)
def test_data_that_describe_no_network_are_refused(edges, outputs, message):
    data = {"depth": 2, "edges": [vars(edge) for edge in edges], "outputs": outputs}
    with pytest.raises(GraphError, match=message):
        Graph.from_data(data)
