"""Verb `predict`: one member's quantiles on calibration and test voxels, and its latents on a sample of training voxels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from behindthenoise.config import InferenceConfig
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
    config = spec.part("inference", InferenceConfig)
    torch.set_num_threads(config.threads)
    loaded = store_of_pairs.read(pairs)
    channels = len(loaded.geometry.channels)
    network = on_disk.read_network(graph, weights, config.precision)
    _, voxel_bytes = memory.ensemble_cost([network.architecture], components=0)
    core = memory.choose_core(loaded.shape, network.architecture.halo, voxel_bytes, config.memory_bytes, config.tile_edge)
    sample = draw_sample(loaded.split.role == TRAIN, spec.get("tokens.sample", int), spec.get("tokens.seed", int))
    group = stores.create_group(store, {"levels": LEVELS})
    dims = ("image", "scan", "quantile", "channel", *loaded.geometry.space)
    shape = (*loaded.noisy.shape[:2], 3, *loaded.noisy.shape[2:])
    chunks = (1, 1, 3, channels, *[stores.CHUNK[len(core)]] * len(core))
    array = stores.create_array(group, "quantiles", shape, dtype="float32", chunks=chunks, dims=dims)
    taken = Sample.empty(sample, loaded.mask.shape, network.architecture.latent)
    countdown = Countdown(shape[0] * shape[1], "fields")
    for done, (image, scan) in enumerate(np.ndindex(shape[:2]), start=1):
        array[image, scan] = predict(loaded, network, core, (image, scan), taken if scan == 0 else None)
        countdown.done(done)
    models.write_latents(latents, taken.latents, taken.medians)
    write_json(manifest, {"stage": "predict", "quantiles": stores.digest(array), "latents": file_digest(latents)})


@dataclass(frozen=True)
class Sample:
    """
    Latents and medians of sampled voxels, filled tile by tile.

    Attributes
    ----------
    slot
        Place of each voxel in the sample; -1 where it is not in it.
    latents, medians
        Latent vector, and median of the first channel.
    """

    slot: Int[np.ndarray, " image *space"]
    latents: Float[np.ndarray, " n latent"]
    medians: Float[np.ndarray, " n"]

    @classmethod
    def empty(cls, chosen: Int[np.ndarray, " n"], shape: tuple[int, ...], latent: int) -> "Sample":
        """Room for the voxels with these flat indices."""
        slot = np.full(int(np.prod(shape)), -1)
        slot[chosen] = np.arange(len(chosen))
        return cls(slot.reshape(shape), np.zeros((len(chosen), latent), np.float32), np.zeros(len(chosen), np.float32))

    def take(self, image: int, core: tuple[slice, ...], latents: np.ndarray, median: np.ndarray) -> None:
        """Keep what belongs to the sample of one tile's core."""
        slots = self.slot[image][core]
        wanted = slots >= 0
        self.latents[slots[wanted]] = latents[:, wanted].T
        self.medians[slots[wanted]] = median[wanted]


def predict(
    pairs: Pairs, network: Network, core: tuple[int, ...], field: tuple[int, int], sample: Sample | None
) -> Float[np.ndarray, " 3 c *space"]:
    """
    Quantiles of one scan in physical units, NaN where a voxel neither calibrates nor tests.

    Parameters
    ----------
    field
        Which image and which scan.
    sample
        What to fill with the latents of this scan; None if it is taken from another one.
    """
    image, scan = field
    held_out = np.isin(pairs.split.role[image], (CALIBRATION, TEST))
    quantiles = np.full((3, *pairs.noisy.shape[2:]), np.nan, np.float32)
    for tile in tiles(pairs.shape, core, network.architecture.halo):
        sampled = sample is not None and bool((sample.slot[image][tile.core] >= 0).any())
        if not held_out[tile.core].any() and not sampled:
            continue
        noisy, mask = pairs.noisy[image, scan][(slice(None), *tile.read)], pairs.mask[image][tile.read]
        raw, latents = inference.run_member(network, pairs.scale.standardise_noisy(noisy, mask, axis=0))
        values = crop(pairs.scale.restore_clean(raw, axis=1), tile)
        quantiles[stores.whole(quantiles, tile.core)] = np.where(held_out[tile.core], values, np.nan)
        if sample is not None:
            sample.take(image, tile.core, crop(latents, tile), values[1, 0])
    return quantiles
