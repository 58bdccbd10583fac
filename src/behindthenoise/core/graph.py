"""Random sparse mixed-scale graphs: which node feeds which, at which dilation and how many channels wide."""

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from behindthenoise.config import NetworkConfig
from behindthenoise.core.shapes import Shape
from behindthenoise.errors import GraphError


@dataclass(frozen=True, order=True)
class Edge:
    """A dilated convolution from one node to a later one."""

    source: int
    dilation: int
    target: int
    channels: int


@dataclass(frozen=True)
class Graph:
    """
    Wiring of one network: node 0 is the input, nodes 1 to `depth` are hidden, the sink collects the latent.

    Attributes
    ----------
    depth
        Number of hidden nodes.
    edges
        Rising by source, dilation and target; those of one source and dilation are one convolution.
    outputs
        Nodes whose features enter the latent through a 1x1 convolution.
    """

    depth: int
    edges: tuple[Edge, ...]
    outputs: tuple[int, ...]

    kind = "smsnet"
    stride = 1

    def groups(self) -> list[tuple[Edge, ...]]:
        """Edges that share source and dilation, in the order in which they can be computed."""
        return [tuple(group) for _, group in groupby(self.edges, lambda edge: (edge.source, edge.dilation))]

    def fields(self) -> tuple[int, ...]:
        """Receptive radius of the features that arrive at each node, in voxels."""
        radius = [0] * (self.depth + 1)
        for edge in self.edges:
            radius[edge.target] = max(radius[edge.target], radius[edge.source] + edge.dilation)
        return tuple(radius)

    def reaches(self) -> tuple[int, ...]:
        """How far the features of each node are seen from the latent, in voxels: the longest path of dilations to an output."""
        reach = [0] * (self.depth + 1)
        for edge in reversed(self.edges):
            reach[edge.source] = max(reach[edge.source], reach[edge.target] + edge.dilation)
        return tuple(reach)

    @property
    def radius(self) -> int:
        """Receptive radius of the latent in voxels: the longest path of dilations to an output."""
        fields = self.fields()
        return max(fields[node] for node in self.outputs)

    def channels(self, in_channels: int) -> tuple[int, ...]:
        """Channels of the features that arrive at each node."""
        counts = [in_channels] + [0] * self.depth
        for edge in self.edges:
            counts[edge.target] += edge.channels
        return tuple(counts)

    def features(self, in_channels: int) -> int:
        """Channels that enter the latent."""
        widths = self.channels(in_channels)
        return sum(widths[node] for node in self.outputs)

    def shapes(self, in_channels: int) -> list[Shape]:
        """The convolution of each group."""
        widths = self.channels(in_channels)
        return [
            Shape(widths[group[0].source], sum(edge.channels for edge in group), dilation=group[0].dilation)
            for group in self.groups()
        ]

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Graph":
        """
        Graph from what `as_data` gave.

        Raises
        ------
        GraphError
            If an edge points backwards or to a node that does not exist, or a node is fed by nothing.
        """
        depth, outputs = int(data["depth"]), tuple(data["outputs"])
        edges = tuple(sorted(Edge(**edge) for edge in data["edges"]))
        if any(not 0 <= edge.source < edge.target <= depth for edge in edges):
            raise GraphError("graph has an edge that does not point forward to one of its nodes; draw it again")
        if any(min(edge.dilation, edge.channels) < 1 for edge in edges):
            raise GraphError("graph has an edge without a dilation or without channels; draw it again")
        if (
            {edge.target for edge in edges} != set(range(1, depth + 1))
            or not outputs
            or not 0 <= min(outputs) <= max(outputs) <= depth
        ):
            raise GraphError("graph has a node that nothing feeds, or an output that does not exist; draw it again")
        return cls(depth, edges, outputs)


def draw(config: NetworkConfig, random: np.random.Generator) -> Graph:
    """
    Random graph that obeys the bound on its receptive radius.

    Hidden node i feeds k distinct later nodes: k has weight k^-gamma between `degree_min` and `degree_max`, a skip over d
    nodes weight exp(-alpha d). Dilations are drawn from those that keep the field within `radius_max`; a node whose field
    is full feeds the sink only. Nodes that nothing feeds see the input, nodes that feed nothing go to the sink; of the
    others, shares `input_share` and `output_share` do so too.

    References
    ----------
    Pelt & Sethian (2018), doi:10.1073/pnas.1715832114, for mixed-scale dense networks; Zwart et al. (2025),
    arXiv:2505.08176, for their random sparse wiring.
    """
    dilations = np.array(config.dilations)
    fields = np.ones(config.depth + 1, dtype=int)  # every hidden node sees the input or a later field
    edges: list[Edge] = []
    for node in range(1, config.depth):
        allowed = dilations[fields[node] + dilations <= config.radius_max]
        if allowed.size == 0:
            continue
        common = random.choice(allowed)
        for target in _draw_targets(node, config, random):
            dilation = int(common if config.dilation_by == "node" else random.choice(allowed))
            edges.append(Edge(node, dilation, target, int(random.choice(config.width))))
            fields[target] = max(fields[target], fields[node] + dilation)
    hidden = set(range(1, config.depth + 1))
    fed, feeding = {edge.target for edge in edges}, {edge.source for edge in edges}
    entries = sorted((hidden - fed) | _draw_share(fed, config.input_share, random))
    outputs = sorted((hidden - feeding) | _draw_share(feeding, config.output_share, random))
    edges += [Edge(0, 1, node, int(random.choice(config.width))) for node in entries]
    return Graph(config.depth, tuple(sorted(edges)), tuple([0] * config.input_output + outputs))


def _draw_targets(node: int, config: NetworkConfig, random: np.random.Generator) -> list[int]:
    """Later nodes that a node feeds."""
    reach = config.depth - node
    degrees = np.arange(min(config.degree_min, reach), min(config.degree_max, reach) + 1)
    degree = random.choice(degrees, p=_normalised(degrees**-config.degree_decay))
    skips = np.arange(1, reach + 1)
    weights = _normalised(np.exp(-config.skip_decay * (skips - 1)))
    # far skips may underflow to weight zero; they cannot be drawn, so they cannot be asked for
    degree = min(int(degree), int(np.count_nonzero(weights)))
    return sorted(int(node + skip) for skip in random.choice(skips, size=degree, replace=False, p=weights))


def _draw_share(nodes: set[int], share: float, random: np.random.Generator) -> set[int]:
    """A share of the nodes, rounded to the nearest whole number, drawn without replacement."""
    candidates = sorted(nodes)
    count = int(share * len(candidates) + 0.5)
    return {int(node) for node in random.choice(candidates, size=count, replace=False)} if count else set()


def _normalised(weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights / weights.sum())
