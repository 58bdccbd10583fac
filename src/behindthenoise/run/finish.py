"""Verb `finish`: stored quantiles and embedding → calibrated intervals, tokens and pyramid; no network runs."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from behindthenoise.config import InferenceConfig
from behindthenoise.core import tokens as tokenizing
from behindthenoise.core.calibration.scores import rearrange
from behindthenoise.core.calibration.thresholds import Calibration, Support
from behindthenoise.core.pyramid import shapes_of_levels
from behindthenoise.core.rounding import rounded
from behindthenoise.io import stores, volumes
from behindthenoise.io.record import log, write_json
from behindthenoise.run import models
from behindthenoise.run import thresholds as stored
from behindthenoise.run.shards import Shards, expect_complete
from behindthenoise.stages import Spec


def run(
    spec: Spec, *, volume: Path, quantiles: Path, thresholds: Path, tokens: Path, jobs: list[Path], store: Path, manifest: Path
) -> None:
    """Prove that every shard was written, then write the finished volume and its manifest."""
    source, shards = volumes.open_input(volume), Shards.open(quantiles, volumes.open_input(volume).shape)
    expect_complete(shards, jobs)
    model, support = models.read_tokens(tokens), support_of(spec)
    calibration, _ = stored.read(thresholds)
    levels = shapes_of_levels(source.shape)
    config, name = spec.part("inference", InferenceConfig), store.name.removesuffix(".ome.zarr")
    target = volumes.create_ome(store, source, name, levels, len(model.centroids), spread=config.spread)
    log(f"finish: {len(levels)} levels, {len(model.centroids)} tokens")
    edges = stores.files(stores.get_array(target, "labels/tokens/0"))
    given, spread, embedding = (lazily(stores.get_array(shards.group, name), edges) for name in volumes.RAW)
    labels = da.map_blocks(assigned, embedding, model, dtype=np.uint8, drop_axis=0)
    bands = da.map_blocks(
        calibrated,
        given,
        spread,
        labels,
        calibration=calibration,
        support=support,
        error=config.relative_error,
        dtype=np.float32,
        drop_axis=0,
        chunks=((len(volumes.STATISTICS) * given.shape[1],), *given.chunks[2:]),
    )
    if config.spread:
        bands = da.concatenate([bands, da.map_blocks(rounded, spread, config.relative_error, "nearest", dtype=np.float32)])
    write_pyramid(bands, labels, target, levels)
    volumes.set_windows(target, len(levels) - 1)
    named = [f"{folder}{level}" for folder in ("", "labels/tokens/") for level in range(len(levels))]
    write_json(manifest, {"stage": "finish", "digests": {name: stores.digest(stores.get_array(target, name)) for name in named}})


def lazily(array: zarr.Array[Any], edges: tuple[int, ...]) -> da.Array:
    """A stored array in blocks that hold all of its leading axes, and so many voxels of space."""
    leading = array.shape[: array.ndim - len(edges)]
    blocks: da.Array = da.from_array(array, chunks=(*leading, *edges), name=False)
    return blocks


def support_of(spec: Spec) -> Support:
    """Least and largest possible value of the clean image."""
    least, largest = spec.get("calibration.support", list)
    return least, largest


def calibrated(
    raw: np.ndarray, spread: np.ndarray, labels: np.ndarray, *, calibration: Calibration, support: Support, error: float = 0.0
) -> np.ndarray:
    """
    Block of quantiles (3, c, *space), spread (c, *space), tokens → lower, median, upper, width of each channel (4 c, *space).

    `error` is what rounding may do: to the ends of an interval outwards, to its width before the ends were rounded.
    """
    parts = []
    for channel in range(raw.shape[1]):
        quantiles = raw[:, channel]
        low, high = calibration.interval(channel, quantiles, labels, spread[channel], support)
        _, median, _ = rearrange(*quantiles)
        # an interval that was cut at the support keeps its median inside
        parts += [
            rounded(low, error, "down"),
            rounded(np.clip(median, low, high), error, "nearest"),
            rounded(high, error, "up"),
            rounded(high - low, error, "nearest"),
        ]
    return np.stack(parts)


def assigned(embedding: np.ndarray, model: tokenizing.TokenModel) -> np.ndarray:
    """Block of the embedding (component, *space) → tokens (*space)."""
    return tokenizing.assign(model, embedding)


def mean_of_data(values: np.ndarray, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """Mean over the voxels that carry data, NaN where none does; dask calls it without axes to see what type it returns."""
    valid = np.isfinite(values)
    counts = valid.sum(axis=axis)
    sums = np.where(valid, values, 0).sum(axis=axis, dtype=np.float64)
    return np.asarray(np.where(counts, sums / np.maximum(counts, 1), np.nan), dtype=values.dtype)


def write_pyramid(bands: da.Array, labels: da.Array, target: zarr.Group, levels: list[tuple[int, ...]]) -> None:
    """Write the full level, then each coarser one from the stored one before: means of the image, every n-th label."""
    for level, shape in enumerate(levels):
        image, label = stores.get_array(target, str(level)), stores.get_array(target, f"labels/tokens/{level}")
        if level:
            factors = [round(fine / coarse) for fine, coarse in zip(levels[level - 1], shape, strict=True)]
            fine_image, fine_label = (
                da.from_zarr(stores.get_array(target, f"{path}{level - 1}")) for path in ("", "labels/tokens/")
            )
            bands = da.coarsen(
                mean_of_data, fine_image, {axis + 1: factor for axis, factor in enumerate(factors)}, trim_excess=True
            )
            starts = tuple(slice(None, size * factor, factor) for size, factor in zip(shape, factors, strict=True))
            labels = fine_label[starts]
        stores.fill([bands, labels], [image, label])
