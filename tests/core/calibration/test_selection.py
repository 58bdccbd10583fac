import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behindthenoise.core.calibration import histogram as module
from behindthenoise.core.calibration import selection
from behindthenoise.core.calibration.histogram import Histogram, Tally
from behindthenoise.core.calibration.selection import bracket, exact, refine, sample
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


@settings(deadline=None)
@given(samples, st.integers(1, 60), st.data())
def test_a_bracket_finds_the_score_of_the_sorted_ones_or_nothing(pairs, size, data):
    scores, units = arrays(pairs)
    rank = data.draw(st.integers(1, scores.size))
    # Another sample than theirs, so that brackets miss as well.
    sampled = np.array(data.draw(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=2, max_size=9)), np.float32)
    found = bracket(chunked(scores, units, size), rank, scores.size, sampled)
    expected = ordered(scores)[rank - 1]
    assert found is None or (found == expected and np.signbit(found) == np.signbit(expected))


@pytest.mark.parametrize("rank", [1, 2, 500, 20_000, 50_000, 80_000, 90_000, 99_999, 100_000])
@pytest.mark.parametrize("neighbours", [1, 100], ids=["independent", "alike"])
def test_a_bracket_finds_every_rank_of_independent_and_of_dependent_scores(rank, neighbours):
    random = np.random.default_rng(rank)
    steps = np.repeat(random.normal(size=100_000 // neighbours), neighbours)
    scores = (steps + 0.01 * random.normal(size=100_000)).astype(np.float32)
    runs = scores.reshape(-1, 100)[::15]
    assert bracket(chunked(scores, np.zeros(scores.size, int), 4096), rank, scores.size, runs) == np.sort(scores)[rank - 1]


def test_a_bracket_may_be_one_value():
    scores = np.random.default_rng(0).integers(1, 4, 300_000).astype(np.float32)
    assert bracket(chunked(scores, np.zeros(scores.size, int), 7000), 150_000, scores.size, sample(scores)) == 2


def test_runs_that_are_alike_by_chance_are_not_taken_for_the_truth():
    scores = np.random.default_rng(0).permutation(102_400).astype(np.float32)
    alike = np.tile(np.sort(scores)[40::64], (64, 1))
    # The sample has nothing between 92,072 and 92,136, and as many times each as there are runs.
    assert bracket(chunked(scores, np.zeros(scores.size, int), 4096), 92_130, scores.size, alike) == 92_129


def test_a_bracket_keeps_few_scores():
    scores = np.random.default_rng(0).normal(size=2**21).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MOST_KEPT", scores.size // 30)
        assert bracket(chunked(scores, np.zeros(scores.size, int), 2**18), 1_900_000, scores.size, sample(scores)) is not None


def test_a_bracket_gives_up_where_it_would_keep_too_many_scores():
    scores = np.zeros(1000, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MOST_KEPT", 999)
        assert bracket(chunked(scores, np.zeros(1000, int), 100), 1, 1000, sample(scores)) is None


def test_a_bracket_gives_up_where_the_sample_is_far_from_the_scores():
    scores = np.random.default_rng(0).random(10_000, np.float32)
    assert bracket(chunked(scores, np.zeros(10_000, int), 999), 5000, 10_000, sample(scores + 1)) is None


def test_a_bracket_refuses_nan():
    scores = np.array([1, 2, np.nan], np.float32)
    with pytest.raises(CalibrationError, match="1 of 3 calibration scores are NaN"):
        bracket(chunked(scores, np.zeros(3, int), 3), 1, 3, np.ones((2, 2), np.float32))


@settings(deadline=None)
@given(st.integers(1, 9000), st.integers(2, 9), st.integers(1, 50))
def test_a_sample_is_runs_of_neighbours_from_end_to_end(size, runs, length):
    found = sample(np.arange(size, dtype=np.float32), runs=runs, length=length)
    assert found.shape == (runs, max(1, min(length, size // (64 * runs))))
    assert (np.diff(found, axis=1) == 1).all()
    assert found[0, 0] == 0 and found[-1, -1] == size - 1
