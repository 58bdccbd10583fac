"""A sample of a volume's voxels and what one member says about them: small crops, so that no volume need be predicted whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float32, Int

from behindthenoise.config import InferenceConfig
from behindthenoise.core import inference, memory, tiling
from behindthenoise.core.network import Network
from behindthenoise.core.sampling import CROP, Drawn, draw_crops, draw_sample, occupied
from behindthenoise.core.scale import Scale
from behindthenoise.io import stores
from behindthenoise.io.volumes import Volume
from behindthenoise.run.models import Sample

SLAB = 8 * CROP  # voxels along an axis of a mask that is read at once


@dataclass(frozen=True, eq=False)
class Member:
    """One network, the scale of what it reads and says, and the memory that it may use."""

    network: Network
    scale: Scale
    config: InferenceConfig

    def core(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Core of a tile that fits the memory."""
        _, voxel_bytes = memory.ensemble_cost([self.network.architecture], components=0)
        return memory.choose_core(
            shape, self.network.architecture.halo, voxel_bytes, self.config.memory_bytes, self.config.tile_edge
        )


def draw(volume: Volume, member: Member, size: int, seed: int) -> Sample:
    """
    At most `size` voxels under the mask of a volume, in crowds as `draw_sample` makes them, spread over all of it.

    Which ones depends on the mask, the size and the seed: every member draws the same.
    """
    crops = [
        tuple(slice(start, min(start + CROP, end)) for start, end in zip(corner.tolist(), volume.shape, strict=True))
        for corner in draw_crops(occupied_of(volume), size, seed)
    ]
    masks = np.stack([_filled(np.asarray(volume.mask[crop]).astype(bool)) for crop in crops])
    drawn = draw_sample(masks, size, seed)
    parts = [
        _predicted(volume, member, crop, inside)
        for crop, inside in zip(crops, _inside(drawn, masks), strict=True)
        if inside[0].size
    ]
    return Sample(
        -1 - np.concatenate([part.voxels for part in parts]),
        np.concatenate([part.latents for part in parts]),
        np.concatenate([part.quantiles for part in parts], axis=-1),
        drawn.pairs,
    )


def occupied_of(volume: Volume) -> Bool[np.ndarray, " *grid"]:
    """Which crops of a volume hold data; the mask is read slab by slab."""
    grid = np.zeros([-(-size // CROP) for size in volume.shape], bool)
    for corner in product(*(range(0, size, SLAB) for size in volume.shape)):
        region = tuple(slice(start, start + SLAB) for start in corner)
        slab = np.asarray(volume.mask[region]).astype(bool)
        found = occupied(slab)
        starts = (start // CROP for start in corner)
        grid[tuple(slice(start, start + edge) for start, edge in zip(starts, found.shape, strict=True))] = found
    return grid


def _filled(mask: Bool[np.ndarray, " *space"]) -> Bool[np.ndarray, " *crop"]:
    """The mask of a crop that the end of the volume may cut, as large as all others."""
    return np.pad(mask, [(0, CROP - size) for size in mask.shape])


def _inside(drawn: Drawn, masks: Bool[np.ndarray, " crop *space"]) -> list[tuple[Int[np.ndarray, " _"], ...]]:
    """Position of the drawn voxels within each crop."""
    crop, *position = np.unravel_index(drawn.voxels, masks.shape)
    return [tuple(axis[crop == index] for axis in position) for index in range(len(masks))]


def _predicted(volume: Volume, member: Member, crop: tuple[slice, ...], inside: tuple[Int[np.ndarray, " _"], ...]) -> Sample:
    """What a member says about some voxels of a crop, by their flat indices in the volume."""
    architecture, (channels, *_) = member.network.architecture, volume.noisy.shape
    extent = tuple(part.stop - part.start for part in crop)
    latents, quantiles = np.zeros((architecture.latent, *extent), np.float32), np.zeros((3, channels, *extent), np.float32)
    for tile in tiling.tiles(volume.shape, member.core(volume.shape), architecture.halo, crop):
        raw, latent = _of_tile(volume, member, tile)
        where = tiling.relative(tile.core, crop)
        latents[stores.whole(latents, where)] = latent
        quantiles[stores.whole(quantiles, where)] = member.scale.restore_clean(raw, axis=1)
    position = tuple(axis + part.start for axis, part in zip(inside, crop, strict=True))
    flat = np.ravel_multi_index(position, volume.shape)
    chosen = np.ravel_multi_index(inside, extent)
    rows, levels = latents.reshape(len(latents), -1)[:, chosen].T, quantiles.reshape(3, channels, -1)[..., chosen]
    return Sample(flat, rows, levels, np.zeros((0, 2), int))


def _of_tile(
    volume: Volume, member: Member, tile: tiling.Tile
) -> tuple[Float32[np.ndarray, " 3 c *core"], Float32[np.ndarray, " latent *core"]]:
    """Quantiles in standard units and latents of one tile's core."""
    noisy, mask = np.asarray(volume.noisy[(slice(None), *tile.read)]), np.asarray(volume.mask[tile.read]).astype(bool)
    return inference.run_member(member.network, member.scale.standardise_noisy(noisy, mask, axis=0), tile.margin)
