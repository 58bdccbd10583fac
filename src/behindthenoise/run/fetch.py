"""Verb `fetch`: a source, the generator or the training field → the input store of one volume."""

from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from behindthenoise.config import PairsConfig, Selection, SyntheticConfig, VolumeConfig
from behindthenoise.core import synthetic
from behindthenoise.core.split import shown_image
from behindthenoise.errors import SourceError
from behindthenoise.io import stores, volumes
from behindthenoise.io.canonical import canonical, read_mask, reading
from behindthenoise.io.datasets import write_input
from behindthenoise.io.geometry import UNNAMED, Axes, told_by
from behindthenoise.io.record import log, write_json
from behindthenoise.io.volumes import Volume
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.pairs import Stored
from behindthenoise.stages import VOLUME, Spec

FIELD_INDEX = 1_000_000  # generated volumes are numbered far beyond any generated pair, so that none is a training field


def run(spec: Spec, *, pairs: Path, store: Path, manifest: Path, name: str) -> None:
    """Write the volume's input store and its manifest."""
    axes = store_of_pairs.read_axes(pairs)
    config = spec.find_part(VOLUME, VolumeConfig)
    if config is None:
        noisy, mask = first_field(store_of_pairs.opened(pairs))
    elif config.synthetic is not None:
        noisy, mask = generate(spec.get("synthetic", SyntheticConfig), config.synthetic, axes)
    else:
        noisy, mask = read(config, spec.find_part("pairs", PairsConfig), axes)
    with reading(*origins(config, noisy, name)):
        digests = write_input(store, noisy, mask, axes, told_by(noisy.attrs))
    # of the copy, because a source may be slow or far away, and is read once
    require_data(volumes.open_input(store), name, masked=config is None or config.mask is not None)
    log(f"fetch: volume {name}: {dict(noisy.sizes)}")
    if UNNAMED in noisy.attrs:
        log(f"warning: {noisy.attrs['origin']} does not name each channel: taken for {', '.join(axes.channels)}, in this order")
    write_json(
        manifest,
        {
            "stage": "fetch",
            "volume": name,
            "shape": list(mask.shape),
            "digests": digests,
            "metadata": stores.metadata_digest(store),
        },
    )


def first_field(pairs: Stored) -> tuple[xr.DataArray, xr.DataArray]:
    """The first scan of the field that the pairs hold; of several images, one that tests."""
    space, image = pairs.axes.space, shown_image(pairs.split)
    noisy = xr.DataArray(np.asarray(pairs.noisy[image, 0]), dims=("channel", *space))
    return noisy.chunk(), xr.DataArray(pairs.mask[image], dims=space).chunk()


def generate(config: SyntheticConfig, shape: tuple[int, ...], axes: Axes) -> tuple[xr.DataArray, xr.DataArray]:
    """A generated field of another shape, of the same materials."""
    scene = synthetic.scene(config, shape, FIELD_INDEX)
    noisy = xr.DataArray(scene.noisy[0], dims=("channel", *axes.space))
    return noisy.chunk(), xr.DataArray(np.ones(shape, bool), dims=axes.space).chunk()


def read(config: VolumeConfig, like: PairsConfig | None, axes: Axes) -> tuple[xr.DataArray, xr.DataArray]:
    """
    A measured volume, lazily, with the channels of the training pairs; of generated pairs (None), in the order of the file.

    Raises
    ------
    SourceError
        If its axes, channels or mask do not fit.
    """
    assert config.noisy is not None
    channels = config.channels or (like.channels if like else None)
    noisy = canonical(config.noisy, Selection(channels=channels, crop=config.crop), ("scan", "channel"))
    names = [str(name) for name in noisy.coords["channel"].to_numpy()]
    named = not any(all(name.isdecimal() for name in row) for row in (names, axes.channels))
    if like is not None and not config.channels and named and len(axes.channels) > 1:
        # they may stand in another order than in the pairs
        noisy = canonical(config.noisy, Selection(channels=axes.channels, crop=config.crop), ("scan", "channel"))
    if like is not None and not named and len(axes.channels) > 1 and not all(name.isdecimal() for name in axes.channels):
        noisy.attrs[UNNAMED] = True
    if "z" not in axes.space and noisy.sizes.get("z") == 1:
        noisy = noisy.isel(z=0, drop=True)
    origin = noisy.attrs["origin"]
    space = tuple(str(name) for name in noisy.dims[2:])
    if space != axes.space or noisy.sizes["channel"] != len(axes.channels):
        raise SourceError(
            f"volume {origin} has {noisy.sizes['channel']} channels along {' '.join(space)}; the training pairs have "
            f"{len(axes.channels)} along {' '.join(axes.space)}; choose channels and axes to match"
        )
    if config.scan >= noisy.sizes["scan"]:
        raise SourceError(f"scan {config.scan} does not exist in {origin}; it has {noisy.sizes['scan']}")
    noisy = noisy.isel(scan=config.scan)
    sizes = {axis: noisy.sizes[axis] for axis in space}
    if config.mask is None:
        return noisy, xr.DataArray(da.ones(list(sizes.values()), dtype=bool), dims=space)
    return noisy, read_mask(config.mask, config.crop, sizes)


def origins(config: VolumeConfig | None, noisy: xr.DataArray, name: str) -> list[str]:
    """Where the values come from, for messages."""
    masks = [config.mask.path] if config is not None and config.mask is not None else []
    return [str(noisy.attrs.get("origin", name)), *masks]


def require_data(volume: Volume, name: str, *, masked: bool) -> None:
    """
    Nothing, if the mask holds data and every voxel under it is a number; read block by block.

    Raises
    ------
    SourceError
        If the mask is empty, or a voxel under it is not finite.
    """
    mask = da.from_zarr(volume.mask)
    finite = da.isfinite(da.from_zarr(volume.noisy)).all(axis=0)
    kept, bad = da.compute(mask.sum(), (mask & ~finite).sum())
    if kept == 0:
        raise SourceError(f"the mask of volume {name!r} is empty; it must be true where there is data")
    if bad:
        cure = "exclude them by the mask" if masked else f"give volumes.{name}.mask, or fill them"
        raise SourceError(f"volume {name!r} has {bad} voxels that are NaN or infinite; {cure}")
