"""Verb `calibrate`: scores → one threshold per channel, and the certificate that says what it promises."""

from pathlib import Path

import numpy as np

from behindthenoise.config import CalibrationConfig
from behindthenoise.core import calibration
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.io.record import file_digest, log, write_json
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, scores: Path, thresholds: Path, certificate: Path) -> None:
    """Write thresholds and certificate."""
    config = spec.get("calibration", CalibrationConfig)
    kind = "image" if spec.get("split.by", str) == "image" else "block"
    loaded = store_of_pairs.read(pairs)
    with np.load(scores) as content:
        unit = content["unit"]
        found = {
            name: [calibration.threshold(content[f"{name}_{index}"], unit, config.miscoverage) for index in range(len(loaded.geometry.channels))]
            for name in ("score", "noisy")
        }
    sizes = calibration.unit_sizes(unit)
    rows = [
        {
            "channel": name,
            **calibration.certificate(sizes, value, config.miscoverage, unit_kind=kind, scans=loaded.noisy.shape[1]),
        }
        for name, value in zip(loaded.geometry.channels, found["score"], strict=True)
    ]
    for row in rows:
        log(f"calibrate: {row['channel']}: threshold {row['threshold']:.6g} at rank {row['rank']} of {row['pixels']}, {row['units']} units")
    write_json(thresholds, {"thresholds": found["score"], "noisy_thresholds": found["noisy"], "coverage": config.coverage})
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
