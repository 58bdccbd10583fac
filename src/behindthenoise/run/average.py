"""Verb `average`: members' quantiles → the ensemble's, and how far the members differ."""

from pathlib import Path

import dask.array as da

from behindthenoise.config import SPACE_AXES
from behindthenoise.io import stores
from behindthenoise.io.datasets import fill
from behindthenoise.io.record import log, write_json
from behindthenoise.stages import Spec


def run(spec: Spec, *, members: list[Path], store: Path, manifest: Path) -> None:
    """Write the averaged quantiles and the spread of the members' medians, block by block."""
    groups = [stores.open_group(path) for path in members]
    arrays = [stores.whole_array(group, "quantiles") for group in groups]
    differences = [float(str(group.attrs["tiling_difference"])) for group in groups]
    facts = {"levels": ["lower", "median", "upper"], "members": len(arrays), "tiling_difference": max(differences)}
    group = stores.create_group(store, facts)
    dims = ["image", "scan", "quantile", "channel", *SPACE_AXES[-(arrays[0].ndim - 4) :]]
    mean = stores.create_array(group, "quantiles", arrays[0].shape, dtype="float32", chunks=arrays[0].chunks, dims=dims)
    stacked = da.stack([da.from_zarr(array) for array in arrays])
    # the median is level 1 of the axis `quantile`
    shape = (*arrays[0].shape[:2], *arrays[0].shape[3:])
    chunks = (*arrays[0].chunks[:2], *arrays[0].chunks[3:])
    spread = stores.create_array(group, "spread", shape, dtype="float32", chunks=chunks, dims=[*dims[:2], *dims[3:]])
    fill([stacked.mean(axis=0), stacked[:, :, :, 1].std(axis=0)], [mean, spread])
    log(f"average: {len(arrays)} members")
    write_json(manifest, {"stage": "average", "quantiles": stores.digest(mean), "spread": stores.digest(spread)})
