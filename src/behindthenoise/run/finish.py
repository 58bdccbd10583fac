"""Verb `finish`: stored quantiles and embedding → calibrated intervals, tokens and pyramid; no network runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from behindthenoise.config import InferenceConfig, TokensConfig
from behindthenoise.core import tokens as tokenizing
from behindthenoise.core.calibration.scores import rearrange
from behindthenoise.core.calibration.thresholds import Calibration, Support
from behindthenoise.core.colours import SHOWN, mean_colour, token_colours
from behindthenoise.core.palette import rgba
from behindthenoise.core.pyramid import shapes_of_levels
from behindthenoise.core.rounding import rounded
from behindthenoise.core.tokens import TokenModel
from behindthenoise.errors import ConfigError
from behindthenoise.io import finished, stores, volumes
from behindthenoise.io.datasets import fill
from behindthenoise.io.finished import LabelImage
from behindthenoise.io.geometry import read_geometry
from behindthenoise.io.record import log, write_json
from behindthenoise.run import thresholds as stored
from behindthenoise.run import token_models
from behindthenoise.run.shards import Shards, expect_complete
from behindthenoise.stages import Spec

Classes = dict[str, tuple[int, ...]]
TOKENS = "labels/tokens"


def run(
    spec: Spec,
    *,
    volume: Path,
    geometry: Path,
    quantiles: Path,
    thresholds: Path,
    tokens: Path,
    jobs: list[Path],
    store: Path,
    manifest: Path,
) -> None:
    """Prove that every shard was written, then write the finished volume and its manifest."""
    source = volumes.open_input(volume)
    shards = Shards.open(quantiles, source.shape)
    expect_complete(shards, jobs)
    model, familiar, support = token_models.read(tokens), token_models.read_familiar(tokens), support_of(spec)
    classes = spec.part("tokens", TokensConfig).classes
    numbers = numbers_of(classes, model)
    calibration, _ = stored.read(thresholds)
    levels, labels = shapes_of_levels(source.shape), label_images(model, classes)
    config, channels = spec.part("inference", InferenceConfig), source.axes.channels
    maps = [*([f"{channel} spread" for channel in channels] if config.spread else []), "novelty"]
    placed, colours = read_geometry(geometry), token_models.read_colours(tokens)
    target = finished.create_ome(store, placed, levels, labels, maps)
    finished.create_false_colours(target, placed, levels, {"explained": colours.explained.tolist()})
    log(f"finish: {len(levels)} levels, {model.count} tokens")
    edges = stores.files(stores.get_array(target, f"{TOKENS}/0"))
    given, spread, embedding = (lazily(stores.get_array(shards.group, name), edges) for name in volumes.RAW)
    located = da.map_blocks(looked_up, embedding, model, familiar, dtype=np.float32, chunks=((2,), *embedding.chunks[1:]))
    finest = located[0].astype(np.uint8)
    token = da.map_blocks(tokenizing.tokens_of, model, finest, dtype=np.uint8)
    bands = da.map_blocks(
        calibrated,
        given,
        spread,
        token,
        calibration=calibration,
        support=support,
        error=config.relative_error,
        dtype=np.float32,
        drop_axis=0,
        chunks=((len(volumes.STATISTICS) * given.shape[1],), *given.chunks[2:]),
    )
    shown = [
        bands,
        *([da.map_blocks(rounded, spread, config.relative_error, "nearest", dtype=np.float32)] if config.spread else []),
    ]
    images = [token, finest, *(da.map_blocks(np.take, numbers, token, dtype=np.uint8) for _ in labels[2:])]
    shades = da.map_blocks(colours.of, embedding, dtype=np.uint8, chunks=((SHOWN,), *embedding.chunks[1:]))
    named = ["", f"{finished.EMBEDDING}/", *(f"labels/{label.name}/" for label in labels)]
    write_pyramid([da.concatenate([*shown, located[1:]]), shades, *images], target, named, levels)
    finished.set_windows(target, len(levels) - 1)
    every = [f"{folder}{level}" for folder in named for level in range(len(levels))]
    digests = {name: stores.digest(stores.get_array(target, name)) for name in every}
    write_json(manifest, {"stage": "finish", "digests": digests, "metadata": stores.metadata_digest(store)})


def numbers_of(classes: Classes, model: TokenModel) -> np.ndarray:
    """
    Class of each token, from 1 in the order of the classes' names, with 0 before them; 0 is none.

    Raises
    ------
    ConfigError
        If a class has a token that there is not.
    """
    found = np.zeros(model.count + 1, np.uint8)
    for number, (name, members) in enumerate(sorted(classes.items()), start=1):
        if max(members) > model.count:
            raise ConfigError(
                f"tokens.classes.{name} names token {max(members)}, but there are {model.count} tokens; "
                "name these, or set tokens.count"
            )
        found[list(members)] = number
    return found


def label_images(model: TokenModel, classes: Classes) -> list[LabelImage]:
    """
    Tokens, finest tokens and, where there are any, classes.

    A token has the colour of its largest finest one, and a class that of its first token: colours stay when the count changes.
    """
    finest, tokens = (
        tuple(rgba(colour) for colour in token_colours(model.tree, count)) for count in (len(model.tree.levels), model.count)
    )
    parts = [(np.flatnonzero(model.token_of == token) + 1).tolist() for token in range(1, model.count + 1)]
    images = [
        LabelImage("tokens", tokens, tuple({"finest": part} for part in parts)),
        LabelImage("finest", finest, tuple({"token": int(token)} for token in model.token_of)),
    ]
    if classes:
        named = sorted(classes.items())
        colours = tuple(tokens[members[0] - 1] for _, members in named)
        properties = tuple({"class": name, "tokens": list(members)} for name, members in named)
        images.append(LabelImage("classes", colours, properties))
    return images


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


def looked_up(embedding: np.ndarray, model: TokenModel, familiar: TokenModel | None) -> np.ndarray:
    """
    Block of the embedding (component, *space) → finest token and novelty (2, *space).

    `familiar` are tokens of the training voxels alone, if the others were not fitted on these alone.
    """
    finest, distances = tokenizing.nearest(model.tree, embedding)
    if familiar is None:
        return np.stack([finest, strangeness(model, tokenizing.tokens_of(model, finest), distances)]).astype(np.float32)
    near, distances = tokenizing.nearest(familiar.tree, embedding)
    return np.stack([finest, strangeness(familiar, tokenizing.tokens_of(familiar, near), distances)]).astype(np.float32)


def strangeness(model: TokenModel, tokens: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Novelty to three digits, which compress well; never rounded up, so that what is left to 1 is a p-value still."""
    found = tokenizing.novelty(model, tokens, distances)
    return np.asarray(np.floor(1000 * found.astype(np.float64) + 1e-6) / 1000, dtype=np.float32)


def mean_of_data(values: np.ndarray, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """Mean over the voxels that carry data, NaN where none does; dask calls it without axes to see what type it returns."""
    valid = np.isfinite(values)
    counts = valid.sum(axis=axis)
    sums = np.where(valid, values, 0).sum(axis=axis, dtype=np.float64)
    return np.asarray(np.where(counts, sums / np.maximum(counts, 1), np.nan), dtype=values.dtype)


def write_pyramid(full: Sequence[da.Array], target: zarr.Group, names: Sequence[str], levels: Sequence[tuple[int, ...]]) -> None:
    """
    Write the full level, then each coarser one from the stored one before: means of images, every n-th label.

    Parameters
    ----------
    full
        Images (c, *space), of values as floats or of colours as bytes, and label images (*space).
    names
        Where each of them stands in the target: a path that the number of a level completes.
    """
    for level, shape in enumerate(levels):
        if level:
            factors = [round(fine / coarse) for fine, coarse in zip(levels[level - 1], shape, strict=True)]
            finer = [da.from_zarr(stores.get_array(target, f"{name}{level - 1}")) for name in names]
            full = [coarser(part, shape, factors) for part in finer]
        fill(full, [stores.get_array(target, f"{name}{level}") for name in names])


def coarser(fine: da.Array, shape: Sequence[int], factors: Sequence[int]) -> da.Array:
    """An image or a label image with voxels that are so many times as large along each axis."""
    if fine.ndim == len(shape):
        labels: da.Array = fine[tuple(slice(None, size * factor, factor) for size, factor in zip(shape, factors, strict=True))]
        return labels
    mean = mean_of_data if fine.dtype.kind == "f" else mean_colour
    means: da.Array = da.coarsen(mean, fine, {axis + 1: factor for axis, factor in enumerate(factors)}, trim_excess=True)
    return means
