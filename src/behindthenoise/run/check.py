"""Verb `check`: refuse before the first training what would fail after the last."""

from pathlib import Path

import numpy as np

from behindthenoise.config import CalibrationConfig, InferenceConfig, NetworkConfig
from behindthenoise.core import calibration, memory
from behindthenoise.io.record import log, read_json, write_json
from behindthenoise.run.models import read_graph
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, graphs: list[Path], manifest: Path) -> None:
    """Raise the error that a later stage would raise; write the projections otherwise."""
    facts = read_json(pairs)
    config = spec.get("calibration", CalibrationConfig)
    sizes = np.array(facts["calibration_unit_sizes"], dtype=np.int64)
    rank = calibration.crc_rank(sizes, config.miscoverage)
    drawn = [read_graph(path) for path in graphs]
    inference = spec.get("inference", InferenceConfig)
    halo, voxel_bytes = memory.ensemble_cost(
        drawn, spec.get("network", NetworkConfig), len(facts["channels"]), spec.get("tokens.components", int)
    )
    core = memory.choose_core(facts["shape"], halo, voxel_bytes, inference.memory_bytes, inference.tile_edge)
    kind = "image" if spec.get("split.by", str) == "image" else "block"
    log(f"check: {len(sizes)} calibration {kind}s carry the guarantee (rank {rank} of {sizes.sum()})")
    log(f"check: tiles of {core} voxels, halo {halo}, {voxel_bytes} bytes per voxel")
    write_json(manifest, {"stage": "check", "rank": rank, "units": len(sizes), "tile": list(core), "halo": halo})
