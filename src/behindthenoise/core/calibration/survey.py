"""How much the misses inside one field depend on each other, group by group, on a part of it that fits into memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int16

from behindthenoise.core.calibration.dependence import Lags, block_edge, equal_units

# Voxels that are looked at: 1024 x 1024, or about 100 x 100 x 100; fewer where they have many values (channels, sides, scans), but
# never fewer than 512 x 512, or 64 x 64 x 64.
LARGEST, VALUES, FEWEST = 1 << 20, 1 << 25, 1 << 18
# Edges of the blocks whose sums are compared: from this one on, doubled while so many fit.
SHORTEST, ENOUGH_BLOCKS = 16, 16
# Share of misses whose correlation decides how large a block is, whatever coverage is asked for.
BLOCK_MISS = 0.1
# Shares of misses at which dependence is measured; between two of them the stronger one counts.
MISSES = (0.5, 0.25, 0.1, 0.05, 0.025, 0.01)


@dataclass(frozen=True, eq=False)
class Part:
    """
    One channel and side of one field.

    Attributes
    ----------
    scores
        Scores of all scans; anything where `group` is -1.
    group
        Group of every voxel in every scan; -1 where it does not calibrate.
    """

    scores: Float32[np.ndarray, " scan *space"]
    group: Int16[np.ndarray, " scan *space"]


def room(fields: int, values: int) -> int:
    """Voxels that are looked at in each of so many fields, where each voxel has so many values that are held in memory."""
    return min(LARGEST, max(FEWEST, VALUES // values)) // fields


def middle(box: tuple[slice, ...], largest: int) -> tuple[slice, ...]:
    """The middle of a box, its longest axes cut down to one length so that at most `largest` voxels are left."""
    sizes = [part.stop - part.start for part in box]
    edge = max(sizes)
    while prod(min(size, edge) for size in sizes) > largest:
        edge -= 1
    kept = [min(size, edge) for size in sizes]
    starts = [part.start + (size - keep) // 2 for part, size, keep in zip(box, sizes, kept, strict=True)]
    return tuple(slice(start, start + keep) for start, keep in zip(starts, kept, strict=True))


def fullest(chosen: Bool[np.ndarray, " *space"], box: tuple[slice, ...], largest: int) -> tuple[slice, ...]:
    """
    The part of a box, as large as its `middle`, that holds most of what is chosen; the middle itself unless another holds more.

    Voxels of a role lie in blocks, and none of them need lie in the middle.
    """
    first = middle(box, largest)
    along = []
    for part, kept in zip(box, first, strict=True):
        size = kept.stop - kept.start
        # steps of half a size, so that together the parts leave nothing out
        starts = {*range(part.start, part.stop - size, max(1, size // 2)), part.stop - size}
        along.append([slice(start, start + size) for start in sorted(starts)])
    return max([first, *product(*along)], key=lambda part: int(np.count_nonzero(chosen[part])))


def blocks(sides: Iterable[Sequence[Part]], asked: int | Literal["auto"]) -> tuple[int, int]:
    """How far misses of any side are correlated, in voxels, and the edge of a block: the one asked for, or what follows from it."""
    radius = max((correlation_radius(side, BLOCK_MISS) for side in sides), default=0)
    return radius, block_edge(radius) if asked == "auto" else asked


def correlation_radius(parts: Sequence[Part], miss: float) -> int:
    """Distance in voxels over which misses are correlated, whatever their group."""
    return _lags(parts).range_of(_residuals(parts, [part.group >= 0 for part in parts], miss)).radius


@dataclass(frozen=True, eq=False)
class Dependence:
    """
    How strongly misses depend on each other, at the shares of misses `MISSES`; NaN where it was not measured.

    Attributes
    ----------
    effects
        Pixels for each independent one; at least 1.
    blocks
        Blocks of three correlation radii in the parts of the fields that were looked at (`LARGEST`): those that hold unequal parts
        of the voxels count as fewer equal ones.
    """

    effects: Float64[np.ndarray, " *what miss"]
    blocks: Float64[np.ndarray, " *what miss"]

    @classmethod
    def unknown(cls, *shape: int) -> "Dependence":
        """Not measured, for so many of what there is."""
        return cls(*np.full((2, *shape, len(MISSES)), np.nan))

    def __getitem__(self, index: int | tuple[int | slice, ...]) -> "Dependence":
        """That of a part."""
        return Dependence(self.effects[index], self.blocks[index])

    @property
    def is_known(self) -> bool:
        """Whether any of it was measured."""
        return bool(np.isfinite(self.effects).any())

    def at(self, miss: float) -> tuple[float, float]:
        """
        Effect and blocks of one group at any share of misses: the stronger effect and the fewer blocks around it.

        Outside the measured shares, and where nothing was measured, the nearest that was; NaN where there is none.
        """
        return max(_around(self.effects, miss), default=np.nan), min(_around(self.blocks, miss), default=np.nan)


def stacked(parts: Sequence[Dependence]) -> Dependence:
    """Several of one shape, along a new first axis."""
    return Dependence(np.stack([part.effects for part in parts]), np.stack([part.blocks for part in parts]))


def measure(parts: Sequence[Part], groups: int) -> Dependence:
    """
    Dependence of misses by group, along the first axis; NaN for a group that does not occur.

    A scan of a voxel that is missed counts 1 less the share of misses, one that is covered 0 less that share, and one of
    another group nothing; scans of one voxel are added up first, because they share its clean value. How much the sum of such a
    map varies is estimated in two ways, and the larger counts: by its integral range, which sees correlation near by, and by
    the sums of blocks, which see weak correlation over long distances, too. Independent pixels would vary by miss (1 - miss)
    each.
    """
    found, lags = Dependence.unknown(groups), _lags(parts)
    for group in range(groups):
        chosen = [part.group == group for part in parts]
        count = sum(int(where.sum()) for where in chosen)
        for index, miss in enumerate(MISSES):
            if count * miss >= 1:
                residuals = _residuals(parts, chosen, miss)
                spread = lags.range_of(residuals)
                variance = max(lags.voxels * spread.variance * spread.range_voxels, variance_by_blocks(residuals))
                found.effects[group, index] = max(variance / (miss * (1 - miss) * count), 1.0)
                held = [_block_sums(where.sum(axis=0), block_edge(spread.radius)).ravel() for where in chosen]
                found.blocks[group, index] = equal_units(np.concatenate(held))
    return found


def _around(measured: Float[np.ndarray, " miss"], miss: float) -> list[float]:
    """What was measured at the next larger and the next smaller share of misses, as far as there is one."""
    known = np.flatnonzero(~np.isnan(measured))
    shares = np.array(MISSES)[known]
    around = [shares[shares >= miss].min(initial=np.inf), shares[shares <= miss].max(initial=-np.inf)]
    return [float(measured[known][shares == share][0]) for share in around if np.isfinite(share)]


def union_effect(effects: Sequence[float], pixels: Sequence[int]) -> float:
    """
    Upper bound of the effect of several groups taken together, however their misses depend on each other.

    The standard deviation of a sum is at most the sum of the standard deviations (Minkowski).
    """
    deviation = sum(np.sqrt(effect * count) for effect, count in zip(effects, pixels, strict=True))
    return float(deviation**2 / sum(pixels))


def _residuals(parts: Sequence[Part], chosen: Sequence[Bool[np.ndarray, " scan *space"]], miss: float) -> list[np.ndarray]:
    """For every part, misses beyond the mean share, added up over the scans of a voxel."""
    pooled = np.concatenate([part.scores[where] for part, where in zip(parts, chosen, strict=True)])
    threshold = np.quantile(pooled, 1 - miss, method="inverted_cdf")
    # where many scores are equal, as those of empty pixels are, fewer than the expected share are missed
    share = float((pooled > threshold).mean())
    return [
        ((part.scores > threshold) & where).sum(axis=0) - share * where.sum(axis=0)
        for part, where in zip(parts, chosen, strict=True)
    ]


def _lags(parts: Sequence[Part]) -> Lags:
    """Lags between the voxels that calibrate."""
    return Lags([np.asarray((part.group >= 0).any(axis=0)) for part in parts])


def variance_by_blocks(residuals: Sequence[np.ndarray]) -> float:
    """Variance of the sum of all maps by the sums of their blocks: the largest over edges with enough blocks; 0 for none."""
    found, edge = 0.0, SHORTEST
    while sum(prod(size // edge for size in residual.shape) for residual in residuals) >= ENOUGH_BLOCKS:
        # from the first voxel of every block to the first of the next; what is left over at the far ends is a block as well
        sums = [_block_sums(residual, edge) for residual in residuals]
        found = max(found, sum(float(np.square(part).sum()) for part in sums))
        edge *= 2
    return found


def _block_sums(residual: np.ndarray, edge: int) -> np.ndarray:
    for axis, size in enumerate(residual.shape):
        residual = np.add.reduceat(residual, np.arange(0, size, edge), axis=axis)
    return residual
