from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from behindthenoise.core.calibration.constants import fit_edges
from behindthenoise.core.calibration.groups import Groups, merge
from behindthenoise.core.calibration.scores import Score, apply, scores
from behindthenoise.core.metrics.coverage import coverage, coverage_gap
from behindthenoise.core.metrics.sharpness import interval_score

NO_TOKENS = np.zeros(0, np.uint8)
EDGES = np.array([1.0, 2.5])


def row(*values):
    return np.array(values, np.float32)


def test_a_value_on_a_border_belongs_to_the_upper_bin():
    groups = Groups(EDGES)
    assert groups.ids(row(-9, 0.9, 1, 2, 2.5, 99), np.zeros(6, np.uint8)).tolist() == [0, 0, 1, 1, 2, 2]
    assert groups.names == ["intensity bin 1", "intensity bin 2", "intensity bin 3"]


def test_tokens_are_groups_in_the_order_of_their_numbers_and_a_voxel_without_one_goes_with_the_first():
    groups = Groups(tokens=3)
    assert groups.ids(row(5, 5, 5, 5), np.array([1, 3, 2, 0], np.uint8)).tolist() == [0, 2, 1, 0]
    assert groups.names == ["token 1", "token 2", "token 3"]


def test_without_a_question_all_voxels_are_one_group():
    assert Groups().ids(row(1, 2), np.array([3, 0], np.uint8)).tolist() == [0, 0]
    assert Groups().names == ["all voxels"]


def test_the_last_of_255_tokens_does_not_overflow():
    assert Groups(EDGES, 255).ids(row(9), np.array([255], np.uint8)).tolist() == [255 * 3 - 1]


@given(st.integers(1, 6), st.lists(st.integers(-20, 20), max_size=4, unique=True).map(sorted), st.randoms(use_true_random=False))
def test_each_pair_of_a_token_and_a_bin_has_an_id_and_a_name_of_its_own(tokens, edges, random):
    groups = Groups(np.array(edges, float), tokens)
    pairs = [(token, part) for token in range(1, tokens + 1) for part in range(len(edges) + 1)]
    random.shuffle(pairs)
    borders = [-21, *edges]
    found = groups.ids(row(*[borders[part] for _, part in pairs]), np.array([token for token, _ in pairs], np.uint8)).tolist()
    assert sorted(found) == list(range(groups.count))
    assert [groups.names[group] for group in found] == [f"token {token}, intensity bin {part + 1}" for token, part in pairs]


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
def test_images_and_volumes_are_grouped_voxel_by_voxel(shape):
    rng = np.random.default_rng(0)
    median, token = rng.normal(1.5, 2, shape).astype(np.float32), rng.integers(0, 5, shape, np.uint8)
    for groups in (Groups(), Groups(EDGES), Groups(tokens=4), Groups(EDGES, 4)):
        np.testing.assert_array_equal(groups.ids(median, token).ravel(), groups.ids(median.ravel(), token.ravel()))


def test_the_place_of_a_group_is_its_centroid_beside_its_intensity():
    centroids, intensities = np.array([[0.0, 5.0], [1.0, 6.0]]), np.array([-1.0, 0.0, 2.0])
    both = Groups(EDGES, 2)
    expected = [[*centroids[int(name[6]) - 1], intensities[int(name[-1]) - 1]] for name in both.names]
    assert both.places(intensities, centroids).tolist() == expected
    assert Groups(EDGES).places(intensities, centroids).tolist() == [[-1], [0], [2]]
    assert Groups(tokens=2).places(intensities, centroids).tolist() == centroids.tolist()
    assert Groups().places(intensities, centroids).shape == (1, 0)


def line(*positions):
    return np.array(positions, float)[:, None]


def names(count):
    return [f"token {index + 1}" for index in range(count)]


def merge_up_to(least, places, pixels):
    """Merging where a class needs so many pixels."""
    pixels = np.array(pixels)
    return merge(names(len(pixels)), places, pixels, lambda members, _: int(pixels[list(members)].sum()) >= least)


def test_large_groups_are_left_alone():
    merging = merge_up_to(10, line(0, 1, 2), [10, 11, 12])
    assert merging.members == ((0,), (1,), (2,))
    assert merging.sentences == ()


def test_a_small_group_shares_the_threshold_of_the_nearest_and_is_named():
    merging = merge_up_to(10, line(0, 9, 1), [50, 70, 3])
    assert merging.members == ((0, 2), (1,))
    assert merging.sentences == ("token 1 (50 pixels) and token 3 (3 pixels) share one threshold",)


def test_the_smallest_is_merged_first_and_may_save_its_neighbour():
    """Token 2 is too small as well, but large enough once token 3 has joined it; the other way round all would be one."""
    assert merge_up_to(10, line(0, 2.4, 5), [50, 7, 3]).members == ((0,), (1, 2))


def test_a_class_lies_where_its_pixels_lie():
    # tokens 1 and 2 join at 0.99, from where token 4 is nearer than from token 3; the plain mean, 0.5, would be farther
    assert merge_up_to(120, line(0, 1, 4, 2.4), [1, 99, 500, 110]).members == ((0, 1, 3), (2,))


def test_among_equally_near_groups_the_first_is_taken():
    assert merge_up_to(10, line(0, 1, 2), [50, 3, 50]).members == ((0, 1), (2,))


def test_at_last_one_group_is_left_however_small():
    merging = merge_up_to(1000, line(0, 1, 2), [5, 6, 7])
    assert merging.members == ((0, 1, 2),)
    assert merging.sentences == ("token 1 (5 pixels), token 2 (6 pixels) and token 3 (7 pixels) share one threshold",)
    assert merge_up_to(1000, line(0), [5]).members == ((0,),)
    assert merge_up_to(1000, line(0, 1), [0, 0]).members == ((0, 1),)


def test_a_group_that_never_occurred_goes_with_the_nearest_that_did():
    merging = merge_up_to(10, line(0, 4.1, 8, 9), [50, 0, 70, 0])
    assert merging.members == ((0,), (1, 2, 3))
    assert merging.sentences == ("token 2 (0 pixels), token 3 (70 pixels) and token 4 (0 pixels) share one threshold",)


def test_a_group_that_never_occurred_does_not_move_the_one_that_it_joins():
    assert merge_up_to(1, line(0, 1, 1.6, 3), [1, 0, 0, 1]).members == ((0, 1), (2, 3))


def test_no_group_is_asked_about_that_holds_no_pixels():
    asked = []
    merge(names(3), line(0, 1, 2), np.array([4, 0, 5]), lambda members, _: asked.append(members) or True)
    assert sorted(asked) == [(0,), (2,)]


groupings = st.integers(1, 8).flatmap(
    lambda count: st.tuples(
        st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=count, max_size=count),
        st.lists(st.integers(0, 40), min_size=count, max_size=count),
    )
)


@given(groupings, st.integers(0, 60))
def test_every_group_has_one_class_and_each_class_is_large_unless_it_is_the_only_one(grouping, least):
    places, pixels = np.array(grouping[0], float), np.array(grouping[1])
    merging = merge_up_to(least, places, pixels)
    assert sorted(group for members in merging.members for group in members) == list(range(pixels.size))
    sizes = [int(pixels[list(members)].sum()) for members in merging.members]
    assert len(sizes) == 1 or min(sizes) >= max(least, 1)
    named = [name for sentence in merging.sentences for name in names(pixels.size) if f"{name} (" in sentence]
    assert sorted(named) == sorted(name for index, name in enumerate(names(pixels.size)) if (index,) not in merging.members)


@given(groupings, st.integers(0, 60), st.randoms(use_true_random=False))
def test_the_numbering_of_the_groups_does_not_decide_which_are_merged(grouping, least, random):
    count = len(grouping[1])
    # places off any grid and sizes that differ, so that nothing is tied
    rng = np.random.default_rng(random.randrange(1000))
    places, pixels = np.array(grouping[0]) + rng.random((count, 2)), 100 * np.array(grouping[1]) + np.arange(count)
    order = np.array(random.sample(range(count), count))
    shuffled = merge_up_to(100 * least, places[order], pixels[order])
    back = sorted(tuple(sorted(order[list(members)].tolist())) for members in shuffled.members)
    assert back == list(merge_up_to(100 * least, places, pixels).members)


PHASES = np.array([0.60, 0.25, 0.10, 0.05])
LEVELS = np.array([1.0, 2.0, 3.0, 1.0])  # the rarest phase looks like the commonest
RATIOS = np.array([0.9, 1.0, 1.3, 1.8])  # true over predicted standard deviation
SIGMA, TENTH = 0.3, Fraction(1, 10)


def four_phases(rng, size):
    """Quantiles, truth and phase, from 0, of independent pixels."""
    phase = rng.choice(4, size, p=PHASES)
    median = LEVELS[phase] + 0.01 * rng.standard_normal(size)
    truth = median + SIGMA * RATIOS[phase] * rng.standard_normal(size)
    quantiles = median + np.array([-1.645, 0, 1.645])[:, None] * SIGMA
    return quantiles.astype(np.float32), truth.astype(np.float32), phase


def confused(rng, phase, share):
    """Tokens, a share of which are those of another phase."""
    wrong = rng.random(phase.size) < share
    return np.where(wrong, (phase + rng.integers(1, 4, phase.size)) % 4, phase).astype(np.uint8) + np.uint8(1)


def gap_and_score(groups, share=0.0, pixels=1_000_000):
    """Coverage gap between the phases, in points, and mean interval score, with a split-conformal threshold for each group."""
    rng, score = np.random.default_rng(6), Score("cqr")
    quantiles, truth, phase = four_phases(rng, pixels)
    group, found = groups.ids(quantiles[1], confused(rng, phase, share)), scores(score, quantiles, truth)[0]
    thresholds = np.empty((1, groups.count), np.float32)
    for index in range(groups.count):
        values = np.sort(found[group == index])
        thresholds[0, index] = values[ceil((values.size + 1) * (1 - TENTH)) - 1]
    quantiles, truth, phase = four_phases(rng, pixels)
    group = groups.ids(quantiles[1], confused(rng, phase, share))
    low, high = apply(score, quantiles, thresholds[:, group], (None, None))
    coverages = np.array([coverage(low[phase == one], high[phase == one], truth[phase == one]) for one in range(4)])
    return 100 * coverage_gap(coverages, 0.9), interval_score(low, high, truth, TENTH)


@pytest.mark.slow
def test_tokens_even_out_the_coverage_of_materials_that_intensity_cannot_tell_apart():
    training = four_phases(np.random.default_rng(5), 200_000)[0]
    pooled, pooled_score = gap_and_score(Groups())
    deciles, deciles_score = gap_and_score(Groups(fit_edges(training[1], 10)))
    tokens, tokens_score = gap_and_score(Groups(tokens=4))
    assert tokens <= 1
    assert deciles == pytest.approx(7.7, abs=0.3)
    assert pooled == pytest.approx(9.9, abs=0.3)
    assert tokens_score < deciles_score < pooled_score


@pytest.mark.slow
def test_tokens_that_are_sometimes_wrong_still_help():
    gaps = [gap_and_score(Groups(tokens=4), share)[0] for share in (0.05, 0.2)]
    assert gaps[0] < gaps[1] < 7.7  # deciles of intensity
