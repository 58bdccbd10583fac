"""From counted scores to thresholds: the promise is shared out, groups that are too small merge, buckets cost no bit."""

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration.groups import Groups, Merging
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.calibration.scores import Score, rearrange, scores
from behindthenoise.core.calibration.survey import MISSES, Dependence
from behindthenoise.core.calibration.thresholds import Calibration, Counted, choose, kind_of, merging_of, request
from behindthenoise.errors import CalibrationError

EACH_ALONE = Merging(((0,), (1,), (2,)), ())
GUARANTEES = ["pac", "crc", "tolerance", "rcps", "pooled"]
UNMEASURED = np.full(len(MISSES), np.nan)


def in_blocks(effects, blocks=inf):
    return Dependence(effects, np.where(np.isnan(effects), np.nan, blocks))


class Data:
    """Scores of `sides` rows with a unit and a group for each; groups differ in spread, units in mean."""

    def __init__(self, units=40, pixels=300, sides=1, groups=3, seed=0, shares=None):
        random = np.random.default_rng(seed)
        self.unit = np.repeat(np.arange(units), pixels)
        self.group = random.choice(groups, p=shares, size=self.unit.size)
        effects = 0.3 * random.normal(size=(sides, units))
        noise = random.normal(size=(sides, self.unit.size)) * (1 + self.group)
        self.scores = (effects[:, self.unit] + noise).astype(np.float32)
        self.groups = groups

    def counted(self, bits=32, effects=None, places=None, blocks=inf):
        sides = tuple(
            {
                group: Histogram.of(row[self.group == group], self.unit[self.group == group], bits)
                for group in np.unique(self.group).tolist()
            }
            for row in self.scores
        )
        dependence = Dependence.unknown(len(sides), self.groups) if effects is None else in_blocks(effects, blocks)
        places = np.arange(self.groups, dtype=float)[:, None] if places is None else places
        return Counted(sides, Groups(tokens=self.groups).names, places, dependence)

    def chunks(self, side, members):
        """The scores of some groups again, in pieces of uneven size."""

        def read():
            for part in np.array_split(np.flatnonzero(np.isin(self.group, members)), 7):
                yield self.scores[side][part], self.unit[part]

        return read

    def rows(self, side, members):
        """Scores of some groups, unit by unit."""
        chosen = np.isin(self.group, members)
        found = [self.scores[side][chosen & (self.unit == unit)] for unit in np.unique(self.unit)]
        return [row for row in found if row.size]


def asked(**values):
    return CalibrationConfig(**values)


def measured(sides, groups, effect):
    return np.full((sides, groups, len(MISSES)), float(effect))


# --- shares of the promise -----------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 99).map(lambda percent: percent / 100),
    st.integers(1, 99).map(lambda percent: percent / 100),
    st.integers(1, 2),
    st.integers(1, 300),
)
def test_sides_and_groups_add_up_to_the_promise_exactly(coverage, failure, sides, groups):
    found = request(asked(coverage=coverage, failure=failure, shortfall=failure), sides, groups)
    assert sides * found.miscoverage == 1 - Fraction(str(coverage))
    assert sides * groups * found.failure == Fraction(str(failure))
    # whether a unit falls short on a side is asked of each group by itself
    assert sides * found.share == Fraction(str(failure))


def test_counts_have_sides_apart_and_a_kind_that_was_asked_for_is_taken():
    assert kind_of("auto", "counts") == "asymmetric"
    assert kind_of("auto", "a.u.") == "cqr"
    for kind in ("cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"):
        assert kind_of(kind, "counts") == kind


# --- thresholds against a direct computation ------------------------------------------------------------------------------------


def direct(guarantee, rows, miss, share):
    """Threshold from the sorted scores themselves."""
    pooled, sizes = np.sort(np.concatenate(rows)), [row.size for row in rows]
    if guarantee == "pooled":
        return pooled[ceil((pooled.size + 1) * (1 - miss)) - 1]
    if guarantee == "crc":
        return pooled[pooled.size - floor(miss * pooled.size - (1 - miss) * max(sizes)) - 1]
    least = [np.sort(row)[ceil((1 - miss) * row.size) - 1] for row in rows]
    return np.sort(least)[ceil((len(rows) + 1) * (1 - share)) - 1]


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("guarantee", ["crc", "tolerance", "pooled"])
def test_each_side_of_each_group_has_the_threshold_of_its_sorted_scores(guarantee, sides):
    data, config = Data(units=60, pixels=200, sides=sides), asked(guarantee=guarantee, coverage=0.8, shortfall=0.2)
    found = choose(config, data.counted(), EACH_ALONE).thresholds
    for side in range(sides):
        for group in range(3):
            expected = direct(guarantee, data.rows(side, [group]), Fraction(1, 5) / sides, Fraction(1, 5) / sides)
            assert found[side, group] == expected
    assert np.unique(found).size == 3 * sides


@pytest.mark.parametrize("guarantee", ["crc", "tolerance", "pooled"])
def test_groups_that_share_a_threshold_have_that_of_their_scores_together(guarantee):
    data, config = Data(), asked(guarantee=guarantee)
    found = choose(config, data.counted(), Merging(((0, 2), (1,)), ())).thresholds
    assert found[0, 0] == found[0, 2] == direct(guarantee, data.rows(0, [0, 2]), Fraction(1, 10), Fraction(1, 10))
    assert found[0, 1] == direct(guarantee, data.rows(0, [1]), Fraction(1, 10), Fraction(1, 10))


@pytest.mark.parametrize("sides", [1, 2])
def test_one_field_has_the_rank_of_as_many_independent_pixels_as_it_is_worth(sides):
    """The least rank, on a grid of levels, whose beta law keeps the promise of one side of one of three groups."""
    data = Data(units=1, pixels=30_000, sides=sides)
    effect = np.array([4.0, 10.0, 40.0])
    effects = np.broadcast_to(effect[:, None], (sides, 3, len(MISSES))).copy()
    found = choose(asked(), data.counted(effects=effects), EACH_ALONE)
    miss, failure = 0.1 / sides, 0.1 / (sides * 3)
    levels = np.linspace(1 - miss, 1, 200_001)[:-1]
    for side in range(sides):
        for group in range(3):
            pixels = np.sort(data.scores[side][data.group == group])
            worth = pixels.size / effect[group]
            kept = stats.beta.cdf(1 - miss, levels * (worth + 1), (1 - levels) * (worth + 1)) <= failure
            low, high = (ceil((pixels.size + 1) * (levels[np.argmax(kept)] + slack)) for slack in (-1e-5, 1e-5))
            assert pixels[low - 1] <= found.thresholds[side, group] <= pixels[high - 1]
    assert [row["effective_samples"] for row in found.records[::sides]] == pytest.approx(np.bincount(data.group) / effect)


def test_the_effect_is_that_of_the_share_of_misses_of_one_side():
    data = Data(units=1, pixels=30_000, sides=2)
    effects = np.broadcast_to(np.arange(2.0, 2 + len(MISSES)), (2, 3, len(MISSES))).copy()
    counted = data.counted(effects=effects)
    for record in choose(asked(coverage=0.9), counted, EACH_ALONE).records:
        assert record["design_effect"] == pytest.approx(2 + MISSES.index(0.05))


@given(st.integers(0, 2**31), st.sampled_from(GUARANTEES), st.integers(1, 2), st.sampled_from(["units", "field"]))
@settings(deadline=None, max_examples=10)
def test_counting_in_buckets_and_reading_again_costs_no_bit(seed, guarantee, sides, dependence):
    data = Data(units=50, pixels=60, sides=sides, seed=seed)
    effects = measured(sides, 3, 4) if dependence == "field" else None
    config = asked(guarantee=guarantee, coverage=0.7)
    fine = data.counted(32, effects)
    merging = merging_of(config, fine)
    lossless = choose(config, fine, merging)
    again = choose(config, data.counted(16, effects), merging, data.chunks)
    np.testing.assert_array_equal(again.thresholds, lossless.thresholds)
    assert again.records == lossless.records
    coarse = choose(config, data.counted(16, effects), merging).thresholds
    if guarantee in ("crc", "tolerance", "pooled") or effects is not None:
        assert (coarse >= lossless.thresholds).all(), "the upper end of a bucket is never too small"


@given(st.integers(0, 2**31), st.sampled_from(GUARANTEES))
@settings(deadline=None, max_examples=8)
def test_the_order_of_scores_units_and_groups_does_not_matter(seed, guarantee):
    data, config = Data(units=40, pixels=60, seed=seed), asked(guarantee=guarantee, coverage=0.7)
    first = choose(config, data.counted(), EACH_ALONE).thresholds
    order = np.random.default_rng(seed).permutation(data.unit.size)
    data.scores, data.unit, data.group = data.scores[:, order], data.unit[order], 2 - data.group[order]
    np.testing.assert_array_equal(choose(config, data.counted(), EACH_ALONE).thresholds[:, ::-1], first)


def test_other_scores_than_were_counted_are_refused():
    data = Data()
    counted = data.counted(16)
    data.scores = data.scores + np.float32(0.5)
    with pytest.raises(CalibrationError, match="scores must be the same whenever they are read"):
        choose(asked(), counted, EACH_ALONE, data.chunks)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_what_cannot_be_promised_is_an_error_that_says_how_many_units_it_takes(guarantee):
    data = Data(units=3, pixels=2, groups=1)
    config = asked(guarantee=guarantee)
    with pytest.raises(CalibrationError, match=rf"3 calibration units cannot .*'{guarantee}'.* it takes at least \d+"):
        choose(config, data.counted(), merging_of(config, data.counted()))


def test_a_field_that_is_worth_too_few_pixels_is_an_error_that_says_so():
    data = Data(units=1, pixels=1000, groups=1)
    counted = data.counted(effects=measured(1, 1, 200))
    with pytest.raises(CalibrationError, match=r"a field worth 5 independent pixels cannot promise 90 % .* it takes 22"):
        choose(asked(), counted, merging_of(asked(), counted))


def test_a_shortage_of_one_side_tells_the_promise_of_both_and_the_score_that_asks_for_less():
    data = Data(units=1, pixels=1000, groups=1, sides=2)
    counted = data.counted(effects=measured(2, 1, 20))
    message = (
        "worth 50 independent pixels cannot promise 95 % coverage on each side, 90 % on both, with guarantee 'pac'; it takes 59;"
    )
    with pytest.raises(CalibrationError, match=rf"{message} .* or the score cqr, which takes both sides together$"):
        choose(asked(), counted, merging_of(asked(), counted))


def test_records_say_what_each_threshold_stands_on():
    data, config = Data(sides=2), asked(guarantee="crc")
    found = choose(config, data.counted(), Merging(((0, 2), (1,)), ()))
    assert [(row["groups"], row["side"]) for row in found.records] == [
        (["token 1", "token 3"], 0),
        (["token 1", "token 3"], 1),
        (["token 2"], 0),
        (["token 2"], 1),
    ]
    for row in found.records:
        chosen = np.isin(data.group, [int(name[-1]) - 1 for name in row["groups"]])
        values = data.scores[row["side"]][chosen]
        assert row["pixels"] == chosen.sum()
        assert row["miscoverage"] == "1/20"
        assert row["rank"] == (values <= row["threshold"]).sum()


# --- merging -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_large_groups_keep_thresholds_of_their_own(guarantee):
    found = merging_of(asked(guarantee=guarantee), Data(units=60, pixels=300).counted())
    assert found.members == ((0,), (1,), (2,))
    assert found.sentences == ()


def test_a_group_without_enough_units_shares_the_threshold_of_the_nearest():
    """Group 1 occurs in 4 of 40 images: too few at 90 %; groups 0 and 2 lie 1 and 0.5 from it."""
    data, config = Data(), asked(guarantee="crc")
    data.group = np.where((data.group == 1) & (data.unit > 3), 2, data.group)
    counted = data.counted(places=np.array([[0.0], [1.0], [1.5]]))
    found = merging_of(config, counted)
    assert found.members == ((0,), (1, 2))
    assert f"token 2 ({(data.group == 1).sum()} pixels) and token 3" in found.sentences[0]
    limits = choose(config, counted, found).thresholds[0]
    assert limits[1] == limits[2] != limits[0]


@pytest.mark.parametrize(("worth", "members"), [(30.01, ((0,), (1,), (2,))), (29.99, ((0,), (1, 2)))])
def test_a_group_worth_fewer_than_thirty_independent_pixels_shares_a_threshold(worth, members):
    """At 50 % coverage a handful of independent pixels could carry the promise, so that nothing but this limit refuses."""
    data = Data(units=1, pixels=20_000, shares=[0.5, 0.49, 0.01])
    effects = measured(1, 3, 2)
    effects[0, 2] = (data.group == 2).sum() / worth
    assert merging_of(asked(coverage=0.5), data.counted(effects=effects)).members == members


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("dependence", ["units", "field"])
def test_a_group_that_never_occurred_has_the_threshold_of_its_nearest_neighbour(guarantee, dependence):
    data = Data(units=40, pixels=300)
    data.group, data.groups = np.array([0, 2, 4])[data.group], 5
    effects = measured(1, 5, 3) if dependence == "field" else np.full((1, 5, len(MISSES)), np.nan)
    effects[:, [1, 3]] = np.nan
    counted = data.counted(effects=effects, places=np.array([[0.0], [0.1], [5.0], [8.9], [9.0]]))
    config = asked(guarantee=guarantee)
    found = choose(config, counted, merging_of(config, counted))
    assert found.merging.members == ((0, 1), (2,), (3, 4))
    assert np.isfinite(found.thresholds).all()
    assert found.thresholds[0, 1] == found.thresholds[0, 0]
    assert found.thresholds[0, 3] == found.thresholds[0, 4]
    # it takes nothing of what the others promise, and is not said to have been seen
    alone = replace(counted, names=["a", "b", "c"], places=counted.places[[0, 2, 4]], dependence=counted.dependence[:, ::2])
    alone = replace(alone, sides=({0: counted.sides[0][0], 1: counted.sides[0][2], 2: counted.sides[0][4]},), _joined={})
    np.testing.assert_array_equal(choose(config, alone, EACH_ALONE).thresholds[0], found.thresholds[0, [0, 2, 4]])
    assert [row["groups"] for row in found.records] == [["token 1"], ["token 3"], ["token 5"]]


@given(
    st.integers(0, 2**31),
    st.sampled_from(GUARANTEES),
    st.integers(1, 2),
    st.lists(st.integers(0, 400), min_size=2, max_size=5).filter(sum),
    st.sampled_from([0.5, 0.8, 0.9]),
)
@settings(deadline=None, max_examples=20)
def test_every_class_of_groups_carries_the_promise_or_nothing_does(seed, guarantee, sides, weights, coverage):
    weights = np.array(weights) / sum(weights)
    data = Data(units=12, pixels=30, sides=sides, groups=len(weights), seed=seed, shares=weights)
    counted, config = data.counted(), asked(guarantee=guarantee, coverage=coverage)
    merging = merging_of(config, counted)
    assert sorted(group for members in merging.members for group in members) == list(range(len(weights)))
    try:
        found = choose(config, counted, merging)
    except CalibrationError:
        assert len(merging.members) == 1, "as long as there are several, each can carry it"
        return
    assert np.isfinite(found.thresholds).all()
    assert len(found.records) == sides * len(merging.members)
    for row in found.thresholds:
        assert all(len(set(row[list(members)])) == 1 for members in merging.members)


# --- dependence ----------------------------------------------------------------------------------------------------------------


def test_where_nothing_was_measured_units_say_how_strong_dependence_is():
    counted = Data().counted()
    assert counted.worth(0, (0, 1), 0.1) == (None, inf)
    assert choose(asked(), counted, EACH_ALONE).records[0]["dependence"] == "between units"


def test_a_group_that_was_too_rare_to_be_measured_is_taken_for_the_most_dependent():
    data = Data(units=1, pixels=9000)
    effects = measured(1, 3, 3)
    effects[0, 1], effects[0, 2] = 7, UNMEASURED
    counted = data.counted(effects=effects)
    sizes = np.bincount(data.group)
    assert counted.worth(0, (2,), 0.1)[0] == pytest.approx(sizes[2] / 7)
    assert counted.worth(0, (0,), 0.1)[0] == pytest.approx(sizes[0] / 3)


def test_the_fewer_blocks_show_how_strong_dependence_is_the_higher_the_threshold():
    data = Data(units=1, pixels=9000)
    found = [choose(asked(), data.counted(effects=measured(1, 3, 3), blocks=blocks), EACH_ALONE).records for blocks in (inf, 30, 6)]
    levels = [[row["level"] for row in records] for records in found]
    assert (np.diff(levels, axis=0) > 0).all()
    assert [row.get("blocks") for records in found for row in records] == [None] * 3 + [30] * 3 + [6] * 3


def test_groups_together_have_as_many_blocks_as_their_pixels_have_on_average():
    data = Data(units=1, pixels=9000)
    effects, sizes = measured(1, 3, 3), np.bincount(data.group)
    effects[0, 2] = UNMEASURED
    blocks = np.broadcast_to(np.array([8.0, 40.0, np.nan])[:, None], (3, len(MISSES)))
    counted = data.counted(effects=effects, blocks=blocks)
    assert counted.worth(0, (0,), 0.1)[1] == 8
    assert counted.worth(0, (0, 1), 0.1)[1] == pytest.approx((8 * sizes[0] + 40 * sizes[1]) / sizes[:2].sum())
    # a group that was too rare to be measured has the fewest of the others
    assert counted.worth(0, (2,), 0.1)[1] == 8


@given(st.lists(st.floats(1, 1e4), min_size=3, max_size=3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_groups_together_are_worth_no_more_than_their_sum(effect, seed):
    data = Data(units=1, pixels=500, seed=seed)
    counted = data.counted(effects=np.repeat(np.array(effect)[None, :, None], len(MISSES), axis=2))
    alone = [counted.worth(0, (group,), 0.1)[0] for group in range(3)]
    together, _ = counted.worth(0, (0, 1, 2), 0.1)
    assert together <= sum(alone) * (1 + 1e-9)
    assert together >= min(alone) * (1 - 1e-9)


# --- intervals -----------------------------------------------------------------------------------------------------------------


def predictions(random, size, kind):
    """Quantiles that cross now and then, truths with skewed errors, a spread of members and three tokens."""
    token = random.integers(1, 4, size)
    median = random.normal(10, 4, size)
    width = random.uniform(0.5, 2, size)
    quantiles = np.stack([median - width, median, median + 0.8 * width])
    crossed = random.random(size) < 0.02
    quantiles[:, crossed] = quantiles[::-1, crossed]
    error = width * token * random.gamma(2, 0.6, size) * random.choice([-1, 1.5], size)
    spread = random.uniform(0.1, 0.6, size)
    score = Score(kind, 0.05, 0.5)
    return (
        score,
        quantiles.astype(np.float32),
        (median + error).astype(np.float32),
        spread.astype(np.float32),
        token.astype(np.uint8),
    )


@pytest.mark.parametrize("kind", ["cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"])
@pytest.mark.parametrize("edges", [None, np.array([7.0, 13.0])], ids=["tokens", "tokens and intensity"])
def test_the_intervals_of_a_group_hold_as_many_of_its_voxels_as_were_counted(kind, edges, random):
    score, quantiles, truth, spread, token = predictions(random, 6000, kind)
    groups = Groups(edges, 3)
    group = groups.ids(rearrange(*quantiles)[1], token)
    rows = scores(score, quantiles, truth, spread)
    unit = np.zeros(truth.size, np.int64)
    sides = tuple({one: Histogram.of(row[group == one], unit[group == one]) for one in range(groups.count)} for row in rows)
    counted = Counted(sides, groups.names, np.zeros((groups.count, 1)), Dependence.unknown(len(rows), groups.count))
    found = choose(asked(guarantee="pooled"), counted, Merging(tuple((one,) for one in range(groups.count)), ()))
    calibration = Calibration((score, score), (Groups(), groups), (np.zeros((len(rows), 1), np.float32), found.thresholds))
    lower, upper = calibration.interval(1, quantiles, token, spread, (None, None))
    for row in found.records:
        inside = group == groups.names.index(row["groups"][0])
        kept = lower[inside] <= truth[inside] if len(rows) == 2 and row["side"] == 0 else truth[inside] <= upper[inside]
        if len(rows) == 1:
            kept &= lower[inside] <= truth[inside]
        assert row["rank"] <= kept.sum() <= row["rank"] + 2, "ties and a step of rounding apart"


def test_each_channel_has_a_score_groups_and_thresholds_of_its_own():
    quantiles = np.array([[1.0], [2.0], [5.0]], np.float32)
    token, spread = np.array([2], np.uint8), np.zeros(1, np.float32)
    calibration = Calibration(
        (Score("cqr"), Score("cqr-r", 0.1), Score("cqr")),
        (Groups(tokens=2), Groups(np.array([2.0, 9.0])), Groups()),
        (np.array([[5, 10]], np.float32), np.array([[1, 2, 3]], np.float32), np.array([[inf]], np.float32)),
    )
    for channel, expected in enumerate([(-9, 15), (-7, 13), (-inf, inf)]):
        ends = calibration.interval(channel, quantiles, token, spread, (None, None))
        assert [end.item() for end in ends] == pytest.approx(expected)
    assert [end.item() for end in calibration.interval(2, quantiles, token, spread, (0.0, 50.0))] == [0, 50]


@pytest.mark.parametrize("kind", ["cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"])
def test_each_token_of_independent_pixels_is_covered_as_asked_for(kind, random):
    """A hundred thousand voxels calibrate and as many test; by one token and one score after another, within half a point."""
    score, quantiles, truth, spread, token = predictions(random, 300_000, kind)
    rows = scores(score, quantiles, truth, spread)
    group, calibrates, groups = token.astype(int) - 1, random.random(truth.size) < 0.5, Groups(tokens=3)
    sides = tuple(
        {
            one: Histogram.of(row[calibrates & (group == one)], np.zeros((calibrates & (group == one)).sum(), int))
            for one in range(3)
        }
        for row in rows
    )
    dependence = in_blocks(np.ones((len(rows), 3, len(MISSES))))
    counted = Counted(sides, groups.names, np.arange(3.0)[:, None], dependence)
    for guarantee in ("pooled", "pac"):
        config = asked(guarantee=guarantee)
        found = choose(config, counted, merging_of(config, counted))
        assert len(found.merging.members) == 3
        calibration = Calibration((score,), (groups,), (found.thresholds,))
        lower, upper = calibration.interval(0, quantiles, token, spread, (None, None))
        inside = (lower <= truth) & (truth <= upper)
        coverage = [inside[~calibrates & (group == one)].mean() for one in range(3)]
        np.testing.assert_allclose(coverage, 0.9, atol=0.005 if guarantee == "pooled" else 0.01)
        if guarantee == "pac":
            assert min(coverage) > 0.8985
