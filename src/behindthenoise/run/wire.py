"""Verb `wire`: seed → the architecture of one member."""

from pathlib import Path

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.io.record import log, read_json
from behindthenoise.run.architectures import write_architecture
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, graph: Path, member: int) -> None:
    """Write `graph.json`."""
    facts = read_json(pairs)
    random = architectures.generator(spec.get("ensemble.seed", int), member)
    drawn = architectures.draw(
        spec.get("network", NetworkConfig), random, ndim=len(facts["shape"]), channels=len(facts["channels"])
    )
    log(f"wire: {drawn.wiring.kind}, {drawn.parameters} parameters, receptive radius {drawn.radius}")
    write_architecture(graph, drawn)
