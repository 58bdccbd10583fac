"""Exact order statistics of scores that are read piece by piece: the same values as sorting all of them would give."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil, sqrt
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from behindthenoise.core.calibration.histogram import LEADING, PIECE, Histogram, Tally, expect_numbers, keys, merged
from behindthenoise.errors import CalibrationError

# Each call reads the scores and the ids of their units again, from the start, in any pieces.
Chunks = Callable[[], Iterable[tuple[Float32[np.ndarray, " n"], Int[np.ndarray, " n"]]]]

# Half the width of a bracket in standard errors of the rank: a bracket that misses costs a reading, a wide one memory.
STANDARD_ERRORS = 8.0
# Scores that a bracket may keep, 64 MB.
MOST_KEPT = 1 << 24


@runtime_checkable
class Touching(Protocol):
    """What was chosen from a histogram."""

    @property
    def touched(self) -> tuple[int, ...]:
        """Buckets that must hold one value each for the choice to be exact."""


Choice = TypeVar("Choice", bound=Touching)


def exact(histogram: Histogram, choose: Callable[[Histogram], Choice], chunks: Chunks) -> tuple[Choice, Histogram]:
    """
    What would be chosen if every score were known, and the histogram refined as far as that takes.

    Parameters
    ----------
    histogram
        Of the scores that `chunks` reads.
    choose
        Chooses from a histogram; what it chooses may depend on the buckets it touches, not on how the others are split.
    chunks
        Reads the scores, as a rule once.

    Raises
    ------
    CalibrationError
        If other scores are read than were counted.
    """
    choice = choose(histogram)
    # Values in a bucket that was vague may move a second choice that depends on them; every round splits one bucket at least.
    while not histogram.exact[list(choice.touched)].all():
        histogram = refine(histogram, choice.touched, chunks)
        choice = choose(histogram)
    return choice, histogram


def refine(histogram: Histogram, buckets: Sequence[int], chunks: Chunks) -> Histogram:
    """
    The same counts with some buckets split into the values found in them, by one reading.

    Parameters
    ----------
    histogram
        Of the scores that `chunks` reads.
    buckets
        Which to split; those that hold one value stay.
    chunks
        Reads the scores.

    Raises
    ------
    CalibrationError
        If other scores are read than were counted.
    """
    split = np.zeros(histogram.upper.size, bool)
    split[list(buckets)] = True
    split &= ~histogram.exact
    wanted = np.zeros(LEADING, bool)
    wanted[histogram.upper[split] >> 16] = True
    tally = Tally(bits=32)
    for scores, units in chunks():
        parts = [wanted[keys(scores[start : start + PIECE]) >> 16] for start in range(0, scores.size, PIECE)]
        inside = np.concatenate([np.empty(0, bool), *parts])
        tally.update(scores[inside], units[inside])
    rest = Histogram(histogram.units, histogram.upper[~split], histogram.exact[~split], histogram.counts[:, ~split])
    refined = merged([rest, tally.histogram()])
    # Units that were not counted would be more rows.
    if not np.array_equal(refined.sizes, histogram.sizes):
        raise CalibrationError(
            f"{histogram.total} calibration scores had been counted, and {refined.total} or those of other units were read; scores "
            "must be the same whenever they are read; count them anew"
        )
    return refined


def sample(scores: Float32[np.ndarray, " n"], *, runs: int = 64, length: int = 8192) -> Float32[np.ndarray, " run length"]:
    """Runs of neighbours, evenly spread over an array that may lie on disk; shorter ones where they would be over a 64th of it."""
    length = max(1, min(length, scores.size // (64 * runs)))
    starts = np.linspace(0, scores.size - length, runs).astype(np.int64)
    return np.stack([scores[start : start + length] for start in starts])


def bracket(chunks: Chunks, rank: int, total: int, sampled: Float32[np.ndarray, " run length"]) -> float | None:
    """
    The `rank`-th smallest score, from 1, by one reading that counts what lies below a bracket and keeps what lies in it.

    Parameters
    ----------
    chunks
        Reads the scores; their units do not matter.
    rank, total
        Rank of the score, among how many.
    sampled
        Runs of the scores, as `sample` takes them, to guess the bracket from: how much they differ says how wide it must be.

    Returns
    -------
    float | None
        None where the guess was bad: the score lies outside the bracket, or too many scores inside. `exact` always answers.

    Raises
    ------
    CalibrationError
        If a score is NaN.

    References
    ----------
    Floyd & Rivest (1975), doi:10.1145/360680.360691, with a sample of runs in place of single scores.
    """
    low, high = _bracket(rank / total, sampled)
    below, held, kept = 0, 0, []
    for scores, _ in chunks():
        expect_numbers(scores)
        under = scores < low
        below += int(np.count_nonzero(under))
        kept.append(scores[under ^ (scores <= high)])
        held += kept[-1].size
        if held > MOST_KEPT:
            return None
    place = rank - below - 1
    if not 0 <= place < held:
        return None
    # Plus 0: of equal values, 0 and -0, a partition may find either.
    return float(np.partition(np.concatenate(kept), place)[place]) + 0.0


def _bracket(share: float, sampled: Float32[np.ndarray, " run length"]) -> tuple[np.float32, np.float32]:
    """Values between which the score at a share of the way up almost surely lies."""
    size = sampled.size
    place = ceil(share * size) - 1
    middle = np.partition(sampled, place, axis=None)[place]
    # Neighbours are alike, so that a run tells less than its length: how much less, its share up to the middle shows.
    between = float(np.mean(sampled <= middle, axis=1).std(ddof=1)) / sqrt(len(sampled))
    reach = ceil(STANDARD_ERRORS * (max(between, sqrt(share * (1 - share) / size)) * size + 1))
    low, high = place - reach, place + reach
    ordered = np.partition(sampled, (max(low, 0), min(high, size - 1)), axis=None)
    return ordered[low] if low >= 0 else np.float32(-np.inf), ordered[high] if high < size else np.float32(np.inf)
