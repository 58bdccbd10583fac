"""Verb `infer`: one share of a volume's tiles → averaged quantiles and embedding, each voxel once."""

from pathlib import Path

import numpy as np
import torch

from behindthenoise.core import inference, memory, tiling
from behindthenoise.core.network import Network
from behindthenoise.core.scale import Scale
from behindthenoise.core.tokens import Projection
from behindthenoise.errors import StoreError
from behindthenoise.io import stores, volumes
from behindthenoise.io.record import Countdown, log, write_json
from behindthenoise.run import models, shares
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.stages import Spec


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
    """Fill this job's tiles of the store, and write a manifest with the digest of each."""
    torch.set_num_threads(spec.get("inference.threads", int))
    source, scale = volumes.open_input(volume), store_of_pairs.read_scale(pairs)
    precision = spec.get("inference.precision", str)
    networks = [on_disk.read_network(graph, weight, precision) for graph, weight in zip(graphs, weights, strict=True)]
    mapping = models.read_projection(projection)
    group = stores.open_group(store, "r+")
    layout = volumes.read_layout(group)
    halo = memory.ensemble_halo([network.architecture for network in networks])
    if layout.halo != halo:
        raise StoreError(
            f"store {store} was laid out for a halo of {layout.halo} voxels, the networks need {halo}; delete its folder"
        )
    targets = [stores.get_array(group, name) for name in volumes.RAW]
    every = tiling.tiles(source.shape, layout.core, halo)
    owned = [every[index] for index in tiling.share(len(every), *shares.parse(share))]
    log(f"infer: {len(networks)} networks on {on_disk.device()}, core {layout.core}, halo {halo}")
    log(f"infer: {len(owned)} of {len(every)} tiles")
    countdown = Countdown(len(owned), "tiles")
    digests = {}
    for done, tile in enumerate(owned, start=1):
        results = run_tile(networks, mapping, scale, source, tile)
        for target, values in zip(targets, results, strict=True):
            target[stores.whole(target, tile.core)] = values
        corner = ",".join(str(part.start) for part in tile.core)
        digests[corner] = [stores.digest(target, stores.whole(target, tile.core)) for target in targets]
        countdown.done(done)
    write_json(manifest, {"stage": "infer", "instance": layout.instance, "share": share, "tiles": digests})


def run_tile(
    networks: list[Network],
    mapping: Projection,
    scale: Scale,
    source: volumes.Volume,
    tile: tiling.Tile,
) -> tuple[np.ndarray, ...]:
    """
    Quantiles and spread in physical units and embedding of one tile's core, in the order of `volumes.RAW`.

    NaN under the mask; where all is masked no network runs.
    """
    mask = np.asarray(source.mask[tile.read]).astype(bool)
    inside = mask[tile.inside]
    if not inside.any():
        channels, components = len(source.geometry.channels), len(mapping.offset)
        return tuple(np.full((*lead, *inside.shape), np.nan, np.float32) for lead in ((3, channels), (channels,), (components,)))
    noisy = np.asarray(source.noisy[(slice(None), *tile.read)])
    standardised = scale.standardise_noisy(noisy, mask, axis=0)
    raw, deviation, embedding = inference.run_ensemble(networks, mapping, standardised, tile.margin)
    results = scale.restore_clean(raw, axis=1), scale.stretch_clean(deviation, axis=0), embedding
    return tuple(np.where(inside, values, np.nan) for values in results)
