import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress, permutation_test, rankdata

from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.calibration.shift import (
    Finding,
    Frequencies,
    Quantity,
    block_means,
    compare_units,
    compare_volume,
    count_outside,
    mean_ranks,
    token_frequencies,
    usual_range,
)


def field(rng, sizes, spread=0.3, offset=0.4):
    """Scores that depend on each other in a unit, by a scale, an offset and runs of four equal voxels; and the units."""
    units = np.repeat(np.arange(sizes.size), sizes)
    runs = np.repeat(rng.standard_normal(units.size // 4 + 1), 4)[: units.size]
    scores = np.exp(spread * rng.standard_normal(sizes.size))[units] * runs + offset * rng.standard_normal(sizes.size)[units]
    return scores, units


def histogram(scores, units, bits=32):
    return Histogram.of(scores.astype(np.float32), units, bits)


def quantity(rng, units=12, blocks=30, shift=0.0, name="width"):
    return Quantity(name, rng.standard_normal(units), shift + rng.standard_normal(blocks), 0.25)


def alone(calibration, volume, rng):
    return compare_volume([Quantity("width", calibration, volume, 0.0)], None, rng)[0].p_value


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-5, 5)), min_size=1, max_size=40))
def test_mean_ranks_are_those_of_the_pooled_scores(scores):
    units, values = np.array(scores).T
    ranks = (rankdata(values) - 0.5) / values.size
    found = mean_ranks(histogram(values, units))
    assert found == pytest.approx(np.array([ranks[units == unit].mean() for unit in np.unique(units)]))
    assert found @ np.unique(units, return_counts=True)[1] == pytest.approx(values.size / 2)


def test_units_are_compared_as_outliers_of_a_regression_are():
    """Units of one size: the p value is that of a dummy variable for the unit, times the units that are left (Holm)."""
    rng = np.random.default_rng(0)
    scores, units = field(rng, np.full(12, 60))
    found = compare_units(histogram(scores + 0.8 * (units == 3) - 1.2 * (units == 5), units))
    ranks = np.array([one.effect for one in found])
    chances = np.array([linregress(np.arange(12) == unit, ranks).pvalue for unit in range(12)])
    raised = np.array([one * (chances >= one).sum() for one in chances])
    expected = [min(1, raised[chances <= one].max()) for one in chances]
    assert sum(one < 1 for one in expected) > 1
    assert [one.p_value for one in found] == pytest.approx(expected)


def test_a_unit_with_other_scores_is_flagged_and_named_and_the_rest_is_not():
    scores, units = field(np.random.default_rng(1), np.full(20, 200))
    found = compare_units(histogram(scores + 3 * (units == 7), units + 100, bits=16))
    assert [one.name for one in found] == [f"unit {unit}" for unit in range(100, 120)]
    assert [one.name for one in found if one.flagged] == ["unit 107"]
    assert found[7].sentence.startswith("unit 107 is unlike the other calibration units (p = ")
    assert f"larger than {100 * found[7].effect:.3g} % of all scores" in found[7].sentence
    assert found[0].sentence.startswith("unit 100 is like the other calibration units (p = ")


def test_a_small_unit_is_allowed_to_be_further_off():
    sizes = np.r_[np.full(20, 2000), 4]
    scores, units = field(np.random.default_rng(2), sizes, spread=0, offset=0)
    far = np.where(units == 20, 1.2, scores)  # four voxels of one run: chance; two thousand: none
    assert not compare_units(histogram(far, units))[20].flagged
    assert compare_units(histogram(np.where(units == 3, scores + 1.2, scores), units))[3].flagged


def test_units_that_are_all_alike_or_too_few_are_not_flagged():
    with np.errstate(all="raise"):
        assert [one.p_value for one in compare_units(histogram(np.zeros(40), np.repeat(np.arange(4), 10)))] == [1] * 4
    assert compare_units(histogram(np.r_[np.zeros(10), np.ones(10)], np.repeat([0, 1], 10))) == []


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
@pytest.mark.parametrize(("spread", "offset"), [(0, 0), (0.1, 0.15), (0.6, 0.4)])
@pytest.mark.parametrize("units", [5, 30])
def test_exchangeable_units_are_rarely_flagged(sizes, spread, offset, units):
    rng, repetitions = np.random.default_rng(3), 400

    def alarm():
        count = np.full(units, 200) if sizes == "equal" else np.maximum(5, 200 * rng.lognormal(0, 1, units)).astype(int)
        scores, ids = field(rng, count, spread, offset)
        return any(one.flagged for one in compare_units(histogram(np.abs(scores), ids, bits=16)))

    assert np.mean([alarm() for _ in range(repetitions)]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)


def test_means_and_frequencies_are_those_of_each_block():
    values, blocks = np.array([1, 3, 5, 7], np.float32), np.array([4, 2, 4, 2])
    assert block_means(values, blocks).tolist() == [5, 3]
    tokens = np.array([2, 1, 3, 1, 0, 0], np.uint8)
    frequencies = token_frequencies(tokens, np.array([4, 2, 4, 2, 4, 2]), 3)
    assert frequencies.tolist() == [[1, 0, 0], [0, 0.5, 0.5]]  # voxels without a token have no share


def test_one_in_a_hundred_calibration_voxels_lies_beyond_the_usual_range():
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    usual = usual_range(values)
    assert count_outside(values, usual) == pytest.approx(10, abs=1)
    assert count_outside(values + 1000, usual) == pytest.approx(995, abs=5)
    assert count_outside(np.array([usual[0], usual[1]]), usual) == 0


def test_the_p_value_is_that_of_all_permutations():
    rng = np.random.default_rng(4)
    calibration, volume = rng.standard_normal(5), rng.standard_normal(6) + 1.2

    def energy(a, b):
        def mean(x, y):
            return np.abs(x[:, None] - y).mean()

        return 2 * mean(a, b) - mean(a, a) - mean(b, b)

    every = permutation_test((calibration, volume), energy, n_resamples=np.inf, alternative="greater")
    assert 0.01 < every.pvalue < 0.3
    assert alone(calibration, volume, rng) == pytest.approx(every.pvalue, abs=0.025)


def test_one_permutation_in_all_is_the_least_p_value():
    rng = np.random.default_rng(5)
    found = alone(np.zeros(4) + 1e-3 * np.arange(4), np.ones(5), rng)
    assert found == pytest.approx(1 / 126, abs=0.005)  # the samples are one of 126 divisions of nine blocks
    assert alone(np.ones(4), np.ones(5), rng) == 1


def test_a_shifted_quantity_is_flagged_among_others_that_are_not():
    rng = np.random.default_rng(6)
    found = compare_volume([quantity(rng), quantity(rng, shift=3.0, name="median of Fe"), quantity(rng)], None, rng)
    assert [one.flagged for one in found] == [False, True, False]
    assert found[1].sentence == (
        f"median of Fe: the volume differs from the calibration units (p = {found[1].p_value:.2g}); 25 % of its voxels lie outside "
        "the range that 99 % of the calibration voxels keep to, where 1 % is expected"
    )
    assert found[0].sentence.startswith("width: no sign that the volume differs from the calibration units (p = ")


def test_a_volume_of_another_spread_is_flagged_though_its_mean_is_the_same():
    rng = np.random.default_rng(7)
    assert alone(rng.standard_normal(40), 5 * rng.standard_normal(40), rng) < 0.01


def frequencies(rng, rare, blocks):
    """Two frequent tokens whose shares differ much from block to block, and a rare one."""
    frequent, share = rng.dirichlet([4.8, 3.2], blocks), rare * rng.uniform(0.9, 1.1, (blocks, 1))
    return np.hstack([frequent * (1 - share), share])


def test_a_rare_token_that_becomes_less_rare_is_flagged():
    rng = np.random.default_rng(8)
    calibration, same, other = frequencies(rng, 0.005, 20), frequencies(rng, 0.005, 50), frequencies(rng, 0.03, 50)
    (flagged,) = compare_volume([], Frequencies(calibration, other), rng)
    (quiet,) = compare_volume([], Frequencies(calibration, same), rng)
    assert (flagged.flagged, quiet.flagged) == (True, False)
    assert flagged.effect == pytest.approx(np.abs(calibration.mean(axis=0) - other.mean(axis=0)).sum() / 2)
    assert flagged.sentence.endswith(
        f"{100 * flagged.effect:.3g} % of its voxels are of another token than in the calibration units"
    )


def test_p_values_are_raised_for_the_number_of_checks():
    rng = np.random.default_rng(9)
    one = quantity(rng, units=6, blocks=6, shift=1.8)
    single = compare_volume([one], None, np.random.default_rng(0))[0].p_value
    first, *others = compare_volume([one, *[Quantity("same", np.ones(6), np.ones(6), 0.0)] * 4], None, np.random.default_rng(0))
    assert first.p_value == pytest.approx(5 * single)
    assert [other.p_value for other in others] == [1] * 4


def test_many_blocks_are_sampled_and_the_result_is_repeatable():
    volume = np.random.default_rng(10).standard_normal(20_000)
    one = Quantity("width", volume[:50], volume, 0.01)
    found = [compare_volume([one], None, np.random.default_rng(1)) for _ in range(2)]
    assert found[0] == found[1]
    assert not found[0][0].flagged


def test_the_level_itself_is_flagged():
    assert Finding("x", 0.05, 0.0, "").flagged
    assert not Finding("x", 0.0501, 0.0, "").flagged


@pytest.mark.slow
def test_exchangeable_blocks_are_rarely_flagged_in_any_of_several_checks():
    rng, repetitions = np.random.default_rng(11), 300

    def alarm():
        level = rng.lognormal(0, 1)  # blocks of another kind each time
        tokens = Frequencies(*(rng.dirichlet([6, 3, 1], blocks) for blocks in (9, 25)))
        found = compare_volume(
            [quantity(rng, 9, 25, name="a"), Quantity("b", level * rng.random(9), level * rng.random(25), 0.0)], tokens, rng
        )
        return any(one.flagged for one in found)

    assert 0.01 <= np.mean([alarm() for _ in range(repetitions)]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
