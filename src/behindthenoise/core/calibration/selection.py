"""Exact order statistics of scores that are read piece by piece: the same values as sorting all of them would give."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from behindthenoise.core.calibration.histogram import LEADING, PIECE, Histogram, Tally, keys, merged
from behindthenoise.errors import CalibrationError

# Each call reads the scores and the ids of their units again, from the start, in any pieces.
Chunks = Callable[[], Iterable[tuple[Float32[np.ndarray, " n"], Int[np.ndarray, " n"]]]]


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
