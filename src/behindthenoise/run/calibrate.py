"""Verb `calibrate`: scores → one threshold per channel, and the certificate that says what it promises."""

from pathlib import Path
from typing import Literal

import numpy as np

from behindthenoise.config import CalibrationConfig
from behindthenoise.core import calibration
from behindthenoise.io.record import file_digest, log, write_json
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, scores: Path, thresholds: Path, certificate: Path) -> None:
    """Write thresholds and certificate."""
    config = spec.get("calibration", CalibrationConfig)
    kind: Literal["block", "image"] = "image" if spec.get("split.by", str) == "image" else "block"
    loaded = store_of_pairs.read(pairs)
    channels = loaded.geometry.channels
    with np.load(scores) as content:
        unit = content["unit"]
        found = {name: [content[f"{name}_{index}"] for index, _ in enumerate(channels)] for name in ("score", "noisy")}
    thresholds_of = {
        name: [calibration.threshold(values, unit, config.miscoverage) for values in rows] for name, rows in found.items()
    }
    for index, name in enumerate(channels):
        clean = loaded.clean[:, index]
        calibration.expect_support(config.support, name, float(np.nanmin(clean)), float(np.nanmax(clean)))
    sizes = calibration.unit_sizes(unit)
    rows = [
        {
            "channel": name,
            **calibration.certificate(sizes, value, config.miscoverage, unit_kind=kind, scans=loaded.noisy.shape[1]),
        }
        for name, value in zip(channels, thresholds_of["score"], strict=True)
    ]
    for row in rows:
        rank = f"rank {row['rank']} of {row['pixels']}, {row['units']} units"
        log(f"calibrate: {row['channel']}: threshold {row['threshold']:.6g} at {rank}")
    write_json(
        thresholds, {"thresholds": thresholds_of["score"], "noisy_thresholds": thresholds_of["noisy"], "coverage": config.coverage}
    )
    write_json(
        certificate,
        {
            "statement": rows[0]["statement"],
            "assumptions": rows[0]["assumptions"],
            "value_unit": loaded.geometry.value_unit,
            "channels": [{key: value for key, value in row.items() if key not in ("statement", "assumptions")} for row in rows],
            "spec": spec.as_data(),
            "scores": file_digest(scores),
        },
    )
