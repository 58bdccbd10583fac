"""
Scores counted by unit and value: all that ranks, misses and thresholds are computed from.

Counts of two parts of the data add up to the counts of both, so that parts may be counted anywhere and in any order. A bucket is
either one value or all values that share the 16 leading bits of their keys, and a threshold is the upper end of a bucket: never too
small, and exact where the bucket holds one value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, Integer, UInt32
from scipy.sparse import coo_array, csr_array

from behindthenoise.errors import CalibrationError

TOP = np.uint32(0x80000000)
TRAILING = np.uint32(0xFFFF)
MINUS_INFINITY, INFINITY = np.uint32(0x007FFFFF), np.uint32(0xFF800000)
LEADING = 1 << 16
# Keys that are counted at a time: they stay in a processor's cache, and need no fresh memory from the system.
PIECE = 1 << 16
# Scores that a tally counts at a time, and cells that it holds beside what is merged already.
CHUNK = 1 << 20
PENDING = 1 << 16

# Row (unit), bucket and count of each cell of a table that is not empty.
Cells = tuple[Int64[np.ndarray, " cell"], UInt32[np.ndarray, " cell"], Int64[np.ndarray, " cell"]]


def keys(values: Float32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """
    Whole numbers in the order of the values; equal values, as 0 and -0 are, have equal keys.

    References
    ----------
    Herf (2001), "Radix tricks": the bits of a float in an order that an unsigned integer has.
    """
    bits = (values + np.float32(0)).view(np.uint32)
    keys: UInt32[np.ndarray, " n"] = bits ^ ((bits.view(np.int32) >> 31).view(np.uint32) | TOP)
    return keys


def values(keys: UInt32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """The values that have these keys."""
    bits: UInt32[np.ndarray, " n"] = keys ^ (((keys >> 31) - np.uint32(1)) | TOP)
    return bits.view(np.float32)


def expect_numbers(scores: Float32[np.ndarray, " n"]) -> None:
    """
    Refuse scores that no rank can be given to.

    Raises
    ------
    CalibrationError
        If a score is NaN.
    """
    # the largest of numbers and a NaN is NaN, and is found in a fraction of the time
    if scores.size and np.isnan(scores.max()) and (undefined := int(np.count_nonzero(np.isnan(scores)))):
        raise CalibrationError(
            f"{undefined} of {scores.size} calibration scores are NaN, and all must be numbers; mask the voxels whose "
            "prediction or clean value is NaN"
        )


@dataclass(frozen=True, eq=False)
class Histogram:
    """
    How many scores each unit has in each bucket; buckets are disjoint and rising, and none of them is empty.

    Attributes
    ----------
    units
        Ids of the units, rising.
    upper
        Key of the largest value that may lie in the bucket, rising.
    exact
        True where the bucket can hold one value only.
    counts
        Scores by unit and bucket, int64, without stored zeros.
    """

    units: Int64[np.ndarray, " unit"]
    upper: UInt32[np.ndarray, " bucket"]
    exact: Bool[np.ndarray, " bucket"]
    counts: csr_array

    @staticmethod
    def of(scores: Float32[np.ndarray, " n"], units: Int[np.ndarray, " n"], bits: Literal[16, 32] = 32) -> "Histogram":
        """
        Counts of scores that lie in memory.

        Parameters
        ----------
        scores
            In any order; infinities are allowed.
        units
            Id of the block or image that each score comes from.
        bits
            Leading bits of the key that a bucket shares: 32 keeps every value, 16 needs at most 65536 buckets.

        Raises
        ------
        CalibrationError
            If a score is NaN.
        """
        expect_numbers(scores)
        runs = np.flatnonzero(_first(units))
        lengths = np.diff(runs, append=scores.size)
        ids, place = np.unique(units[runs].astype(np.int64), return_inverse=True)
        if bits == 16 and runs.size * LEADING <= 4 * scores.size:
            rows, buckets, counts = _counted(scores, lengths, place)
        else:
            rows, buckets, counts = _sorted(keys(scores) >> (32 - bits), np.repeat(place, lengths))
        occurring = _distinct(buckets)
        upper, exact = _ends(occurring) if bits == 16 else (occurring, np.ones(occurring.size, bool))
        columns = np.searchsorted(occurring, buckets)
        return Histogram(ids, upper, exact, _table(counts, rows, columns, (ids.size, occurring.size)))

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "Histogram":
        """The histogram whose `as_arrays` these are."""
        units, upper = arrays["units"], arrays["upper"]
        counts = csr_array((arrays["count"], arrays["bucket"], arrays["start"]), shape=(units.size, upper.size))
        return Histogram(units, upper, arrays["exact"], counts)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays by name: unit `k` has `count[i]` scores in bucket `bucket[i]`, with i from `start[k]` to `start[k + 1]`."""
        return {
            "units": self.units,
            "upper": self.upper,
            "exact": self.exact,
            "count": self.counts.data,
            "bucket": self.counts.indices,
            "start": self.counts.indptr,
        }

    @cached_property
    def sizes(self) -> Int64[np.ndarray, " unit"]:
        """Scores of each unit."""
        return np.diff(self._before[self.counts.indptr])

    @cached_property
    def total(self) -> int:
        """Scores of all units together."""
        return int(self._before[-1])

    def pooled(self) -> Int64[np.ndarray, " bucket"]:
        """Scores in each bucket, of all units together."""
        counts: Int64[np.ndarray, " bucket"] = self.counts.sum(axis=0)
        return counts

    @cached_property
    def _up_to(self) -> Int64[np.ndarray, " bucket"]:
        """Pooled scores in the buckets up to and with each."""
        return np.cumsum(self.pooled())

    @cached_property
    def _before(self) -> Int64[np.ndarray, " border"]:
        """Scores in the stored cells before each, unit after unit, and in all."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts.data)])

    @cached_property
    def _cells(self) -> Int64[np.ndarray, " cell"]:
        """Place of each stored cell in the full table, row after row: rising, so that one search serves all units."""
        rows = np.repeat(np.arange(self.units.size), np.diff(self.counts.indptr))
        return rows * self.upper.size + self.counts.indices

    def bucket_of_rank(self, rank: int) -> int:
        """
        Bucket with the `rank`-th smallest pooled score, from 1.

        Raises
        ------
        CalibrationError
            If there is no such score.
        """
        if not 1 <= rank <= self.total:
            raise CalibrationError(f"there is no score of rank {rank} among {self.total}; ranks go from 1 to the number of scores")
        return int(np.searchsorted(self._up_to, rank))

    def unit_buckets(self, ranks: Int[np.ndarray, " unit"]) -> Int64[np.ndarray, " unit"]:
        """
        For each unit, the bucket with its `ranks[k]`-th smallest score, from 1.

        Raises
        ------
        CalibrationError
            If a unit has no such score.
        """
        if ((ranks < 1) | (ranks > self.sizes)).any():
            raise CalibrationError("a unit has no score of the rank asked for; ranks go from 1 to the number of the unit's scores")
        cells = np.searchsorted(self._before, self._before[self.counts.indptr[:-1]] + ranks) - 1
        buckets: Int64[np.ndarray, " unit"] = self.counts.indices[cells].astype(np.int64)
        return buckets

    def misses(self, bucket: int) -> Int64[np.ndarray, " unit"]:
        """Scores of each unit that are larger than every value in the bucket; -1 is below the first bucket."""
        last = np.searchsorted(self._cells, np.arange(self.units.size) * self.upper.size + bucket, side="right")
        missed: Int64[np.ndarray, " unit"] = self._before[self.counts.indptr[1:]] - self._before[last]
        return missed

    def value(self, bucket: int) -> float:
        """Upper end of the bucket: the threshold that every score in it and below meets."""
        return float(values(self.upper[[bucket]])[0])


def merged(parts: Sequence[Histogram]) -> Histogram:
    """
    Counts of all parts together, whatever their order.

    Raises
    ------
    CalibrationError
        If a bucket of one part overlaps a finer bucket of another: part of the data was refined there and part was not.
    """
    units = _distinct(_joined([part.units for part in parts]))
    # Key and fineness together, so that a bucket and the largest value in it stay two and are found to overlap.
    kinds = [part.upper.astype(np.int64) << 1 | part.exact for part in parts]
    buckets = _distinct(_joined(kinds))
    upper, exact = (buckets >> 1).astype(np.uint32), (buckets & 1).astype(bool)
    _expect_disjoint(upper, exact)
    tables = [part.counts.tocoo() for part in parts]
    counts = _joined([table.data for table in tables])
    rows = [np.searchsorted(units, part.units).astype(np.int32)[table.row] for part, table in zip(parts, tables, strict=True)]
    columns = [np.searchsorted(buckets, kind).astype(np.int32)[table.col] for kind, table in zip(kinds, tables, strict=True)]
    return Histogram(units, upper, exact, _table(counts, _joined(rows), _joined(columns), (units.size, buckets.size)))


class Tally:
    """
    Counts scores chunk by chunk, in memory bounded by the number of buckets that units fill, whatever the number of scores.

    Parameters
    ----------
    bits
        As in `Histogram.of`.
    """

    def __init__(self, bits: Literal[16, 32] = 16) -> None:
        self._bits = bits
        self._parts: list[Histogram] = [merged([])]

    def update(self, scores: Float32[np.ndarray, " n"], units: Int[np.ndarray, " n"]) -> None:
        """
        Add scores with the ids of their units.

        Raises
        ------
        CalibrationError
            If a score is NaN.
        """
        for start in range(0, scores.size, CHUNK):
            self._parts.append(Histogram.of(scores[start : start + CHUNK], units[start : start + CHUNK], self._bits))
            # Merging is put off until it at least halves what is kept, so that each cell is merged a few times only.
            if sum(part.counts.nnz for part in self._parts[1:]) > max(PENDING, self._parts[0].counts.nnz):
                self._parts = [merged(self._parts)]

    def histogram(self) -> Histogram:
        """Counts of all scores so far."""
        self._parts = [merged(self._parts)]
        return self._parts[0]


def _counted(scores: Float32[np.ndarray, " n"], lengths: Int64[np.ndarray, " run"], place: Int64[np.ndarray, " run"]) -> Cells:
    """Cells of the 16 leading bits, by counting: in time linear in the scores, but with a full row for each unit."""
    table = np.zeros((int(place.max(initial=-1)) + 1, LEADING), np.int64)
    for row, stop, length in zip(place, np.cumsum(lengths), lengths, strict=True):
        for first in range(stop - length, stop, PIECE):
            table[row] += np.bincount(keys(scores[first : min(first + PIECE, stop)]) >> 16, minlength=LEADING)
    cells = np.flatnonzero(table)
    return cells >> 16, (cells % LEADING).astype(np.uint32), table.ravel()[cells]


def _sorted(keys: UInt32[np.ndarray, " n"], rows: Int64[np.ndarray, " n"]) -> Cells:
    """Cells of any keys and any order of the units, by sorting."""
    cells, counts = np.unique(rows << 32 | keys, return_counts=True)
    return cells >> 32, cells.astype(np.uint32), counts


def _distinct(numbers: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " m"]:
    """Those that occur, rising; by sorting, because `np.unique` hashes, which is slow where nearly all of them differ."""
    ordered = np.sort(numbers)
    distinct: Integer[np.ndarray, " m"] = ordered[_first(ordered)]
    return distinct


def _first(numbers: Integer[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """True where a number differs from the one before it."""
    differs: Bool[np.ndarray, " n"] = np.ones(numbers.size, bool)
    np.not_equal(numbers[1:], numbers[:-1], out=differs[1:])
    return differs


def _ends(leading: UInt32[np.ndarray, " bucket"]) -> tuple[UInt32[np.ndarray, " bucket"], Bool[np.ndarray, " bucket"]]:
    """Key of the largest value among those with these leading bits, and whether it is the only one."""
    last = leading << 16 | TRAILING
    upper = np.minimum(last, INFINITY)
    # The last key below that of 0 belongs to -0, which is counted as 0.
    upper[upper == TOP - 1] -= 1
    return upper, (last <= MINUS_INFINITY) | (last >= INFINITY)


def _table(
    counts: Int64[np.ndarray, " cell"], rows: Int[np.ndarray, " cell"], columns: Int[np.ndarray, " cell"], shape: tuple[int, int]
) -> csr_array:
    """Sparse table with rising columns in each row; counts of one cell are added."""
    return coo_array((counts, (rows, columns)), shape=shape).tocsr()


def _expect_disjoint(upper: UInt32[np.ndarray, " bucket"], exact: Bool[np.ndarray, " bucket"]) -> None:
    """Refuse a bucket that begins at or before the end of the one before it."""
    first = np.where(exact, upper, upper & ~TRAILING)
    if overlapping := int(np.count_nonzero(first[1:] <= upper[:-1])):
        raise CalibrationError(
            f"{overlapping} buckets overlap finer buckets of another part; parts are merged before any of them is refined, or "
            "refined in the same buckets; count all parts anew"
        )


def _joined(arrays: Sequence[Int[np.ndarray, " _"]]) -> Integer[np.ndarray, " n"]:
    """One after the other; of none, an empty array."""
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
