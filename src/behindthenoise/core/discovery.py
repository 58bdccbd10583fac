"""
Voxels whose true value lies beyond a limit, chosen so that few of them are wrong: p-values by units, and Benjamini-Hochberg.

The evidence of a voxel is the distance of its median from the limit, in half widths of its own interval. A calibration voxel is
*false* where its evidence is positive and its truth is not beyond the limit. How many false voxels there are at and above some
evidence is all that p-values depend on, so a limit is judged from one small table. What the table is worth, and the derivation,
is in docs/guarantees.md, "Regions".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, inf
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from behindthenoise.core.calibration.dependence import Lags
from behindthenoise.core.calibration.histogram import Histogram, keys, values
from behindthenoise.core.calibration.survey import variance_by_blocks

# Evidences that thresholds are chosen among; neighbours differ by about a hundredth of their false voxels.
STEPS = 1000
BUCKETS = 1 << 16
# Shares of the false voxels, those of most evidence, whose dependence is measured.
PARTS = (1.0, 0.5, 0.25, 0.1)


# What is exchangeable: whole images, blocks, or parts of one field that are each worth one independent voxel.
Unit = Literal["image", "block", "sample"]


@dataclass(frozen=True)
class Limit:
    """
    What a true value has to be beyond.

    Attributes
    ----------
    value
        In units of the image.
    above
        Whether larger values are beyond it; else smaller ones are.
    """

    value: float
    above: bool

    def is_met(self, truth: Float32[np.ndarray, " *shape"]) -> Bool[np.ndarray, " *shape"]:
        """Where a value lies beyond the limit; on it is not beyond."""
        limit = np.float32(self.value)
        return np.asarray(truth > limit if self.above else truth < limit)

    def evidence(
        self,
        lower: Float32[np.ndarray, " *shape"],
        median: Float32[np.ndarray, " *shape"],
        upper: Float32[np.ndarray, " *shape"],
    ) -> Float32[np.ndarray, " *shape"]:
        """
        Distance of the median beyond the limit, in half widths of the interval on the limit's side.

        Positive where the median is beyond the limit, and above 1 where the whole interval is. Infinite where the interval has no
        width there; NaN where anything is NaN.
        """
        limit = np.float32(self.value)
        distance, half = (median - limit, median - lower) if self.above else (limit - median, upper - median)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            found = distance / np.maximum(half, 0)
        # the median on the limit, of no width: no evidence
        found[(distance == 0) & (half <= 0)] = 0
        return np.asarray(found, np.float32)


@dataclass(frozen=True, eq=False)
class Table:
    """
    False voxels of the calibration data by their evidence.

    Attributes
    ----------
    starts
        Least evidence of each step, rising. The first step, from minus infinity, holds what is no candidate: evidence up to 0.
    false
        False voxels, in the mean over the scans of a field, with at least the evidence of each step; the first counts all voxels.
    candidates
        Voxels with positive evidence, in the mean over the scans; None where units say how their share differs from place to place.
    units
        Units that the voxels come from.
    """

    starts: Float32[np.ndarray, " step"]
    false: Float64[np.ndarray, " step"]
    candidates: float | None
    units: int

    @property
    def voxels(self) -> float:
        """All calibration voxels."""
        return float(self.false[0])

    @staticmethod
    def of(false: Histogram, sizes: tuple[int, int | None], units: int, scans: int = 1) -> "Table":
        """
        The table of counted evidences.

        Parameters
        ----------
        false
            Evidence of the false voxels; of a bucket with several values all count as its upper end, which is careful.
        sizes
            Calibration voxels in all scans: all, and those with positive evidence, or None.
        units
            Units that they come from.
        scans
            Scans of each field: they repeat its voxels.
        """
        upper, counts = values(false.upper), false.pooled()
        # so many false voxels lie strictly above each value; a step begins just above a value, as ties are false together
        left = int(counts.sum()) - np.cumsum(counts)
        kept = upper < inf
        ends, left = upper[kept], left[kept]
        if ends.size > STEPS:
            wanted = np.unique(np.geomspace(1, counts.sum() + 1, STEPS).round().astype(np.int64)) - 1
            chosen = np.unique(np.minimum(np.searchsorted(-left, -wanted), ends.size - 1))
            ends, left = ends[chosen], left[chosen]
        candidates = np.nextafter(np.float32(0), np.float32(inf))
        starts = np.concatenate([np.array([-inf, candidates], np.float32), np.nextafter(ends, np.float32(inf))])
        return Table(
            starts,
            np.concatenate([[sizes[0]], [counts.sum()], left]) / scans,
            None if sizes[1] is None else sizes[1] / scans,
            units,
        )

    def step(self, evidence: Float32[np.ndarray, " *shape"]) -> Int64[np.ndarray, " *shape"]:
        """Step that each evidence lies in; of NaN, -1."""
        found = np.searchsorted(self.starts, evidence, side="right") - 1
        found[np.isnan(evidence)] = -1
        return np.asarray(found, np.int64)


def effect(
    fields: Sequence[tuple[Float32[np.ndarray, " scan *space"], Bool[np.ndarray, " *space"]]],
) -> float:
    """
    Voxels for each independent one in few fields, by how far false voxels depend on each other; at least 1.

    It is the largest over all false voxels, and those of most evidence. How much their number varies is estimated in two ways, as
    `survey.measure` does, and the larger counts.

    Parameters
    ----------
    fields
        Evidence of the false voxels of each field in every scan, 0 or less for all others, and which voxels calibrate.
    """
    wrong = np.concatenate([evidence[:, valid].ravel() for evidence, valid in fields])
    total = wrong.size
    wrong = wrong[wrong > 0]
    found, lags = 1.0, Lags([valid for _, valid in fields])
    for part in PARTS if wrong.size else ():
        cut = np.quantile(wrong, 1 - part, method="inverted_cdf") if part < 1 else 0
        share = float((wrong > cut).sum() / total)
        if share == 0:
            continue
        residuals = [((evidence > cut) & valid).sum(axis=0) - share * len(evidence) * valid for evidence, valid in fields]
        spread = lags.range_of(residuals)
        variance = max(lags.voxels * spread.variance * spread.range_voxels, variance_by_blocks(residuals))
        found = max(found, variance / (share * (1 - share) * total))
    return found


def count(table: Table, evidence: Float32[np.ndarray, " *space"], unit: Sequence[int]) -> Float64[np.ndarray, " 2 step"]:
    """
    Voxels with at least the evidence of each step, and the sum over units of the squares of such numbers.

    Both add up over the parts of a volume, if no unit lies in two of them.

    Parameters
    ----------
    evidence
        Of a part of a volume; NaN where it has no data.
    unit
        Edges of a unit, counted from the part's corner.
    """
    steps = table.starts.size
    found = np.zeros((2, steps))
    for corner in product(*(range(0, size, edge) for size, edge in zip(evidence.shape, unit, strict=True))):
        box = tuple(slice(start, start + edge) for start, edge in zip(corner, unit, strict=True))
        place = table.step(evidence[box])
        beyond = np.bincount(place[place >= 0], minlength=steps)[::-1].cumsum()[::-1]
        found += beyond, np.square(beyond.astype(np.float64))
    return found


def levels(table: Table, beyond: Float64[np.ndarray, " 2 step"]) -> Float64[np.ndarray, " step"]:
    """
    For each step the least level at which its voxels are selected: what is known as their q-values; at most 1.

    Parameters
    ----------
    beyond
        What `count` gives for all parts of the volume together.

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57; Jin & Candes (2023), J. Mach. Learn. Res. 24, 244: selection by
    conformal p-values. Their one new sample is a new unit here (Lee, Barber & Willett 2023, arXiv:2306.06342).
    """
    found, squares = beyond
    with np.errstate(divide="ignore", invalid="ignore"):
        # the new unit counts as one more, in which all that is a candidate is false; it is the unit that a selected voxel lies in
        own = squares / found
        false = scale(table, beyond) * (own + table.false) / (1 + 1 / table.units)
        expected = np.where(found > 0, false / found, 1.0)
    expected[0] = 1.0
    lowest: Float64[np.ndarray, " step"] = np.minimum(np.minimum.accumulate(expected), 1.0)
    return lowest


def scale(table: Table, beyond: Float64[np.ndarray, " 2 step"]) -> float:
    """
    False voxels of the volume for each of the calibration data: in proportion to all voxels, or to the candidates if that is more.

    The first is all that exchangeable units need. The second is for one field, which shows little of how places differ: false
    voxels lie at the borders of what is looked for, and where there is more of it, there are more of them.
    """
    voxels, candidates = beyond[0, :2]
    return float(max(voxels / table.voxels, candidates / table.candidates if table.candidates else 0))


def units_needed(table: Table, beyond: Float64[np.ndarray, " 2 step"], level: float) -> int | None:
    """
    Units that would select something, if they had as many voxels and false ones as those of the table; None if none would do.

    Where nothing can be selected, this tells too few units from predictions that are too uncertain.
    """
    found, squares = (part[1:] for part in beyond)
    some = found > 0
    found, squares, false = found[some], squares[some], table.false[1:][some]
    weight = scale(table, beyond) * table.units / found
    room = level - weight * false / table.units
    possible = room > 0
    if not possible.any():
        return None
    asked = (weight * squares / found - level)[possible] / room[possible]
    return max(1, ceil(float(asked.min())))


def cube(voxels: float, shape: Sequence[int]) -> tuple[int, ...]:
    """Edges of a part of a volume of this shape, as even as it allows, that has at least so many voxels, or all there are."""
    edges, left = [0] * len(shape), voxels
    for done, axis in enumerate(sorted(range(len(shape)), key=lambda axis: shape[axis])):
        # a root of a whole number may come out a little too large
        edges[axis] = min(shape[axis], ceil(left ** (1 / (len(shape) - done)) - 1e-9))
        left /= edges[axis]
    return tuple(edges)


def promise(limit: str, level: float, table: Table, unit: Unit) -> str:
    """What a selection promises, in one sentence."""
    like = (
        f"like the calibration field, whose voxels are worth {table.units} independent ones"
        if unit == "sample"
        else f"whose {unit}s are like the {table.units} {unit}s of the calibration data"
    )
    return f"Of the area marked as {limit}, at most {100 * level:g} % is false in expectation, for data {like}."


def nothing_found(level: float, table: Table, beyond: Float64[np.ndarray, " 2 step"], unit: Unit) -> str:
    """Why nothing was selected, in one sentence."""
    if not beyond[0, 1:].any():
        return "Nothing could be marked: no median is beyond the limit anywhere."
    needed = units_needed(table, beyond, level)
    counted = "independent voxel" if unit == "sample" else unit
    if needed is None:
        return (
            f"Nothing could be marked at a level of {100 * level:g} %: the calibration data hold so many false voxels, whatever "
            f"the evidence, that no number of {counted}s would do; a slower scan or a larger level may."
        )
    return (
        f"Nothing could be marked at a level of {100 * level:g} %: the calibration data have {table.units} {counted}s, and about "
        f"{needed} like these would mark something; use more calibration data or a larger level."
    )


def assumptions(unit: Unit) -> list[str]:
    """What a selection rests on."""
    like = (
        "The volume is like the calibration field, which is stationary and much larger than the reach of its dependence: the "
        "same material, instrument and dose. How many independent voxels it is worth is estimated."
        if unit == "sample"
        else f"The {unit}s of the volume and of the calibration data are exchangeable: the same material, instrument and dose."
    )
    part = "part of the volume that is worth one independent voxel" if unit == "sample" else unit
    return [
        like,
        f"Inside one {part} voxels may depend on each other in any way. Of several, each is expected to have no more false voxels "
        "than in proportion to its candidates.",
        "The voxels' evidences depend on each other positively, if at all, as Benjamini and Hochberg's rule needs.",
        "It holds on average over volumes and calibrations: one list may hold more false area, and nothing is said of one region.",
        "True is what the slow scan measured, its own noise included: near the limit that noise alone makes voxels false.",
        "The thresholds of the intervals come from the same calibration data; they are few numbers, and taken as fixed.",
        "The promise is about all that is marked; regions that are too small to be listed count, too.",
    ]


def leading(numbers: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " bucket"]:
    """How many numbers there are in each bucket of the 16 leading bits of their keys, which have the numbers' order."""
    return np.bincount(keys(numbers) >> 16, minlength=BUCKETS)


def trailing(numbers: Float32[np.ndarray, " n"], bucket: int) -> Int64[np.ndarray, " bucket"]:
    """Of the numbers in one of those buckets, how many there are for each of the 16 trailing bits."""
    found = keys(numbers)
    return np.bincount(found[found >> 16 == bucket] & np.uint32(BUCKETS - 1), minlength=BUCKETS)


def number_of(bucket: int, rest: int) -> float:
    """The number with these leading and trailing bits of its key."""
    return float(values(np.array([bucket << 16 | rest], np.uint32))[0])
