"""Verb `ingest`: sources or generator → `pairs.zarr`, split and scaled."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from behindthenoise.config import SPACE_AXES, PairsConfig, SplitConfig, SyntheticConfig
from behindthenoise.core import split as splitting
from behindthenoise.core import synthetic
from behindthenoise.core.metrics.agreement import match_intensity, pearson, spearman
from behindthenoise.core.scale import Scale
from behindthenoise.errors import SourceError
from behindthenoise.io.canonical import canonical, expect_equal_channels, expect_equal_sizes, read_mask, reading
from behindthenoise.io.datasets import write_dataset
from behindthenoise.io.geometry import UNNAMED, Axes, named_channels, told_by
from behindthenoise.io.record import log, write_json
from behindthenoise.io.stores import metadata_digest
from behindthenoise.run.displaced import displaced
from behindthenoise.run.pairs import Loaded, Pairs
from behindthenoise.stages import Spec

COMPARED, FEWEST_COMPARED = 100_000, 100  # voxels by which is judged whether scans show the same fields
SAME = 1 - 1e-6  # correlation of scans that differ by rounding alone
LEVELS = 16  # steps of float32 in a standard deviation, at least
DISPLACEMENTS = 19  # so that scans of different fields pass in one case of 20 a channel


@dataclass(frozen=True)
class Fields:
    """Fast and slow scans of the same fields, not split yet; `told` is by their sources, of their voxels."""

    noisy: Float[np.ndarray, " image scan c *space"]
    clean: Float[np.ndarray, " image c *space"]
    mask: Bool[np.ndarray, " image *space"]
    axes: Axes
    extra: Mapping[str, xr.Variable]
    told: Mapping[str, Any]


def run(spec: Spec, *, store: Path, manifest: Path) -> None:
    """Write the store of the pairs and its manifest."""
    generated = spec.find("synthetic", SyntheticConfig)
    fields = read(spec.part("pairs", PairsConfig)) if generated is None else generate(generated)
    noisy, clean, axes = fields.noisy, fields.clean, fields.axes
    splitting_config = spec.get("split", SplitConfig)
    gap = splitting.gap_of(splitting_config, spec.get("network.radius_max", int))
    split = splitting.split(splitting_config, fields.mask, gap)
    splitting.check_no_leak(split, gap)
    trains = split.role == splitting.TRAIN
    found: list[str] = []
    for told in fields.told.values():
        if UNNAMED in told:
            log(f"warning: {told['origin']} does not name each channel: taken for {', '.join(axes.channels)}, in this order")
    if generated is None:
        scans = spec.part("pairs", PairsConfig).scans or range(noisy.shape[1])
        expect_related(noisy, clean, trains, axes.channels, scans)
        found = displaced(noisy, clean, trains, axes.space)
        log(f"warning: displaced: {'; '.join(found)}" if found else "ingest: no displacement of half a voxel or more was found")
    pairs = Pairs(noisy, clean, fields.mask, split, measure_scale(noisy, clean, trains), axes, gap, fields.told, found)
    digests = write_pairs(store, pairs, fields.extra)
    counts = {name: int((split.role == value).sum()) for name, value in splitting.ROLES.items()}
    units = {name: len(splitting.units_of(split, value)) for name, value in splitting.ROLES.items()}
    log(f"ingest: {noisy.shape[0]} fields of {pairs.shape} voxels, {noisy.shape[1]} scans, channels {' '.join(axes.channels)}")
    log(f"ingest: voxels {counts}, units {units}, {gap} voxels between roles")
    write_json(
        manifest,
        {
            "stage": "ingest",
            "digests": digests,
            "metadata": metadata_digest(store),
            "shape": list(pairs.shape),
            "images": noisy.shape[0],
            "scans": noisy.shape[1],
            "space": list(axes.space),
            "channels": list(axes.channels),
            "voxels": counts,
            "units": units,
            "value_unit": axes.value_unit,
            "clean_range": [[float(np.nanmin(clean[:, c])), float(np.nanmax(clean[:, c]))] for c in range(clean.shape[1])],
            "scale": asdict(pairs.scale),
            "gap": gap,
        },
    )


def generate(config: SyntheticConfig) -> Fields:
    """Generated fields, all of whose voxels carry data, and the known phases."""
    scenes = [synthetic.scene(config, config.shape, index) for index in range(config.images)]
    labels, axes = np.stack([scene.labels for scene in scenes]), generated_axes(config)
    return Fields(
        noisy=np.stack([scene.noisy for scene in scenes]),
        clean=np.stack([scene.clean for scene in scenes]),
        mask=np.ones(labels.shape, bool),
        axes=axes,
        extra={"labels": xr.Variable(("image", *axes.space), labels, {"meaning": "known phase"})},
        told={},
    )


def generated_axes(config: SyntheticConfig) -> Axes:
    """Axes and channels of generated fields."""
    return Axes(SPACE_AXES[-len(config.shape) :], tuple(f"channel {index}" for index in range(config.channels)), "level")


def read(config: PairsConfig) -> Fields:
    """
    Measured fields in canonical order, cropped and selected, with NaN under the mask; and how repeated slow scans differ.

    Raises
    ------
    SourceError
        If the arrays do not fit together or hold values that nobody masked.
    """
    noisy, slow, lazy_mask, axes = opened(config)
    clean, extra = averaged(slow)
    with reading(noisy.attrs["origin"], clean.attrs["origin"]):
        noisy, clean = noisy.compute(), clean.compute()
        expect_resolved(noisy, "noisy")
        expect_resolved(slow.isel(scan=0) if slow.sizes["scan"] > 1 else clean, "clean")
    values = {"noisy": noisy.to_numpy().astype(np.float32), "clean": clean.to_numpy().astype(np.float32)}
    mask = read_mask_of(config, lazy_mask, (*clean.shape[:1], *clean.shape[2:]))
    for name, origin in (("noisy", noisy.attrs["origin"]), ("clean", clean.attrs["origin"])):
        expect_finite(values[name], mask, f"{name} {origin}", masked=config.mask is not None)
    return Fields(values["noisy"], values["clean"], mask, axes, extra, told_by_both(noisy, slow))


def opened(config: PairsConfig) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray | None, Axes]:
    """
    Fast scans, slow scans, mask (None: all) and axes, lazily: nothing but metadata is read, and they fit together.

    Raises
    ------
    SourceError
        If they do not.
    """
    noisy = canonical(config.noisy, config, ("image", "scan", "channel"))
    slow = canonical(config.clean, config, ("image", "scan", "channel"))
    if config.scans is not None:
        if max(config.scans) >= noisy.sizes["scan"]:
            raise SourceError(f"scan {max(config.scans)} does not exist in {noisy.attrs['origin']}; it has {noisy.sizes['scan']}")
        noisy = noisy.isel(scan=list(config.scans))
    space = tuple(str(name) for name in slow.dims[3:])
    expect_equal_sizes(noisy, slow, ("image", "channel", *space))
    expect_equal_channels(noisy, slow)
    sizes = {name: slow.sizes[name] for name in ("image", *space)}
    mask = None if config.mask is None else read_mask(config.mask, config.crop, sizes)
    named = [tuple(str(name) for name in array.coords["channel"].to_numpy()) for array in (slow, noisy)]
    unnamed = [all(name.isdecimal() for name in row) for row in named]
    names = next((row for row, none in zip(named, unnamed, strict=True) if not none), named[0])
    for array, none in zip((slow, noisy), unnamed, strict=True):
        if none and not all(unnamed) and len(names) > 1:
            array.attrs[UNNAMED] = True
    return noisy, slow, mask, Axes(space, names, config.value_unit)


def read_mask_of(config: PairsConfig, mask: xr.DataArray | None, shape: tuple[int, ...]) -> Bool[np.ndarray, " image *space"]:
    """Where the pairs carry data: everywhere, unless there is a mask."""
    if config.mask is None or mask is None:
        return np.ones(shape, bool)
    with reading(config.mask.path):
        return mask.to_numpy().copy()


def told_by_both(noisy: xr.DataArray, slow: xr.DataArray) -> dict[str, dict[str, Any]]:
    """What the sources of fast and slow scans tell of their voxels."""
    return {"noisy": told_by(noisy.attrs), "clean": told_by(slow.attrs)}


def write_pairs(path: Path, pairs: Loaded, extra: Mapping[str, xr.Variable]) -> dict[str, str]:
    """Store the pairs and anything that belongs with them; returns the digest of each variable."""
    space = pairs.axes.space
    variables: dict[str, Any] = {
        "noisy": (("image", "scan", "channel", *space), pairs.noisy),
        "clean": (("image", "channel", *space), pairs.clean, {"units": pairs.axes.value_unit}),
        "mask": (("image", *space), pairs.mask),
        "role": (("image", *space), pairs.split.role, {"meaning": "0 unused, 1 train, 2 calibration, 3 test"}),
        "unit": (("image", *space), pairs.split.unit, {"meaning": "block or image that the voxel belongs to; -1 none"}),
        **extra,
    }
    dataset = xr.Dataset(variables, named_channels(pairs.axes), attributes(pairs))
    return write_dataset(path, dataset, space)


def attributes(pairs: Loaded) -> dict[str, Any]:
    """What does not fit into an array."""
    return {
        "scale": asdict(pairs.scale),
        "axes": pairs.axes.as_data(),
        "told": dict(pairs.told),
        "gap": pairs.gap,
        "displaced": list(pairs.displaced),
    }


def averaged(slow: xr.DataArray) -> tuple[xr.DataArray, dict[str, xr.Variable]]:
    """
    The mean of the slow scans, and what two halves of them differ by, scaled; of a single scan, itself and nothing.

    The noise of the scaled difference has the variance of the mean's noise, and is uncorrelated with it.
    """
    if slow.sizes["scan"] == 1:
        return slow.isel(scan=0, drop=True), {}
    with reading(slow.attrs["origin"]):
        count = slow.sizes["scan"]
        halves = [slow.isel(scan=slice(start, None, 2)).astype(np.float32).mean("scan", skipna=False) for start in (0, 1)]
        first, second = np.array([(count + 1) // 2, count // 2], np.float32) / count
        clean = first * halves[0] + second * halves[1]
        difference = np.sqrt(first * second) * (halves[0] - halves[1])
        clean.attrs.update(slow.attrs)
        return clean, {"clean_difference": difference.variable.load()}


def expect_finite(values: Float[np.ndarray, " *lead"], mask: Bool[np.ndarray, " image *space"], what: str, *, masked: bool) -> None:
    """
    Nothing, if every voxel under the mask is a number; voxels outside become NaN in place.

    Raises
    ------
    SourceError
        Says how many are not, and what to do.
    """
    shape = (mask.shape[0], *(1,) * (values.ndim - mask.ndim), *mask.shape[1:])
    inside = np.broadcast_to(mask.reshape(shape), values.shape)
    bad = int((~np.isfinite(values) & inside).sum())
    if bad:
        cure = "exclude them by the mask, which is true where there are data" if masked else "give pairs.mask, or fill them"
        where = "under the mask" if masked else "and no mask is given"
        raise SourceError(f"{what} has {bad} voxels that are NaN or infinite {where}; {cure}")
    values[~inside] = np.nan


def expect_related(
    noisy: Float[np.ndarray, " image scan c *space"],
    clean: Float[np.ndarray, " image c *space"],
    trains: Bool[np.ndarray, " image *space"],
    channels: tuple[str, ...],
    scans: Sequence[int],
) -> None:
    """
    Nothing, if fast and slow scans may show the same fields, as far as training voxels tell.

    They do not if it changes nothing to displace one of them: if there is no channel in which they correlate better as they are.

    Raises
    ------
    SourceError
        If they show different fields, or a channel of the slow scan is constant.
    """
    random = np.random.default_rng(0)
    voxels = np.flatnonzero(trains)
    voxels = random.choice(voxels, min(COMPARED, voxels.size), replace=False)
    chosen = np.stack(np.unravel_index(voxels, trains.shape), axis=1)
    fast, slow = (values_at(array, chosen) for array in (noisy.mean(axis=1), clean))
    for name, values in zip(channels, slow, strict=True):
        if np.ptp(values) == 0:
            raise SourceError(
                f"channel {name!r} of pairs.clean is {values[0]:g} in all training voxels looked at, so that nothing can be "
                "learned of it; leave it out by pairs.channels, or choose other training voxels"
            )
    expect_noise(noisy, scans, slow, chosen)
    shape, best = np.array(trains.shape), np.full(len(channels), -np.inf)
    for _ in range(DISPLACEMENTS):
        there = (chosen + random.integers(shape // 4, shape - shape // 4)) % shape
        known = trains[tuple(there.T)]
        if known.sum() >= FEWEST_COMPARED:
            best = np.fmax(best, [*map(pearson, fast[:, known], values_at(clean, there[known]))])
    found = np.array([*map(pearson, fast, slow)])
    if np.isfinite(best).all() and not (found > best).any():
        told = ", ".join(f"{name} {value:.2f}" for name, value in zip(channels, found, strict=True))
        raise SourceError(
            f"pairs.noisy and pairs.clean do not seem to show the same fields: their correlation over training voxels ({told}) is "
            "no better than with one of them displaced at random; look at the order of axes, images, slices, and at orientation"
        )


def expect_noise(
    noisy: Float[np.ndarray, " image scan c *space"],
    scans: Sequence[int],
    slow: Float[np.ndarray, " c n"],
    places: Int[np.ndarray, " n axis"],
) -> None:
    """
    Nothing, if no fast scan is the slow one, but for a factor and an offset, and not all channels of the fast scans are constant.

    Parameters
    ----------
    scans
        Their numbers in the source.
    slow
        The slow scan at `places` (image, *space).

    Raises
    ------
    SourceError
        Names the scan.
    """
    constant = True
    for index, scan in enumerate(scans):
        fast = values_at(noisy[:, index], places)
        # ranks as well: where few voxels are far brighter than all others, values correlate whatever the noise
        found = np.array([[*map(alike, fast, slow)] for alike in (pearson, spearman)])
        if np.isfinite(found).any() and np.nanmin(found) > SAME:
            raise SourceError(
                f"scan {scan} of pairs.noisy (the first is 0) is pairs.clean itself, from which no noise can be learned; look at "
                "the pattern of pairs.noisy.path, or leave the scan out by pairs.scans"
            )
        constant &= not np.ptp(fast, axis=1).any()
    if constant:
        raise SourceError("pairs.noisy is constant in all training voxels looked at, so that nothing can be learned from it")


def expect_resolved(scans: xr.DataArray, what: str) -> None:
    """
    Nothing, if float32, in which all is computed, tells the values of each channel apart.

    Raises
    ------
    SourceError
        If they lie so far from zero that they are rounded to a few levels.
    """
    if scans.dtype.itemsize < 4 or scans.dtype == np.float32:
        return
    for channel in scans.transpose("channel", ...).to_numpy():
        known = channel[np.isfinite(channel)]
        if not known.size or known.min() == known.max():
            continue
        step = np.spacing(np.float32(np.abs(known).max()))
        if (width := known.std(dtype=np.float64)) < LEVELS * step:
            raise SourceError(
                f"{what} {scans.attrs['origin']} lies around {known.mean(dtype=np.float64):g} with a standard deviation of "
                f"{width:g}, and numbers of this size are told apart by {step:g} (float32): subtract an offset from it"
            )


def values_at(array: Float[np.ndarray, " image c *space"], places: Int[np.ndarray, " n axis"]) -> Float[np.ndarray, " c n"]:
    """Values of all channels at places (image, *space)."""
    return np.asarray(array[(places[:, 0], slice(None), *places.T[1:])].T)


def measure_scale(
    noisy: Float[np.ndarray, " image scan c *space"],
    clean: Float[np.ndarray, " image c *space"],
    trains: Bool[np.ndarray, " image *space"],
) -> Scale:
    """Constants of the scale, from training voxels only."""
    fields = [
        (noisy[:, :, channel][np.broadcast_to(trains[:, None], noisy[:, :, channel].shape)], clean[:, channel][trains])
        for channel in range(clean.shape[1])
    ]
    repeated = [np.broadcast_to(clean[:, None, channel], noisy[:, :, channel].shape) for channel in range(clean.shape[1])]
    every = np.broadcast_to(trains[:, None], noisy[:, :, 0].shape)
    matches = [match_intensity(fields[channel][0], repeated[channel][every]) for channel in range(clean.shape[1])]
    return Scale(
        noisy_shift=tuple(float(values.mean()) for values, _ in fields),
        noisy_scale=tuple(spread(values) for values, _ in fields),
        clean_shift=tuple(float(values.mean()) for _, values in fields),
        clean_scale=tuple(spread(values) for _, values in fields),
        gain=tuple(gain for gain, _ in matches),
        offset=tuple(offset for _, offset in matches),
    )


def spread(values: Float[np.ndarray, " n"]) -> float:
    """Standard deviation; 1 for a channel that is constant, which has no scale of its own."""
    return float(values.std(dtype=np.float64)) or 1.0
