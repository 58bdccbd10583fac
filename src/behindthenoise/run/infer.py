"""Verb `infer`: a share of a volume's shards → averaged quantiles, spread and embedding, each voxel once."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32

from behindthenoise.config import InferenceConfig
from behindthenoise.core import inference, memory, tiling
from behindthenoise.core.embedding import Projection, stored
from behindthenoise.core.network import Network
from behindthenoise.core.scale import Scale
from behindthenoise.core.tiling import Tile
from behindthenoise.io import stores, volumes
from behindthenoise.io.record import Countdown, file_digest, log, write_json
from behindthenoise.run import models, shares
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.shards import Shards
from behindthenoise.stages import Spec

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Given:
    """What is read for one shard: input and mask of its region with the halo."""

    shard: Tile
    noisy: Float32[np.ndarray, " c *read"]
    mask: Bool[np.ndarray, " *read"]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """
    Everything that turns an input into results.

    Attributes
    ----------
    core, halo
        Of the tiles that the networks see.
    """

    networks: list[Network]
    mapping: Projection
    scale: Scale
    core: tuple[int, ...]
    halo: int

    def results(self, given: Given, shape: Sequence[int]) -> tuple[np.ndarray, ...]:
        """
        Quantiles and spread in physical units and embedding of a shard, in the order of `volumes.RAW`.

        NaN under the mask; in a tile where all is masked no network runs.
        """
        region, channels = given.shard.core, len(given.noisy)
        leading: list[tuple[int, ...]] = [(3, channels), (channels,), (len(self.mapping.offset),)]
        size = tuple(part.stop - part.start for part in region)
        found = tuple(np.full((*lead, *size), np.nan, volumes.RAW[name]) for name, lead in zip(volumes.RAW, leading, strict=True))
        for tile in tiling.tiles(shape, self.core, self.halo, region):
            there = tiling.relative(tile.read, given.shard.read)
            mask = given.mask[there]
            inside = mask[tile.inside]
            if inside.any():
                standardised = self.scale.standardise_noisy(given.noisy[(slice(None), *there)], mask, axis=0)
                raw, deviation, embedding = inference.run_ensemble(self.networks, self.mapping, standardised, tile.margin)
                values = self.scale.restore_clean(raw, axis=1), self.scale.stretch_clean(deviation, axis=0), stored(embedding)
                for target, part in zip(found, values, strict=True):
                    target[stores.whole(target, tiling.relative(tile.core, region))] = np.where(inside, part, np.nan)
        return found


def run(
    spec: Spec,
    *,
    pairs: Path,
    volume: Path,
    graphs: list[Path],
    weights: list[Path],
    projection: Path,
    store: Path,
    manifest: Path,
    share: str,
) -> None:
    """Fill this job's shards of the store, without those that a killed job has finished; write a manifest of their digests."""
    config = spec.part("inference", InferenceConfig)
    torch.set_num_threads(config.threads)
    source, mapping = volumes.open_input(volume), models.read_projection(projection)
    networks = [on_disk.read_network(graph, weight, config.precision) for graph, weight in zip(graphs, weights, strict=True)]
    core, halo = tile_of(networks, source, len(mapping.offset), config)
    ensemble = Ensemble(networks, mapping, store_of_pairs.read_scale(pairs), core, halo)
    done = Shards.open(store, source.shape, key=key_of(spec, [*graphs, *weights, projection]))
    mine = shares.parse(share)
    shares.forget_others(manifest, mine)
    owned = done.owned(mine)
    todo = [shard for shard in owned if not done.has(shard)]
    log(f"infer: {len(networks)} networks on {on_disk.device()}, tiles of {core}, halo {halo}")
    log(f"infer: {len(owned)} of {len(done.every)} shards of {done.layout.shard}, {len(owned) - len(todo)} of them finished before")
    countdown = Countdown(sum(voxels_of(shard) for shard in todo), "voxels")
    computed = 0

    def read(shard: Tile) -> Given:
        (tile,) = tiling.tiles(source.shape, done.layout.shard, halo, shard.core)
        noisy = np.asarray(source.noisy[(slice(None), *tile.read)])
        return Given(tile, noisy, np.asarray(source.mask[tile.read]).astype(bool))

    def compute(given: Given) -> tuple[np.ndarray, ...]:
        return ensemble.results(given, source.shape)

    for shard in overlapped(todo, read, compute, done.write):
        computed += voxels_of(shard)
        countdown.done(computed, f"; of the whole volume {done.count()} of {len(done.every)} shards")
    write_json(manifest, {"stage": "infer", "instance": done.layout.instance, "share": share, "shards": done.digests(owned)})


def tile_of(
    networks: Sequence[Network], source: volumes.Volume, components: int, config: InferenceConfig
) -> tuple[tuple[int, ...], int]:
    """Core and halo of the tiles: of those that `plan` counted on, or on a device of its own memory the largest that fit there."""
    drawn = [network.architecture for network in networks]
    layout = memory.lay_out(source.shape, drawn, components, config.memory_bytes, config.tile_edge)
    free = on_disk.free_bytes(on_disk.device())
    if free is None or config.tile_edge is not None:
        return layout.core, layout.halo
    return memory.device_core(layout.shard, layout.halo, layout.voxel_bytes, free), layout.halo


def key_of(spec: Spec, files: Iterable[Path]) -> str:
    """Everything that a shard's values depend on beside the volume: a shard of another key is computed again."""
    content = {"spec": spec.as_data(), "files": [file_digest(path) for path in files]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def voxels_of(shard: Tile) -> int:
    """Number of voxels that a shard writes."""
    return int(np.prod([part.stop - part.start for part in shard.core]))


def overlapped(
    items: Sequence[Item], read: Callable[[Item], Given], compute: Callable[[Given], Found], write: Callable[[Item, Found], None]
) -> Iterator[Item]:
    """
    Read, compute and write all items, in this order; yields each once it is written.

    While one is computed, the next is read and the one before is written: three are in memory at most. What a reader or writer
    raises is raised here.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming: list[Future[Given]] = [reader.submit(read, item) for item in items[:1]]
        leaving: list[tuple[Item, Future[None]]] = []
        for index, item in enumerate(items):
            given = coming.pop().result()
            coming += [reader.submit(read, following) for following in items[index + 1 : index + 2]]
            found = compute(given)
            yield from _written(leaving)
            leaving.append((item, writer.submit(write, item, found)))
        yield from _written(leaving)


def _written(leaving: list[tuple[Item, Future[None]]]) -> Iterator[Item]:
    """Waits until what is leaving is written."""
    while leaving:
        item, written = leaving.pop()
        written.result()
        yield item
