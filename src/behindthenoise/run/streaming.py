"""Training patches read from the store of the pairs when they are drawn, for fields that do not fit into memory."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Bool, Int
from torch import Tensor

from behindthenoise.config import TrainingConfig
from behindthenoise.core import windows
from behindthenoise.core.patches import Batch
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN
from behindthenoise.io import stores
from behindthenoise.run.pairs import read_scale

ARRAYS = ("noisy", "clean", "mask", "role", "unit")


@dataclass(frozen=True)
class Place:
    """One window of one image."""

    image: int
    index: tuple[int, ...]
    region: tuple[slice, ...]


@dataclass(frozen=True)
class Streamed:
    """
    The examples that `patches.cut` would hold, in the same order and with the same values, each read when it is drawn.

    Attributes
    ----------
    arrays
        Noisy and clean fields, mask, role and unit on disk.
    grids, border, border_weight
        Windows along each axis, and the weight of their frame.
    places
        Windows in which at least one voxel counts.
    units
        Units that count.
    """

    arrays: dict[str, zarr.Array[Any]]
    scale: Scale
    grids: list[windows.Grid]
    border: int
    border_weight: float
    places: list[Place]
    units: Int[np.ndarray, " unit"]
    device: torch.device
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), repr=False)
    coming: dict[bytes, Future[Batch]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """How many examples there are: every scan of every window."""
        return len(self.places) * int(self.arrays["noisy"].shape[1])

    def prepare(self, chosen: Int[np.ndarray, " b"]) -> None:
        """Begin to read examples in the background."""
        self.coming.clear()
        self.coming[chosen.tobytes()] = self.reader.submit(self._read, chosen)

    def batch(self, chosen: Int[np.ndarray, " b"]) -> Batch:
        """Examples with these indices."""
        prepared = self.coming.pop(chosen.tobytes(), None)
        read = self._read(chosen) if prepared is None else prepared.result()
        return Batch(*(tensor.to(self.device) for tensor in (read.noisy, read.clean, read.weight)))

    def _read(self, chosen: Int[np.ndarray, " b"]) -> Batch:
        """Read, standardise and weigh examples."""
        examples = [self._read_one(*divmod(int(index), int(self.arrays["noisy"].shape[1]))) for index in chosen]
        noisy, clean, weight = (torch.stack(parts) for parts in zip(*examples, strict=True))
        return Batch(noisy, clean, weight)

    def _read_one(self, place: int, scan: int) -> tuple[Tensor, Tensor, Tensor]:
        at = self.places[place]
        lead: tuple[int | slice, ...] = (at.image, *at.region)
        role = np.asarray(self.arrays["role"][lead])
        visible = np.asarray(self.arrays["mask"][lead]).astype(bool) & (role != CALIBRATION) & (role != TEST)
        counts = (role == TRAIN) & np.isin(np.asarray(self.arrays["unit"][lead]), self.units)
        in_noisy: tuple[int | slice, ...] = (at.image, scan, slice(None), *at.region)
        in_clean: tuple[int | slice, ...] = (at.image, slice(None), *at.region)
        noisy, clean = np.asarray(self.arrays["noisy"][in_noisy]), np.asarray(self.arrays["clean"][in_clean])
        return (
            torch.from_numpy(self.scale.standardise_noisy(noisy, visible, axis=0)),
            torch.from_numpy(np.nan_to_num(self.scale.standardise_clean(clean, axis=0))),
            torch.from_numpy((counts * windows.frame(self.grids, self.border, self.border_weight, at.index))[None]),
        )


def stream(store: Path, units: Int[np.ndarray, " unit"], config: TrainingConfig, radius: int, device: torch.device) -> Streamed:
    """
    All patches in which a voxel of these training units counts; one pass over roles and units finds them.

    Parameters
    ----------
    units
        Training units that count.
    """
    group = stores.open_group(store)
    arrays = {name: stores.whole_array(group, name) for name in ARRAYS}
    images, *shape = arrays["role"].shape
    grids, border = windows.lay_out(shape, config.patch, radius)
    kept = []
    for image in range(images):
        # windows that differ along the last axis alone are read as one, or each chunk would be read for every window in it
        for lead, row in groupby(windows.places(grids), key=lambda place: place[1][:-1]):
            line = training_voxels(arrays, units, (image, *lead, slice(None)))
            for index, region in row:
                counts = line[..., region[-1]]
                if counts.any() and float((counts * windows.frame(grids, border, config.border_weight, index)).sum()) > 0:
                    kept.append(Place(image, index, region))
    return Streamed(arrays, read_scale(store), grids, border, config.border_weight, kept, units, device)


def training_voxels(
    arrays: dict[str, zarr.Array[Any]], units: Int[np.ndarray, " unit"], region: tuple[int | slice, ...]
) -> Bool[np.ndarray, " *window"]:
    """Voxels of a region that train and belong to these units."""
    trains: Bool[np.ndarray, " *window"] = np.asarray(arrays["role"][region]) == TRAIN
    return trains & np.isin(np.asarray(arrays["unit"][region]), units) if trains.any() else trains


def training_images(store: Path) -> int:
    """Number of images with voxels that train; read chunk by chunk."""
    role = stores.whole_array(stores.open_group(store), "role")
    found: set[int] = set()
    for region in stores.blocks(role):
        trains = (np.asarray(role[region]) == TRAIN).reshape(region[0].stop - region[0].start, -1).any(axis=1)
        found |= set((region[0].start + np.flatnonzero(trains)).tolist())
    return len(found)


def training_units(store: Path) -> Int[np.ndarray, " unit"]:
    """Ids of the units that train, rising; read chunk by chunk."""
    group = stores.open_group(store)
    role, unit = stores.whole_array(group, "role"), stores.whole_array(group, "unit")
    found: set[int] = set()
    for region in stores.blocks(role):
        found |= set(np.unique(np.asarray(unit[region])[np.asarray(role[region]) == TRAIN]).tolist())
    return np.array(sorted(found))
