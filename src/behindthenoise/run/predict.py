"""Verb `predict`: one member's quantiles on calibration and test voxels, and its latents on a sample of training voxels."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from behindthenoise.config import InferenceConfig, NetworkConfig
from behindthenoise.core import inference, memory
from behindthenoise.core.network import Network
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN
from behindthenoise.core.tiling import crop, tiles
from behindthenoise.core.tokens import draw_sample
from behindthenoise.io import stores
from behindthenoise.io.record import Countdown, file_digest, write_json
from behindthenoise.run import models
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.pairs import Pairs
from behindthenoise.stages import Spec

LEVELS = ("lower", "median", "upper")


def run(spec: Spec, *, pairs: Path, graph: Path, weights: Path, store: Path, latents: Path, manifest: Path) -> None:
    """Write the held-out quantiles, the sampled latents and the manifest."""
    config, network_config = spec.get("inference", InferenceConfig), spec.get("network", NetworkConfig)
    torch.set_num_threads(config.threads)
    loaded = store_of_pairs.read(pairs)
    channels = len(loaded.geometry.channels)
    network = on_disk.read_network(graph, weights, network_config, channels=channels, ndim=len(loaded.shape))
    halo, voxel_bytes = memory.ensemble_cost([network.graph], network_config, channels, components=0)
    core = memory.choose_core(loaded.shape, halo, voxel_bytes, config.memory_bytes, config.tile_edge)
    sample = draw_sample(loaded.split.role == TRAIN, spec.get("tokens.sample", int), spec.get("tokens.seed", int))
    quantiles, sampled, medians = predict(loaded, network, core, sample, network_config.latent)
    group = stores.create_group(store, {"levels": LEVELS})
    dims = ("image", "scan", "quantile", "channel", *loaded.geometry.space)
    edge = stores.CHUNK[len(loaded.shape)]
    array = stores.create_array(
        group, "quantiles", quantiles.shape, dtype="float32", chunks=(1, 1, 3, channels, *[edge] * len(core)), dims=dims
    )
    array[:] = quantiles
    models.write_latents(latents, sampled, medians)
    write_json(manifest, {"stage": "predict", "quantiles": stores.digest(array), "latents": file_digest(latents)})


def predict(
    pairs: Pairs, network: Network, core: tuple[int, ...], sample: Int[np.ndarray, " n"], latent: int
) -> tuple[
    Float[np.ndarray, " image scan 3 c *space"],
    Float[np.ndarray, " n latent"],
    Float[np.ndarray, " n"],
]:
    """
    Quantiles in physical units (NaN where a voxel neither calibrates nor tests), and latent and median of the sampled voxels.

    The sample is taken from the first scan.
    """
    held_out = np.isin(pairs.split.role, (CALIBRATION, TEST))
    slots_flat = np.full(pairs.mask.size, -1)
    slots_flat[sample] = np.arange(len(sample))
    slot = slots_flat.reshape(pairs.mask.shape)
    images, scans, channels = pairs.noisy.shape[:3]
    quantiles = np.full((images, scans, 3, channels, *pairs.shape), np.nan, np.float32)
    latents = np.zeros((len(sample), latent), np.float32)
    medians = np.zeros(len(sample), np.float32)
    work = [
        (image, scan, tile)
        for image in range(images)
        for scan in range(scans)
        for tile in tiles(pairs.shape, core, network.graph.radius)
        if held_out[image][tile.core].any() or (scan == 0 and (slot[image][tile.core] >= 0).any())
    ]
    countdown = Countdown(len(work), "tiles")
    for done, (image, scan, tile) in enumerate(work, start=1):
        region = (slice(None), *tile.read)
        standardised = pairs.scale.standardise_noisy(pairs.noisy[image, scan][region], pairs.mask[image][tile.read], axis=0)
        raw, vectors = inference.run_member(network, standardised)
        values = crop(pairs.scale.restore_clean(raw, axis=1), tile)
        quantiles[image, scan][(..., *tile.core)] = np.where(held_out[image][tile.core], values, np.nan)
        if scan == 0:
            slots = slot[image][tile.core]
            wanted = slots >= 0
            latents[slots[wanted]] = crop(vectors, tile)[:, wanted].T
            medians[slots[wanted]] = values[1, 0][wanted]
        countdown.done(done)
    return quantiles, latents, medians
