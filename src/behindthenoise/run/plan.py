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
    layout = memory.lay_out(source.shape, drawn, components, config.memory_bytes, config.tile_edge)
    counts = [len(tiles(source.shape, edges, 0)) for edges in (layout.core, layout.shard)]
    log(f"plan: {counts[0]} tiles of {layout.core} voxels, halo {layout.halo}, at most {layout.peak_bytes / 1e9:.2f} GB a job")
    log(f"plan: {counts[1]} shards of {layout.shard} voxels")
    shards.forget(store)
    volumes.create_quantiles(store, source, layout.core, layout.shard, components)
