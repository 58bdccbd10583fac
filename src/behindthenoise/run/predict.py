"""Verb `predict`: one member's quantiles and latents on calibration and test voxels, and on a sample of other voxels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int

from behindthenoise.config import InferenceConfig
from behindthenoise.core import inference, memory
from behindthenoise.core.network import Network
from behindthenoise.core.sampling import draw_sample
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN
from behindthenoise.core.tiling import Tile, tiles
from behindthenoise.errors import CalibrationError
from behindthenoise.io import stores
from behindthenoise.io.record import Countdown, file_digest, log, write_json
from behindthenoise.io.volumes import open_input
from behindthenoise.run import models, volume_samples
from behindthenoise.run import networks as on_disk
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.pairs import Stored
from behindthenoise.run.volume_samples import Member
from behindthenoise.stages import Spec

LEVELS = ("lower", "median", "upper")
TILING_TOLERANCE = 1e-3  # rounding in float32 makes 1e-6, in bfloat16 1e-4 of the data's spread


def run(
    spec: Spec, *, pairs: Path, volumes: list[Path], graph: Path, weights: Path, store: Path, latents: Path, manifest: Path
) -> None:
    """Write the held-out quantiles and latents, the sample of the training data and of some volumes, and the manifest."""
    config = spec.part("inference", InferenceConfig)
    torch.set_num_threads(config.threads)
    loaded = store_of_pairs.opened(pairs)
    channels = len(loaded.axes.channels)
    network = on_disk.read_network(graph, weights, config.precision)
    _, voxel_bytes = memory.ensemble_cost([network.architecture], components=0)
    core = memory.choose_core(loaded.shape, network.architecture.halo, voxel_bytes, config.memory_bytes, config.tile_edge)
    size, seed = spec.get("tokens.sample", int), spec.get("tokens.seed", int)
    drawn = draw_sample(loaded.split.role == TRAIN, size, seed)
    difference = tiling_difference(loaded, network, core)
    group = stores.create_group(store, {"levels": LEVELS, "tiling_difference": difference})
    dims = ("image", "scan", "quantile", "channel", *loaded.axes.space)
    shape = (*loaded.noisy.shape[:2], 3, *loaded.noisy.shape[2:])
    chunks = (1, 1, 3, channels, *[stores.CHUNK[len(core)]] * len(core))
    array = stores.create_array(group, "quantiles", shape, dtype="float32", chunks=chunks, dims=dims)
    latent = network.architecture.latent
    vectors = stores.create_array(
        group,
        "latents",
        (*shape[:2], latent, *shape[4:]),
        dtype="float32",
        chunks=(1, 1, latent, *chunks[4:]),
        dims=("image", "scan", "latent", *loaded.axes.space),
    )
    taken = Taken.empty(drawn.voxels, loaded.mask.shape, latent, channels)
    countdown = Countdown(shape[0] * shape[1], "fields")
    for done, (image, scan) in enumerate(np.ndindex(shape[:2]), start=1):
        array[image, scan], vectors[image, scan] = predict(loaded, network, core, (image, scan), taken if scan == 0 else None)
        countdown.done(done)
    sample = models.Sample(drawn.voxels, taken.latents, taken.quantiles, drawn.pairs)
    member = Member(network, loaded.scale, config)
    for name, path in zip(spec.get("tokens.fit_also_on", list[str]), volumes, strict=True):
        found = volume_samples.draw(open_input(path), member, -(-size // len(volumes)), seed)
        log(f"predict: {len(found.voxels)} voxels of volume {name}")
        sample = sample.joined(found)
    models.write_sample(latents, sample)
    digests = {"quantiles": stores.digest(array), "heldout_latents": stores.digest(vectors), "latents": file_digest(latents)}
    write_json(manifest, {"stage": "predict", **digests, "tiling_difference": difference})


@dataclass(frozen=True)
class Taken:
    """
    Latents and quantiles of sampled voxels, filled tile by tile.

    Attributes
    ----------
    slot
        Place of each voxel in the sample; -1 where it is not in it.
    latents, quantiles
        As in `models.Sample`.
    """

    slot: Int[np.ndarray, " image *space"]
    latents: Float32[np.ndarray, " n latent"]
    quantiles: Float32[np.ndarray, " 3 c n"]

    @classmethod
    def empty(cls, chosen: Int[np.ndarray, " n"], shape: tuple[int, ...], latent: int, channels: int) -> "Taken":
        """Room for the voxels with these flat indices."""
        slot = np.full(int(np.prod(shape)), -1)
        slot[chosen] = np.arange(len(chosen))
        latents, quantiles = np.zeros((len(chosen), latent), np.float32), np.zeros((3, channels, len(chosen)), np.float32)
        return cls(slot.reshape(shape), latents, quantiles)

    def take(self, image: int, core: tuple[slice, ...], latents: np.ndarray, quantiles: np.ndarray) -> None:
        """Keep what belongs to the sample of one tile's core."""
        slots = self.slot[image][core]
        wanted = slots >= 0
        self.latents[slots[wanted]] = latents[:, wanted].T
        self.quantiles[..., slots[wanted]] = quantiles[..., wanted]


def tiling_difference(pairs: Stored, network: Network, core: tuple[int, ...]) -> float:
    """
    Largest difference, in standard units, between medians of one tile and of smaller tiles in its place.

    Raises
    ------
    CalibrationError
        If it is more than rounding: intervals that are calibrated with one tiling would not hold with another.
    """
    held_out, halo = np.isin(pairs.split.role, (CALIBRATION, TEST)), network.architecture.halo
    image = int(np.flatnonzero(held_out.reshape(len(held_out), -1).any(axis=1))[0])
    large = next(tile for tile in tiles(pairs.shape, core, halo) if held_out[image][tile.core].any())
    smaller = [min(memory.STEP, size) for size in pairs.shape]
    starts = [part.start for part in large.core]
    small = [tile for tile in tiles(pairs.shape, smaller, halo) if [part.start for part in tile.core] == starts]
    noisy = standardised(pairs, image, 0)
    whole, found = (run_tile(noisy, network, tile)[0][1] for tile in (large, *small))
    within = tuple(slice(0, min(sizes)) for sizes in zip(whole.shape[1:], found.shape[1:], strict=True))
    difference = float(np.abs(whole[(slice(None), *within)] - found[(slice(None), *within)]).max())
    if difference > TILING_TOLERANCE:
        raise CalibrationError(
            f"predictions differ by {difference:.2g} standard units between two tilings, and may differ by {TILING_TOLERANCE:g}; "
            "intervals would hold with one tiling alone; train the network again"
        )
    return difference


def predict(
    pairs: Stored, network: Network, core: tuple[int, ...], field: tuple[int, int], sample: Taken | None
) -> tuple[Float32[np.ndarray, " 3 c *space"], Float32[np.ndarray, " latent *space"]]:
    """
    Quantiles in physical units and latents of one scan, NaN where a voxel neither calibrates nor tests.

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
    vectors = np.full((network.architecture.latent, *pairs.shape), np.nan, np.float32)
    used = held_out if sample is None else held_out | (sample.slot[image] >= 0)
    wanted = [tile for tile in tiles(pairs.shape, core, network.architecture.halo) if used[tile.core].any()]
    if not wanted:
        return quantiles, vectors
    noisy = standardised(pairs, image, scan)
    for tile in wanted:
        raw, latents = run_tile(noisy, network, tile)
        values = pairs.scale.restore_clean(raw, axis=1)
        quantiles[stores.whole(quantiles, tile.core)] = np.where(held_out[tile.core], values, np.nan)
        vectors[stores.whole(vectors, tile.core)] = np.where(held_out[tile.core], latents, np.nan)
        if sample is not None:
            sample.take(image, tile.core, latents, values)
    return quantiles, vectors


def standardised(pairs: Stored, image: int, scan: int) -> Float32[np.ndarray, " c *space"]:
    """One scan of one image in standard units, read once for all tiles; masked voxels are 0."""
    return pairs.scale.standardise_noisy(np.asarray(pairs.noisy[image, scan]), pairs.mask[image], axis=0)


def run_tile(
    noisy: Float32[np.ndarray, " c *space"], network: Network, tile: Tile
) -> tuple[Float32[np.ndarray, " 3 c *core"], Float32[np.ndarray, " latent *core"]]:
    """Quantiles in standard units and latents of one tile's core."""
    return inference.run_member(network, noisy[(slice(None), *tile.read)], tile.margin)
