from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from behindthenoise.core.calibration.ranks import cluster_rank, percent, shortage, split_rank, unit_ranks, units_needed
from behindthenoise.errors import CalibrationError

TENTH = Fraction(1, 10)
levels = st.sampled_from([Fraction(text) for text in ("0.01", "0.05", "0.1", "0.2", "0.45", "0.5", "0.9", "1/3")])


@given(st.integers(0, 30_000), levels)
def test_the_split_rank_is_the_least_that_leaves_enough_ranks_below_it(count, miscoverage):
    """A new exchangeable score is equally likely to fall into each of the count + 1 gaps."""
    rank = split_rank(count, miscoverage)
    if rank is None:
        assert Fraction(count, count + 1) < 1 - miscoverage
    else:
        assert Fraction(rank - 1, count + 1) < 1 - miscoverage <= Fraction(rank, count + 1)
        assert 1 <= rank <= count


@given(st.integers(1, 30_000), levels)
def test_units_of_one_pixel_give_the_split_rank(pixels, miscoverage):
    sizes = np.ones(pixels, int)
    if (expected := split_rank(pixels, miscoverage)) is None:
        with pytest.raises(CalibrationError):
            cluster_rank(sizes, miscoverage)
    else:
        assert cluster_rank(sizes, miscoverage) == expected


def test_ranks_are_exact_where_floating_point_is_off_by_one():
    assert ceil((99 + 1) * (1 - 0.45)) == 56
    assert split_rank(99, 1 - Fraction("0.55")) == cluster_rank(np.ones(99, int), 1 - Fraction("0.55")) == 55
    assert ceil(0.55 * 100) == 56
    assert unit_ranks(np.array([100]), Fraction("0.45")).tolist() == [55]


@given(st.integers(1, 200), st.integers(1, 10_000), levels)
def test_units_of_one_size_give_the_pooled_quantile_at_the_raised_level(units, size, miscoverage):
    level = (1 - miscoverage) * Fraction(units + 1, units)
    sizes = np.full(units, size)
    if level <= 1:
        assert cluster_rank(sizes, miscoverage) == ceil(level * units * size)
    else:
        with pytest.raises(CalibrationError):
            cluster_rank(sizes, miscoverage)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), levels)
def test_the_rank_exists_exactly_from_the_number_of_units_that_is_asked_for(sizes, miscoverage):
    needed = units_needed(np.array(sizes), miscoverage)
    if needed > len(sizes):
        with pytest.raises(CalibrationError, match=f"at this unit size it takes at least {needed};"):
            cluster_rank(np.array(sizes), miscoverage)
    else:
        assert 1 <= cluster_rank(np.array(sizes), miscoverage) <= sum(sizes)


@pytest.mark.parametrize(("miscoverage", "needed"), [("0.1", 9), ("0.05", 19), ("0.2", 4), ("0.5", 1), ("0.9", 1), ("1/3", 2)])
def test_equal_units_need_the_textbook_number(miscoverage, needed):
    assert units_needed(np.full(3, 500), Fraction(miscoverage)) == needed
    assert units_needed(np.zeros(0, int), Fraction(miscoverage)) == needed
    assert split_rank(needed, Fraction(miscoverage)) is not None
    assert split_rank(needed - 1, Fraction(miscoverage)) is None


def test_too_few_units_say_how_many_it_takes():
    message = (
        "^3 calibration units cannot promise 90 % coverage with guarantee 'crc'; at this unit size it takes at least 9; "
        "use smaller blocks, more images, or a lower coverage$"
    )
    with pytest.raises(CalibrationError, match=message):
        cluster_rank(np.full(3, 10), TENTH)
    with pytest.raises(CalibrationError, match=r"^0 calibration units cannot promise 90 %"):
        cluster_rank(np.zeros(0, int), TENTH)
    assert str(shortage(1, "much", 2, "less")).startswith("1 calibration unit cannot promise much; ")


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=9), levels)
def test_a_unit_s_rank_is_the_least_that_leaves_no_more_than_the_accepted_misses(sizes, miscoverage):
    for size, rank in zip(sizes, unit_ranks(np.array(sizes), miscoverage).tolist(), strict=True):
        assert size - rank <= miscoverage * size < size - rank + 1


@pytest.mark.parametrize(
    ("unit", "advice"),
    [("image", "image size it takes at least 9; use more images"), ("block", "block size .* use smaller blocks, more")],
)
def test_advice_fits_what_the_units_are(unit, advice):
    with pytest.raises(CalibrationError, match=f"^3 calibration {unit}s cannot promise .* at this {advice}"):
        cluster_rank(np.full(3, 10), TENTH, unit)
    with pytest.raises(CalibrationError) as error:
        cluster_rank(np.full(3, 10), TENTH, unit)
    assert ("block" in str(error.value)) == (unit == "block")


def test_one_unit_that_outweighs_the_others_is_named_as_the_cause():
    with pytest.raises(
        CalibrationError, match=r"'crc', as the largest has 8.33 times the mean size; .* or images of more even size$"
    ):
        cluster_rank(np.array([10] * 11 + [250]), TENTH, "image")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        ("0.9", "90 %"),
        ("0.995", "99.5 %"),
        ("2/3", "66.6667 %"),
        ("0.999999999", "99.9999999 %"),
        ("0.9999999", "99.99999 %"),
        ("1e-9", "0.0000001 %"),
        ("1", "100 %"),
        ("0", "0 %"),
    ],
)
def test_a_share_is_said_in_percent(share, text):
    assert percent(Fraction(share)) == text


@given(st.integers(0, 400), st.integers(1, 9))
def test_what_is_not_all_is_never_said_to_be_all(zeros, digit):
    share = 1 - Fraction(digit, 10 ** (zeros + 1))
    assert Fraction(percent(share).removesuffix(" %")) == 100 * share < 100
