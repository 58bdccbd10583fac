"""Verb `label`: members' held-out latents, projection and tokens → the token of every held-out voxel."""

from pathlib import Path

import numpy as np

from behindthenoise.config import SPACE_AXES
from behindthenoise.core import tokens as tokenizing
from behindthenoise.core.embedding import embed, stored
from behindthenoise.io import stores
from behindthenoise.io.record import log, write_json
from behindthenoise.run import models, token_models
from behindthenoise.stages import Spec


def run(spec: Spec, *, members: list[Path], projection: Path, tokens: Path, store: Path, manifest: Path) -> None:
    """Write the tokens, block by block: 0 where a voxel neither calibrates nor tests."""
    mapping, model = models.read_projection(projection), token_models.read(tokens)
    latents = [stores.whole_array(stores.open_group(path), "latents") for path in members]
    shape, chunks = ((*sizes[:2], *sizes[3:]) for sizes in (latents[0].shape, latents[0].chunks))
    dims = ("image", "scan", *SPACE_AXES[-(latents[0].ndim - 3) :])
    target = stores.create_array(
        stores.create_group(store, {"tokens": model.count}), "tokens", shape, dtype="uint8", chunks=chunks, dims=dims
    )
    for block in stores.blocks(target):
        where = (*block[:2], slice(None), *block[2:])
        vectors = [np.moveaxis(np.asarray(array[where])[0, 0], 0, -1).reshape(-1, array.shape[2]) for array in latents]
        embedding = stored(embed(mapping, vectors)).T
        extent = [part.stop - part.start for part in block]
        target[block] = tokenizing.assign(model, np.ascontiguousarray(embedding)).reshape(extent)
    log(f"label: {model.count} tokens, {shape[0]} images of {shape[1]} scans")
    write_json(manifest, {"stage": "label", "tokens": stores.digest(target), "count": model.count})
