"""Verb `draw`: seed → the graph of one member."""

from pathlib import Path

from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph as graphs
from behindthenoise.io.record import log
from behindthenoise.run.graphs import write_graph
from behindthenoise.stages import Spec


def run(spec: Spec, *, graph: Path, member: int) -> None:
    """Write `graph.json`."""
    random = graphs.generator(spec.get("ensemble.seed", int), member)
    drawn = graphs.draw(spec.get("network", NetworkConfig), random)
    log(f"draw: {drawn.depth} nodes, {sum(map(len, drawn.targets))} edges, receptive radius {drawn.radius}")
    write_graph(graph, drawn)
