"""The ensemble's held-out quantiles beside the truth, read piece by piece: no stage holds a whole field of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float32, Int64, UInt8

from behindthenoise.core.calibration.units import Box, box_around
from behindthenoise.core.scale import Scale
from behindthenoise.errors import StoreError
from behindthenoise.io import stores
from behindthenoise.io.geometry import Axes
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run import shares
from behindthenoise.run.shares import Share


@dataclass(frozen=True, eq=False)
class Piece:
    """
    Voxels of one role in one block of one scan.

    Attributes
    ----------
    image, scan
        Which field.
    position
        Where the voxels lie in the field.
    quantiles
        Lower, median and upper of every channel, in units of the clean image.
    spread
        Standard deviation of the members' medians.
    noisy
        The fast scan, on the clean image's scale.
    truth
        The slow scan.
    token
        Token of each voxel.
    difference
        What two halves of the slow scans differ by, with noise like that of their mean; None where there is one scan.
    """

    image: int
    scan: int
    position: Int64[np.ndarray, " axis n"]
    quantiles: Float32[np.ndarray, " 3 c n"]
    spread: Float32[np.ndarray, " c n"]
    noisy: Float32[np.ndarray, " c n"]
    truth: Float32[np.ndarray, " c n"]
    token: UInt8[np.ndarray, " n"]
    difference: Float32[np.ndarray, " c n"] | None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """
    Everything about held-out voxels that is on disk.

    Attributes
    ----------
    difference
        What two halves of the slow scans differ by, with noise like that of their mean; None where there is one.
    gap
        Voxels between two roles of one image.
    tiling_difference
        Largest difference, in standard units, between predictions in tiles of two sizes.
    """

    role: zarr.Array[Any]
    noisy: zarr.Array[Any]
    clean: zarr.Array[Any]
    quantiles: zarr.Array[Any]
    spread: zarr.Array[Any]
    tokens: zarr.Array[Any]
    difference: zarr.Array[Any] | None
    scale: Scale
    axes: Axes
    gap: int
    tiling_difference: float

    @classmethod
    def open(cls, pairs: Path, ensemble: Path, tokens: Path) -> "HeldOut":
        """
        The stores of the pairs, of the averaged quantiles and of the tokens.

        Raises
        ------
        StoreError
            If one is absent or incomplete, or files of it are lost.
        """
        fields, averaged = stores.open_group(pairs), stores.open_group(ensemble)
        difference = averaged.attrs.asdict().get("tiling_difference")
        if not isinstance(difference, float):
            raise StoreError(f"store {ensemble} was made by another version; delete its folder and run the workflow again")
        return cls(
            role=stores.whole_array(fields, "role"),
            noisy=stores.whole_array(fields, "noisy"),
            clean=stores.whole_array(fields, "clean"),
            quantiles=stores.whole_array(averaged, "quantiles"),
            spread=stores.whole_array(averaged, "spread"),
            tokens=stores.whole_array(stores.open_group(tokens), "tokens"),
            difference=stores.whole_array(fields, "clean_difference") if "clean_difference" in fields else None,
            scale=store_of_pairs.read_scale(pairs),
            axes=store_of_pairs.read_axes(pairs),
            gap=int(str(fields.attrs["gap"])),
            tiling_difference=difference,
        )

    def of_member(self, quantiles: zarr.Array[Any]) -> "HeldOut":
        """The same voxels with one member's quantiles in place of the ensemble's; spread and tokens stay the ensemble's."""
        return replace(self, quantiles=quantiles)

    @property
    def scans(self) -> int:
        """Fast scans of each field."""
        return int(self.noisy.shape[1])

    def voxels(self, role: int) -> int:
        """Number of voxels of one role, in all scans."""
        return self.scans * sum(int((np.asarray(self.role[image]) == role).sum()) for image in range(self.role.shape[0]))

    def boxes(self, role: int) -> list[Box | None]:
        """For every image, the box around its voxels of one role; None where it has none."""
        return [box_around(np.asarray(self.role[image]) == role) for image in range(self.role.shape[0])]

    def pieces(self, role: int, within: tuple[int, Box] | None = None, share: Share = shares.ALL) -> Iterator[Piece]:
        """
        All voxels of one role, one block of one scan after another; the scans of a block follow each other.

        Parameters
        ----------
        within
            One image and a box in it; None takes all.
        share
            Of the blocks that have such voxels, every N-th is read.
        """
        images = range(self.role.shape[0]) if within is None else [within[0]]
        found = 0
        for image in images:
            box = within[1] if within else tuple(slice(0, size) for size in self.role.shape[1:])
            for block in stores.blocks(self.role, (slice(image, image + 1), *box)):
                where = block[1:]
                chosen = np.asarray(self.role[block])[0] == role
                if not chosen.any():
                    continue
                found += 1
                if found % share.jobs == share.job:
                    yield from (self._piece(image, scan, where, chosen) for scan in range(self.scans))

    def _piece(self, image: int, scan: int, where: Box, chosen: np.ndarray) -> Piece:
        starts, every = np.array([part.start for part in where]), slice(None)

        def read(array: zarr.Array[Any], *lead: int | slice) -> np.ndarray:
            index: tuple[int | slice, ...] = (*lead, *where)
            return np.asarray(array[index])

        noisy = self.scale.match_noisy(read(self.noisy, image, scan, every), axis=0)
        return Piece(
            image,
            scan,
            np.stack(np.nonzero(chosen)) + starts[:, None],
            read(self.quantiles, image, scan, every, every)[..., chosen],
            read(self.spread, image, scan, every)[:, chosen],
            noisy[:, chosen].astype(np.float32),
            read(self.clean, image, every)[:, chosen],
            read(self.tokens, image, scan)[chosen],
            None if self.difference is None else read(self.difference, image, every)[:, chosen],
        )
