"""Graphs on disk. Apart from the other models, so that an edit there is no reason to train again."""

from pathlib import Path

from behindthenoise.core.graph import Graph
from behindthenoise.io.record import read_json, write_json


def write_graph(path: Path, graph: Graph) -> None:
    """Write `graph.json`."""
    write_json(path, graph.as_data())


def read_graph(path: Path) -> Graph:
    """Read `graph.json`."""
    return Graph.from_data(read_json(path))
