"""Architectures on disk. Apart from the other models, so that an edit there is no reason to train again."""

from pathlib import Path

from behindthenoise.core.architecture import Architecture
from behindthenoise.io.record import read_json, write_json


def write_architecture(path: Path, architecture: Architecture) -> None:
    """Write `graph.json`."""
    write_json(path, architecture.as_data())


def read_architecture(path: Path) -> Architecture:
    """Read `graph.json`."""
    return Architecture.from_data(read_json(path))
