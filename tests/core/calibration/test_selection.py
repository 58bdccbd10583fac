import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behindthenoise.core.calibration import histogram as module
from behindthenoise.core.calibration.histogram import Histogram, Tally
from behindthenoise.core.calibration.selection import exact, refine
from behindthenoise.errors import CalibrationError

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, 1.0, -1.0]
floats = (
    st.sampled_from(SPECIAL)
    | st.floats(width=32, allow_nan=False)
    | st.integers(0, 2**17).map(lambda trailing: float(np.uint32(0x3F80FFFE + trailing).view(np.float32)))
)
samples = st.lists(st.tuples(floats, st.integers(0, 4)), min_size=1, max_size=60)


class Choice(NamedTuple):
    threshold: float
    touched: tuple[int, ...]


def arrays(pairs):
    return np.array([score for score, _ in pairs], np.float32), np.array([unit for _, unit in pairs], np.int64)


def chunked(scores, units, size):
    """Reads the scores again at each call, `size` at a time."""
    return lambda: ((scores[start : start + size], units[start : start + size]) for start in range(0, scores.size, size))


def at_rank(rank):
    def choose(histogram):
        bucket = histogram.bucket_of_rank(rank)
        return Choice(histogram.value(bucket), (bucket,))

    return choose


def ordered(scores):
    """Sorted, with 0 for -0."""
    return np.sort(scores) + 0


@settings(deadline=None)
@given(samples, st.integers(1, 60), st.data())
def test_the_score_of_any_rank_is_that_of_the_sorted_scores_in_any_chunks(pairs, size, data):
    scores, units = arrays(pairs)
    rank = data.draw(st.integers(1, scores.size))
    found, refined = exact(Histogram.of(scores, units, 16), at_rank(rank), chunked(scores, units, size))
    expected = ordered(scores)[rank - 1]
    assert found.threshold == expected and np.signbit(found.threshold) == np.signbit(expected)
    assert refined.misses(found.touched[0]).tolist() == [
        np.count_nonzero(scores[units == unit] > expected) for unit in refined.units
    ]


@settings(deadline=None)
@given(samples, st.integers(1, 60))
def test_refining_every_bucket_gives_the_lossless_histogram(pairs, size):
    scores, units = arrays(pairs)
    coarse, lossless = Histogram.of(scores, units, 16), Histogram.of(scores, units, 32)
    refined = refine(coarse, range(coarse.upper.size), chunked(scores, units, size)).as_arrays()
    assert all(np.array_equal(refined[name], array) for name, array in lossless.as_arrays().items())


@settings(deadline=None)
@given(samples, st.data())
def test_refining_some_buckets_leaves_the_others_as_they_are(pairs, data):
    scores, units = arrays(pairs)
    coarse = Histogram.of(scores, units, 16)
    buckets = data.draw(st.sets(st.integers(0, coarse.upper.size - 1)))
    refined = refine(coarse, sorted(buckets), chunked(scores, units, 7))
    assert refined.sizes.tolist() == coarse.sizes.tolist()
    for bucket in set(range(coarse.upper.size)) - buckets:
        place = int(np.searchsorted(refined.upper, coarse.upper[bucket]))
        assert refined.exact[place] == coarse.exact[bucket]
        assert refined.misses(place).tolist() == coarse.misses(bucket).tolist()


@settings(deadline=None)
@given(samples, st.data())
def test_a_choice_that_depends_on_an_earlier_one_is_what_lossless_counts_would_give(pairs, data):
    scores, units = arrays(pairs)
    first = data.draw(st.integers(1, scores.size))

    def choose(histogram):
        """The more scores lie above the first threshold, the larger the second."""
        judged = histogram.bucket_of_rank(first)
        chosen = histogram.bucket_of_rank(1 + int(histogram.misses(judged).sum()))
        return Choice(histogram.value(chosen), (judged, chosen))

    found, _ = exact(Histogram.of(scores, units, 16), choose, chunked(scores, units, 13))
    assert found.threshold == choose(Histogram.of(scores, units, 32)).threshold


def test_what_is_exact_already_is_not_read_again():
    scores, units = np.array([np.inf, 1, 2], np.float32), np.zeros(3, int)

    def unreadable():
        raise AssertionError

    assert exact(Histogram.of(scores, units, 16), at_rank(3), unreadable)[0].threshold == np.inf


def test_other_scores_than_were_counted_are_refused():
    scores, units = np.linspace(1, 1.001, 10, dtype=np.float32), np.arange(10) // 5
    coarse = Histogram.of(scores, units, 16)
    for changed, of in [
        (scores[:-1], units[:-1]),
        (scores + 1, units),
        (scores, units + 1),
        (scores, np.zeros(10, int)),
    ]:
        with pytest.raises(CalibrationError, match="10 calibration scores had been counted"):
            refine(coarse, [0], chunked(changed, of, 4))


def test_refinement_needs_no_more_memory_for_more_scores():
    random = np.random.default_rng(0)
    scores, units = random.uniform(1, 1.5, 2**16).astype(np.float32), np.zeros(2**16, int)
    once = Histogram.of(scores, units, 16)
    bucket = once.bucket_of_rank(scores.size // 2)

    def peak(rounds):
        def chunks():
            for _ in range(rounds):
                yield scores, units

        tally = Tally()
        for part in chunks():
            tally.update(*part)
        histogram = tally.histogram()
        tracemalloc.start()
        refine(histogram, [bucket], chunks)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PENDING", 2**12)
        assert peak(40) < 1.1 * peak(10) < 4e6
