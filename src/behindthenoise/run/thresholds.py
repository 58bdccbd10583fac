"""Thresholds on disk, with all it takes to apply them."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.thresholds import Calibration
from behindthenoise.io.record import read_json, write_json


def write(path: Path, calibration: Calibration, noisy: list[float], coverage: float) -> None:
    """Store a calibration, and the thresholds that the noisy scans alone would need."""
    channels = [
        {
            "score": asdict(score),
            "edges": None if groups.edges is None else groups.edges.tolist(),
            "tokens": groups.tokens,
            "thresholds": [[float(value) for value in row] for row in rows],
        }
        for score, groups, rows in zip(calibration.scores, calibration.groups, calibration.thresholds, strict=True)
    ]
    write_json(path, {"coverage": coverage, "channels": channels, "noisy_thresholds": noisy})


def read(path: Path) -> tuple[Calibration, list[float]]:
    """Read what `write` has stored."""
    data = read_json(path)
    channels = data["channels"]
    groups = tuple(
        Groups(None if channel["edges"] is None else np.array(channel["edges"]), channel["tokens"]) for channel in channels
    )
    scores = tuple(Score(**channel["score"]) for channel in channels)
    thresholds = tuple(np.array(channel["thresholds"], np.float32) for channel in channels)
    return Calibration(scores, groups, thresholds), data["noisy_thresholds"]
