import json
from dataclasses import replace
from fractions import Fraction
from math import ceil, inf, log, nan, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from behindthenoise.core.calibration.guarantees import GUARANTEES, Request, independent_level, pac, rcps, tolerance
from behindthenoise.core.calibration.histogram import Histogram, keys
from behindthenoise.core.calibration.ranks import split_rank
from behindthenoise.errors import CalibrationError

TENTH = Fraction(1, 10)
REQUEST = Request(miscoverage=TENTH, failure=TENTH, share=TENTH)
BY_UNITS = ["pac", "crc", "tolerance", "rcps", "pooled"]


def dependent(units, pixels, seed=0, spread=0.5):
    """Scores of units with effects of their own, one row for each."""
    rng = np.random.default_rng(seed)
    sizes = np.broadcast_to(pixels, units)
    return [(spread * rng.standard_normal() + rng.standard_normal(size)).astype(np.float32) for size in sizes]


def histogram(rows, bits=32):
    return Histogram.of(np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows]), bits)


def ssbc(count, miscoverage, failure):
    """Least rank whose coverage, Beta(rank, count + 1 - rank) for independent scores, is too low no oftener than accepted."""
    ranks = np.arange(1, count + 1)
    good = stats.beta.cdf(float(1 - miscoverage), ranks, count + 1 - ranks) <= failure
    return int(ranks[good][0]) if good.any() else None


@given(st.integers(1, 400), st.sampled_from(["0.05", "0.1", "0.2", "0.5"]), st.sampled_from(["0.01", "0.1", "0.4"]))
@settings(deadline=None)
def test_independent_pixels_get_the_rank_of_the_beta_law(count, miscoverage, failure):
    request = Request(Fraction(miscoverage), Fraction(failure), TENTH, design=float(count))
    whole = histogram([np.arange(count, dtype=np.float32)])
    expected = ssbc(count, request.miscoverage, float(failure))
    assume(expected is None or expected >= split_rank(count, request.miscoverage))
    if expected is None:
        with pytest.raises(CalibrationError, match="a field worth"):
            pac(whole, request)
    else:
        assert pac(whole, request).record["rank"] == expected


@given(st.floats(1, 1e7), st.floats(1.01, 100), st.floats(0.01, 0.5), st.floats(0.001, 0.1))
def test_the_raised_level_falls_with_more_samples_and_with_more_failures(excess, times, miscoverage, failure):
    effective = excess * log(failure) / log(1 - miscoverage)  # fewer are refused in a field
    level = independent_level(effective, miscoverage, failure)
    assert 1 - miscoverage <= level <= 1
    assert independent_level(times * effective, miscoverage, failure) <= level + 1e-12
    assert independent_level(effective, miscoverage, min(0.45, times * failure)) <= level + 1e-12


@pytest.mark.parametrize("pixels", [200, [50, 400, 100, 300, 250, 120, 180]])
def test_pac_follows_its_five_steps(pixels):
    rows = dependent(7, pixels)
    scores = np.sort(np.concatenate(rows))
    sizes = np.array([len(row) for row in rows])
    n, units = scores.size, len(rows)
    first = scores[ceil((n + 1) * 0.9) - 1]
    misses = np.array([(row > first).sum() for row in rows])
    deviation = sizes / (n / units) * (misses / sizes - misses.sum() / n)
    effective = min(n, units * 0.09 / ((deviation**2).sum() / (units - 1)))
    freedom = n**2 / (sizes**2).sum() - 1
    effective *= stats.chi2.ppf(0.1, freedom) / freedom
    failure = stats.norm.sf(stats.t.ppf(0.9, freedom))
    levels = np.linspace(0.9, 1, 1_000_001)[:-1]
    level = levels[np.argmax(stats.beta.cdf(0.9, levels * (effective + 1), (1 - levels) * (effective + 1)) <= failure)]

    found = pac(histogram(rows), REQUEST)
    assert found.record["effective_samples"] == pytest.approx(effective)
    assert found.record["design_effect"] == pytest.approx(n / effective)
    assert found.record["level"] == pytest.approx(level, abs=2e-6)
    assert found.threshold == scores[found.record["rank"] - 1] > first
    assert found.record["rank"] == pytest.approx(level * (n + 1), abs=1.01)


def test_pac_takes_the_effective_samples_of_a_field_where_they_are_given():
    rows = dependent(1, 5000)
    scores = np.sort(rows[0])
    found = pac(histogram(rows), replace(REQUEST, design=250.0))
    assert found.record["effective_samples"] == 250
    assert found.record["design_effect"] == 20
    assert found.record["level"] == pytest.approx(independent_level(250.0, 0.1, 0.1))
    assert found.threshold == scores[ceil(5001 * found.record["level"]) - 1]


def test_a_field_is_worth_no_more_than_its_pixels():
    rows = dependent(1, 500)
    assert pac(histogram(rows), replace(REQUEST, design=inf)) == pac(histogram(rows), replace(REQUEST, design=500.0))


@pytest.mark.parametrize("worth", [0.0, 0.3, 21.8, nan, -5.0])
def test_a_field_that_is_worth_too_little_is_refused(worth):
    message = r"independent pixels cannot promise 90 % coverage with guarantee 'pac'; it takes 22; use a larger field, 5 images"
    with pytest.raises(CalibrationError, match=message):
        pac(histogram(dependent(1, 5000)), replace(REQUEST, design=worth))
    assert pac(histogram(dependent(1, 5000)), replace(REQUEST, design=21.9)).record["rank"] <= 5000


@pytest.mark.parametrize(("blocks", "freedom"), [(1.0, 2), (5.0, 2), (9.0, 4), (41.0, 20), (inf, inf)])
def test_what_was_measured_in_few_blocks_has_the_room_of_students_law(blocks, freedom):
    """As many deviations of the normal law above the target as Student's law has for the failure asked."""
    worth = 1e7  # coverage is Gaussian
    found = pac(histogram(dependent(1, 5000)), replace(REQUEST, design=worth, blocks=blocks))
    assert found.record["effective_samples"] == 5000
    deviations = (float(found.record["level"]) - 0.9) / sqrt(0.09 / 5000)
    assert deviations == pytest.approx(stats.t.ppf(0.9, freedom), rel=0.03)


def test_what_hardly_anything_could_promise_is_refused_and_not_a_fault_of_arithmetic():
    """Student's law for two degrees of freedom is so wide there that its normal counterpart is 0 in double precision."""
    rows = histogram(dependent(1, 5000))
    with pytest.raises(CalibrationError, match="cannot promise 95 % coverage"):
        pac(rows, replace(REQUEST, miscoverage=Fraction(1, 20), failure=Fraction(1, 10_000), design=5000.0, blocks=5.0))


def test_where_no_pixel_has_the_rank_that_few_blocks_ask_for_the_error_says_how_many_it_takes():
    assert pac(histogram(dependent(1, 33)), replace(REQUEST, design=30.0)).record["rank"] <= 33
    assert pac(histogram(dependent(1, 34)), replace(REQUEST, design=34.0, blocks=4.4)).record["rank"] == 34
    with pytest.raises(
        CalibrationError, match=r"worth 33 independent pixels cannot promise 90 % .*; it takes 34; use a larger field"
    ):
        pac(histogram(dependent(1, 33)), replace(REQUEST, design=33.0, blocks=4.4))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(-4, 9), min_size=1, max_size=12), min_size=9, max_size=30),
    st.sampled_from(["0.1", "0.2", "0.45"]),
)
def test_thresholds_are_the_scores_at_their_ranks(rows, miscoverage):
    request = replace(REQUEST, miscoverage=Fraction(miscoverage), share=Fraction(miscoverage))
    rows = [np.array(row, np.float32) for row in rows]
    scores, sizes = np.sort(np.concatenate(rows)), [len(row) for row in rows]
    largest, misses = max(sizes), request.miscoverage * sum(sizes)
    own = sorted(np.sort(row)[ceil((1 - request.miscoverage) * len(row)) - 1] for row in rows)
    expected = {
        "tolerance": own[ceil((len(rows) + 1) * (1 - request.share)) - 1],
        "pooled": scores[min(ceil((sum(sizes) + 1) * (1 - request.miscoverage)), sum(sizes)) - 1],
    }
    if misses >= (1 - request.miscoverage) * largest:
        expected["crc"] = scores[len(scores) - int(misses - (1 - request.miscoverage) * largest) - 1]
    for name, threshold in expected.items():
        assert GUARANTEES[name](histogram(rows), request).threshold == threshold


@settings(deadline=None)
@given(st.data(), st.integers(2, 9), st.integers(1, 5), st.sampled_from(["0.2", "0.25", "0.5"]))
def test_leaving_out_each_unit_in_turn_exceeds_the_tolerance_no_oftener_than_accepted(data, units, pixels, share):
    """Exact and free of chance: the promise is the mean over which of the exchangeable units is the new one."""
    request = Request(Fraction("0.4"), TENTH, Fraction(share))
    rows = [
        np.array(data.draw(st.lists(st.integers(0, 9), min_size=pixels, max_size=pixels)), np.float32) for _ in range(units + 1)
    ]
    failed = 0
    for new in range(units + 1):
        others = rows[:new] + rows[new + 1 :]
        try:
            threshold = tolerance(histogram(others), request).threshold
        except CalibrationError:
            continue
        failed += int((rows[new] > threshold).sum() > request.miscoverage * pixels)
    assert failed <= request.share * (units + 1)


def wealth(losses, stakes, miscoverage):
    total, largest = 1.0, 0.0
    for loss, stake in zip(losses, stakes, strict=True):
        total *= 1 - stake * (loss - miscoverage)
        largest = max(largest, total)
    return largest


@pytest.mark.parametrize("seed", range(4))
def test_rcps_stops_where_a_scan_of_all_thresholds_stops(seed):
    rows = dependent(60, 40, seed)
    order = np.random.default_rng(seed).permutation(60)
    reference = np.sort(rows[order[0]])[ceil(0.9 * 40) - 1]
    past, stakes = [], []
    for unit in order:
        means = [(0.5 + sum(past[: i + 1])) / (i + 2) for i in range(len(past))]
        variance = (0.25 + sum((loss - mean) ** 2 for loss, mean in zip(past, means, strict=True))) / (len(past) + 1)
        stakes.append(min(1, np.sqrt(2 * log(10) / (60 * variance))))
        past.append((rows[unit] > reference).mean())
    accepted = [
        score
        for score in np.sort(np.concatenate(rows))[::-1]
        if wealth([(rows[unit] > score).mean() for unit in order], stakes, 0.1) > 10
    ]
    scores = np.sort(np.concatenate(rows))
    assert accepted == scores[-len(accepted) :][::-1].tolist()  # none of the larger ones fails
    assert rcps(histogram(rows), replace(REQUEST, seed=seed)).threshold == accepted[-1]


@pytest.mark.parametrize("name", BY_UNITS)
def test_buckets_that_are_not_touched_may_be_coarse(name):
    rows = dependent(40, 300)
    fine = histogram(rows)
    found = GUARANTEES[name](fine, REQUEST)
    leading = fine.upper >> 16
    kept = np.isin(leading, leading[list(found.touched)])
    upper, column = np.unique(np.where(kept, fine.upper, leading << 16 | np.uint32(0xFFFF)), return_inverse=True)
    joined = sparse.csr_array((np.ones(column.size, np.int64), (np.arange(column.size), column)))
    counts = sparse.csr_array(fine.counts @ joined)
    counts.sort_indices()
    mixed = Histogram(fine.units, upper.astype(np.uint32), np.isin(upper, fine.upper[kept]), counts)
    assert mixed.upper.size < fine.upper.size / 2
    again = GUARANTEES[name](mixed, REQUEST)
    assert (again.threshold, again.record) == (found.threshold, found.record)
    assert found.bucket in found.touched


@pytest.mark.parametrize("name", ["crc", "tolerance", "pooled"])
def test_a_coarse_histogram_never_gives_a_smaller_threshold(name):
    for seed in range(5):
        rows = dependent(40, 300, seed)
        exact, coarse = (GUARANTEES[name](histogram(rows, bits), REQUEST).threshold for bits in (32, 16))
        assert exact <= coarse <= exact + 2**-6 * abs(exact)


@pytest.mark.parametrize("name", BY_UNITS)
def test_the_order_of_scores_and_the_names_of_units_do_not_matter(name):
    rows = dependent(30, 50)
    scores, units = np.concatenate(rows), np.repeat(np.arange(30), 50)
    order = np.random.default_rng(1).permutation(scores.size)
    other = Histogram.of(scores[order], 7 + 3 * units[order])
    assert GUARANTEES[name](other, REQUEST) == GUARANTEES[name](histogram(rows), REQUEST)


@pytest.mark.parametrize("name", BY_UNITS)
def test_scores_that_are_all_tied_give_their_value(name):
    assert GUARANTEES[name](histogram([np.full(40, 2.5, np.float32)] * 30), REQUEST).threshold == 2.5


@pytest.mark.parametrize("name", BY_UNITS)
def test_infinite_scores_are_scores(name):
    rows = dependent(40, 100)
    few, many = [row.copy() for row in rows], [row.copy() for row in rows]
    for row in few:
        row[np.argmax(row)] = inf
    for row in many:
        row[:50] = inf
    assert np.isfinite(GUARANTEES[name](histogram(few), REQUEST).threshold)
    assert GUARANTEES[name](histogram(many), REQUEST).threshold == inf
    assert GUARANTEES[name](histogram([-row for row in many]), REQUEST).threshold < inf


@pytest.mark.parametrize("units", [0, 1, 4])
def test_pac_asks_for_five_units(units):
    rows = dependent(units, 500)
    if units:
        message = (
            rf"{units} calibration units? cannot promise 90 % coverage with guarantee 'pac'; at this unit size it takes "
            "at least 5; use smaller blocks, more images, or unit auto, which counts pixels"
        )
        with pytest.raises(CalibrationError, match=message):
            pac(histogram(rows), REQUEST)
    assert pac(histogram(dependent(5, 500)), REQUEST).record["units"] == 5


def test_pac_asks_for_more_units_where_one_outweighs_the_others():
    rows = dependent(6, [20, 20, 20, 20, 20, 900])
    cause = "as they differ so much in size that they are worth 1.23 of one size"
    with pytest.raises(CalibrationError, match=f"6 calibration units cannot promise .*, {cause}; .* it takes at least 10; "):
        pac(histogram(rows), REQUEST)
    with pytest.raises(CalibrationError, match=f"6 calibration images .*{cause}; .* use more images, or images of more even size$"):
        pac(histogram(rows), replace(REQUEST, unit="image"))


def test_pac_names_uneven_sizes_where_as_many_even_units_would_do():
    asked = replace(REQUEST, unit="image")
    with pytest.raises(CalibrationError, match=r"'pac', as they differ so much in size .* or images of more even size$"):
        pac(histogram(dependent(12, [1] * 10 + [20] * 2)), asked)
    assert pac(histogram(dependent(12, 4)), asked).record["units"] == 12
    with pytest.raises(CalibrationError, match=r"'pac'; .* use more images, or a lower coverage$"):
        pac(histogram([np.arange(1, dtype=np.float32)] * 5), asked)


@pytest.mark.parametrize(("name", "units"), [("pac", 3), ("crc", 5), ("tolerance", 5), ("rcps", 5), ("pooled", 3)])
def test_smaller_blocks_are_no_advice_for_images(name, units):
    rows = [np.arange(2, dtype=np.float32)] * units
    with pytest.raises(
        CalibrationError, match=rf"^{units} calibration images .* at this image size .* use more images, or"
    ) as error:
        GUARANTEES[name](histogram(rows), replace(REQUEST, unit="image"))
    assert "block" not in str(error.value)
    with pytest.raises(CalibrationError, match=rf"^{units} calibration blocks .* use smaller blocks, more images, or"):
        GUARANTEES[name](histogram(rows), replace(REQUEST, unit="block"))


@pytest.mark.parametrize("pixels", [1, 2, 3, 5])
def test_as_many_units_as_pac_asks_for_are_enough(pixels):
    rows = [np.arange(pixels, dtype=np.float32)] * 5
    with pytest.raises(CalibrationError, match="'pac'; at this unit size it takes at least") as error:
        pac(histogram(rows), REQUEST)
    needed = int(str(error.value).split("at least ")[1].split(";")[0])
    assert pac(histogram(rows[:1] * needed), REQUEST).record["rank"] <= pixels * needed
    with pytest.raises(CalibrationError):
        pac(histogram(rows[:1] * (needed - 1)), REQUEST)


@pytest.mark.parametrize(("name", "units", "needed"), [("crc", 8, 9), ("tolerance", 8, 9), ("rcps", 24, 25), ("pooled", 2, 3)])
def test_too_few_units_say_how_many_would_do(name, units, needed):
    request = replace(REQUEST, share=Fraction("0.1"))
    with pytest.raises(CalibrationError, match=f"{units} calibration units cannot .*{name}.* it takes at least {needed};"):
        GUARANTEES[name](histogram(dependent(units, 3)), request)
    assert GUARANTEES[name](histogram(dependent(needed, 3)), request).record["units"] == needed


def test_a_unit_without_scores_is_refused():
    whole = histogram(dependent(30, 20))
    counts = sparse.csr_array(sparse.vstack([whole.counts, sparse.csr_array((1, whole.upper.size), dtype=np.int64)]))
    hollow = Histogram(np.arange(31), whole.upper, whole.exact, counts)
    for guarantee in GUARANTEES.values():
        with pytest.raises(CalibrationError, match="1 of 31 calibration units hold no score"):
            guarantee(hollow, REQUEST)
        with pytest.raises(CalibrationError, match="0 of 0 calibration units hold no score"):
            guarantee(Histogram.of(np.empty(0, np.float32), np.empty(0, np.int64)), REQUEST)


@pytest.mark.parametrize("name", BY_UNITS)
def test_the_record_is_plain_data(name):
    found = GUARANTEES[name](histogram(dependent(40, 100)), replace(REQUEST, miscoverage=Fraction("0.15")))
    assert json.loads(json.dumps(found.record)) == found.record
    expected = {"guarantee": name, "units": 40, "pixels": 4000, "miscoverage": "3/20"}
    assert {key: found.record[key] for key in expected} == expected
    assert isinstance(found.record["rank"], int)


def test_the_record_says_that_pooled_promises_nothing_for_images():
    record = GUARANTEES["pooled"](histogram(dependent(2, 50)), REQUEST).record
    assert record["promise"] == "none where pixels depend on each other, as those of images do"


@pytest.mark.parametrize("name", ["miscoverage", "failure", "share"])
@pytest.mark.parametrize("value", [Fraction(0), Fraction(1), Fraction(-1, 2)])
def test_a_share_outside_its_range_is_refused(name, value):
    with pytest.raises(CalibrationError, match=f"{name} {value} is not inside"):
        replace(REQUEST, **{name: value})


def test_keys_of_the_thresholds_are_those_of_scores():
    rows = dependent(40, 100)
    whole = histogram(rows)
    for guarantee in GUARANTEES.values():
        found = guarantee(whole, REQUEST)
        assert keys(np.array([found.threshold], np.float32))[0] == whole.upper[found.bucket]
