"""Random sparse mixed-scale graphs: which node feeds which, and at which dilation."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from behindthenoise.config import NetworkConfig
from behindthenoise.errors import GraphError

VERSION = 1


@dataclass(frozen=True)
class Graph:
    """
    Wiring of one network: node 0 is the input, nodes 1 to depth are hidden, the sink collects the latent.

    Attributes
    ----------
    dilations
        Dilation of the convolution that leaves each node; 1 for the input.
    targets
        Hidden nodes that each node feeds, in rising order; all larger than the node itself.
    outputs
        Hidden nodes whose features enter the latent through a 1x1 convolution. The input itself does not: the heads see it
        anyway, and a latent that holds single noisy voxels gives speckled tokens.
    width
        Channels that one edge carries.
    """

    dilations: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    width: int

    @property
    def depth(self) -> int:
        """Number of hidden nodes."""
        return len(self.dilations) - 1

    def fields(self) -> tuple[int, ...]:
        """Receptive radius of the features that arrive at each node, in voxels; -1 where nothing arrives."""
        radius = [0] + [-1] * self.depth
        for node, targets in enumerate(self.targets):
            for target in targets:
                radius[target] = max(radius[target], radius[node] + self.dilations[node])
        return tuple(radius)

    @property
    def radius(self) -> int:
        """Receptive radius of the latent in voxels: the longest path of dilations to an output."""
        fields = self.fields()
        return max(fields[node] for node in self.outputs)

    def channels(self, in_channels: int) -> tuple[int, ...]:
        """Channels of the features that arrive at each node."""
        counts = [in_channels] + [0] * self.depth
        for targets in self.targets:
            for target in targets:
                counts[target] += self.width
        return tuple(counts)

    def as_data(self) -> dict[str, Any]:
        """Plain data for `graph.json`."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Graph":
        """
        Graph from what `as_data` gave.

        Raises
        ------
        GraphError
            If the data are of another version, or name edges that point backwards.
        """
        if data.get("version") != VERSION:
            raise GraphError(f"graph has version {data.get('version')!r}; this program reads version {VERSION}; draw it again")
        targets = tuple(tuple(row) for row in data["targets"])
        if any(target <= node for node, row in enumerate(targets) for target in row):
            raise GraphError("graph has an edge that does not point forward; draw it again")
        return cls(tuple(data["dilations"]), targets, tuple(data["outputs"]), data["width"])


def generator(seed: int, member: int) -> np.random.Generator:
    """Random numbers for the graph of one member; they depend on (seed, member) alone."""
    return np.random.default_rng([seed, member])


def draw(config: NetworkConfig, random: np.random.Generator) -> Graph:
    """
    Random graph that obeys the bound on its receptive radius.

    Hidden node i feeds k distinct later nodes: k has weight k^-gamma up to `degree_max`, a skip over d nodes weight
    exp(-alpha d). Its dilation is drawn from those that keep the field within `radius_max`; a node whose field is full
    feeds the sink only. Nodes that nothing feeds see the input, nodes that feed nothing go to the sink; of the others,
    shares `input_share` and `output_share` do so too.

    References
    ----------
    Pelt & Sethian (2018), doi:10.1073/pnas.1715832114, for mixed-scale dense networks; Zwart et al. (2025),
    arXiv:2505.08176, for their random sparse wiring.
    """
    depth = config.depth
    dilations = np.array(config.dilations)
    fields = np.ones(depth + 1, dtype=int)  # every hidden node sees the input or a later field
    chosen = [1] * (depth + 1)
    targets: list[list[int]] = [[] for _ in range(depth + 1)]
    for node in range(1, depth):
        allowed = dilations[fields[node] + dilations <= config.radius_max]
        if allowed.size == 0:
            continue
        chosen[node] = int(random.choice(allowed))
        targets[node] = _draw_targets(node, config, random)
        fields[targets[node]] = np.maximum(fields[targets[node]], fields[node] + chosen[node])
    fed = {target for row in targets for target in row}
    feeding = {node for node in range(1, depth + 1) if targets[node]}
    hidden = set(range(1, depth + 1))
    targets[0] = sorted((hidden - fed) | _draw_share(fed, config.input_share, random))
    outputs = sorted((hidden - feeding) | _draw_share(feeding, config.output_share, random))
    return Graph(tuple(chosen), tuple(map(tuple, targets)), tuple(outputs), config.width)


def _draw_targets(node: int, config: NetworkConfig, random: np.random.Generator) -> list[int]:
    """Later nodes that a node feeds."""
    reach = config.depth - node
    degrees = np.arange(1, min(config.degree_max, reach) + 1)
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
