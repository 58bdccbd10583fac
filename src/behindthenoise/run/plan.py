"""Verb `plan`: memory and graphs → the tiles of one volume, as the layout of its store."""

from pathlib import Path

from behindthenoise.config import InferenceConfig
from behindthenoise.core import memory
from behindthenoise.core.tiling import tiles
from behindthenoise.io import volumes
from behindthenoise.io.record import log
from behindthenoise.run import shards
from behindthenoise.run.architectures import read_architecture
from behindthenoise.stages import Spec


def run(spec: Spec, *, volume: Path, graphs: list[Path], store: Path) -> None:
    """Write the empty store of the quantiles."""
    source = volumes.open_input(volume)
    config = spec.part("inference", InferenceConfig)
    drawn = [read_architecture(path) for path in graphs]
    components = min(spec.get("tokens.components", int), sum(architecture.latent for architecture in drawn))
    halo, voxel_bytes = memory.ensemble_cost(drawn, components)
    core = memory.choose_core(source.shape, halo, voxel_bytes, config.memory_bytes, config.tile_edge)
    tile_bytes = memory.projected_bytes(source.shape, core, halo, voxel_bytes)
    values = (len(source.geometry.channels), components)
    shard = memory.choose_shard(source.shape, core, halo, values, config.memory_bytes - tile_bytes)
    projected = tile_bytes + memory.shard_bytes(source.shape, shard, halo, *values)
    log(f"plan: {len(tiles(source.shape, core, halo))} tiles of {core} voxels, halo {halo}, at most {projected / 1e9:.2f} GB a job")
    log(f"plan: {len(tiles(source.shape, shard, 0))} shards of {shard} voxels")
    shards.forget(store)
    volumes.create_quantiles(store, source, core, shard, components)
