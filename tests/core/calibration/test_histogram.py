import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behindthenoise.core.calibration import histogram as module
from behindthenoise.core.calibration.histogram import Histogram, Tally, keys, merged, values
from behindthenoise.errors import CalibrationError

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, -1.1754944e-38, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, 1.0, -1.0]
# Values of every magnitude, values that share their leading 16 bits, and what tends to go wrong; all with many ties.
floats = (
    st.sampled_from(SPECIAL)
    | st.floats(width=32, allow_nan=False)
    | st.integers(0, 3).map(lambda trailing: float(np.uint32(0x3F80FFFE + trailing).view(np.float32)))
)
samples = st.lists(st.tuples(floats, st.sampled_from([-3, 0, 1, 7, 2**40])), min_size=1, max_size=60)
widths = st.sampled_from([16, 32])


def arrays(pairs):
    return np.array([score for score, _ in pairs], np.float32), np.array([unit for _, unit in pairs], np.int64)


def same(one, other):
    one, other = one.as_arrays(), other.as_arrays()
    return all(np.array_equal(one[name], other[name]) for name in one)


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=60))
def test_keys_have_the_order_of_the_values_and_give_them_back(numbers):
    numbers = np.array(numbers, np.float32)
    found = keys(numbers)
    assert np.array_equal(found[:, None] < found, numbers[:, None] < numbers)
    assert np.array_equal(found[:, None] == found, numbers[:, None] == numbers)
    assert np.array_equal(values(found), numbers)


def test_keys_rise_over_all_leading_bits():
    bits = np.arange(2**16, dtype=np.uint32) << 16
    numbers = np.unique(bits[np.isfinite(bits.view(np.float32))].view(np.float32))
    assert (np.diff(keys(numbers).astype(np.int64)) > 0).all()


@settings(deadline=None)
@given(samples)
def test_a_lossless_histogram_counts_every_value_of_every_unit(pairs):
    scores, units = arrays(pairs)
    found = Histogram.of(scores, units)
    counts = found.counts.toarray()
    expected = Counter(zip(units.tolist(), (scores + 0).tolist(), strict=True))
    counted = {
        (unit, value): counts[row, column]
        for row, unit in enumerate(found.units.tolist())
        for column, value in enumerate(values(found.upper).tolist())
        if counts[row, column]
    }
    assert counted == expected
    assert found.exact.all()


@settings(deadline=None)
@given(samples, widths)
def test_misses_are_the_scores_of_each_unit_above_the_upper_end_of_the_bucket(pairs, bits):
    scores, units = arrays(pairs)
    found = Histogram.of(scores, units, bits)
    ids = np.unique(units)
    assert found.units.tolist() == ids.tolist()
    for bucket in range(found.upper.size):
        assert found.misses(bucket).tolist() == [np.count_nonzero(scores[units == unit] > found.value(bucket)) for unit in ids]
    assert found.misses(-1).tolist() == found.sizes.tolist() == [np.count_nonzero(units == unit) for unit in ids]


@settings(deadline=None)
@given(samples)
def test_the_bucket_of_a_rank_is_the_first_whose_upper_end_is_not_below_the_score_of_that_rank(pairs):
    scores, units = arrays(pairs)
    lossless, coarse = Histogram.of(scores, units, 32), Histogram.of(scores, units, 16)
    for rank, score in enumerate(np.sort(scores), 1):
        assert lossless.value(lossless.bucket_of_rank(rank)) == score
        bucket = coarse.bucket_of_rank(rank)
        assert score <= coarse.value(bucket)
        assert bucket == 0 or coarse.value(bucket - 1) < score
        assert coarse.value(bucket) == score or not coarse.exact[bucket]


@settings(deadline=None)
@given(samples, widths, st.data())
def test_buckets_of_units_hold_the_scores_of_their_ranks(pairs, bits, data):
    scores, units = arrays(pairs)
    found = Histogram.of(scores, units, bits)
    ranks = [data.draw(st.integers(1, size)) for size in found.sizes]
    for unit, rank, bucket in zip(found.units, ranks, found.unit_buckets(np.array(ranks)), strict=True):
        score = np.sort(scores[units == unit])[rank - 1]
        alone = Histogram.of(np.array([score]), np.array([unit]), bits)
        assert found.upper[bucket] == alone.upper[0]


@settings(deadline=None)
@given(samples, widths)
def test_pooled_counts_and_total_are_those_of_all_units(pairs, bits):
    scores, units = arrays(pairs)
    found, together = Histogram.of(scores, units, bits), Histogram.of(scores, np.zeros_like(units), bits)
    assert found.pooled().tolist() == together.counts.toarray()[0].tolist()
    assert found.total == found.pooled().sum() == len(pairs)


@settings(deadline=None)
@given(samples, widths, st.data())
def test_counts_of_parts_add_up_however_the_scores_are_parted_and_ordered(pairs, bits, data):
    shuffled = data.draw(st.permutations(pairs))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=5)))
    bounds = zip([0, *cuts], [*cuts, len(pairs)], strict=True)
    parts = [Histogram.of(*arrays(shuffled[start:stop]), bits) for start, stop in bounds]
    whole = Histogram.of(*arrays(pairs), bits)
    assert same(merged(parts), whole)
    assert same(merged([merged(parts[:2]), merged(parts[2:])]), whole)


@settings(deadline=None)
@given(samples, widths, st.data())
def test_a_tally_does_not_depend_on_chunks(pairs, bits, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", data.draw(st.integers(1, 20)))
        patch.setattr(module, "PENDING", data.draw(st.integers(0, 20)))
        scores, units = arrays(pairs)
        cut = data.draw(st.integers(0, len(pairs)))
        tally = Tally(bits)
        tally.update(scores[:cut], units[:cut])
        half = tally.histogram()
        tally.update(scores[cut:], units[cut:])
    assert same(half, Histogram.of(scores[:cut], units[:cut], bits))
    assert same(tally.histogram(), Histogram.of(scores, units, bits))


@pytest.mark.parametrize("units", [np.zeros(300_000, int), np.arange(300_000) // 150_000 * -5, np.arange(300_000) // 100 % 7])
def test_long_runs_of_a_unit_are_counted_like_mixed_ones(units):
    """Many scores of one unit in a row are counted in another way than few."""
    scores = np.random.default_rng(1).normal(size=units.size).astype(np.float32)
    order = np.random.default_rng(2).permutation(units.size)
    assert same(Histogram.of(scores, units, 16), Histogram.of(scores[order], units[order], 16))
    parts = [Histogram.of(scores[part], units[part], 16) for part in np.array_split(np.arange(units.size), 99)]
    assert same(Histogram.of(scores, units, 16), merged(parts))


def test_a_tally_needs_no_more_memory_for_more_scores():
    random = np.random.default_rng(0)
    chunk = [(random.normal(size=2**16).astype(np.float32), np.full(2**16, unit)) for unit in range(10)]

    def peak(rounds):
        tally = Tally()
        tracemalloc.start()
        for _ in range(rounds):
            for scores, units in chunk:
                tally.update(scores, units)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(32) < 1.1 * peak(8) < 12e6


@settings(deadline=None)
@given(samples, widths)
def test_plain_arrays_give_the_histogram_back(pairs, bits):
    found = Histogram.of(*arrays(pairs), bits)
    assert same(Histogram.from_arrays(found.as_arrays()), found)
    assert Histogram.from_arrays(found.as_arrays()).sizes.tolist() == found.sizes.tolist()


def test_infinities_have_buckets_of_their_own():
    found = Histogram.of(np.array([-np.inf, -3.4e38, 3.4e38, np.inf], np.float32), np.zeros(4, int), 16)
    assert found.exact.tolist() == [True, False, False, True]
    assert [found.value(0), found.value(3)] == [-np.inf, np.inf]
    assert np.isfinite([found.value(1), found.value(2)]).all()


def test_nan_is_refused_with_its_number():
    with pytest.raises(CalibrationError, match="2 of 5 calibration scores are NaN"):
        Histogram.of(np.array([1, np.nan, 2, -np.nan, 3], np.float32), np.zeros(5, int))


def test_a_rank_that_no_score_has_is_refused():
    found = Histogram.of(np.ones(3, np.float32), np.array([0, 0, 1]))
    for rank in (0, 4):
        with pytest.raises(CalibrationError, match=f"no score of rank {rank} among 3"):
            found.bucket_of_rank(rank)
    for ranks in ([0, 1], [1, 2]):
        with pytest.raises(CalibrationError, match="ranks go from 1"):
            found.unit_buckets(np.array(ranks))


@pytest.mark.parametrize("score", [1.0, float(np.uint32(0x3F80FFFF).view(np.float32))])
def test_parts_refined_in_different_buckets_are_refused(score):
    scores, units = np.array([score], np.float32), np.zeros(1, int)
    with pytest.raises(CalibrationError, match="1 buckets overlap"):
        merged([Histogram.of(scores, units, 16), Histogram.of(scores, units, 32)])
