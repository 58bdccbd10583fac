from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from behindthenoise.core import discovery
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.discovery import Limit, Table

LEVEL = 0.1


def f32(*values):
    return np.array(values, np.float32)


def table_of(wrong, voxels, units, scans=1, candidates=None):
    wrong = np.asarray(wrong, np.float32)
    return Table.of(Histogram.of(wrong, np.zeros(wrong.size, np.int64)), (voxels, candidates), units, scans)


def test_evidence_is_the_distance_in_half_widths_on_the_side_of_the_limit():
    lower, median, upper = f32(1, 2, 0), f32(2, 3, 1), f32(6, 4, 2)
    np.testing.assert_allclose(Limit(1.5, above=True).evidence(lower, median, upper), [0.5, 1.5, -0.5])
    np.testing.assert_allclose(Limit(4.0, above=False).evidence(lower, median, upper), [0.5, 1, 3])


def test_evidence_of_an_interval_without_width_is_infinite_and_on_the_limit_none():
    same = f32(3, 2, 1)
    np.testing.assert_array_equal(Limit(2.0, above=True).evidence(same, same, same), [inf, 0, -inf])


def test_a_voxel_without_data_is_no_voxel():
    table = table_of([0.5], 10, 2)
    assert table.step(f32(np.nan, -1, 0, 0.1)).tolist() == [-1, 0, 0, 1]
    assert discovery.count(table, f32(np.nan, -1, 0.1), (3,))[0, 0] == 2


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, inf]), max_size=30), st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 1.7, 2.0, inf])
)
def test_the_table_counts_false_voxels_with_at_least_that_evidence_ties_included(wrong, evidence):
    table = table_of(wrong, 100, 5)
    assert table.false[table.step(f32(evidence))[0]] == sum(value >= evidence for value in wrong)


def test_a_thinned_table_never_counts_too_few():
    wrong = np.abs(np.random.default_rng(0).normal(size=50_000)).astype(np.float32)
    table, evidence = table_of(wrong, 100_000, 5), np.linspace(0.001, 5, 500, dtype=np.float32)
    exact = (wrong >= evidence[:, None]).sum(axis=1)
    counted = table.false[table.step(evidence)]
    assert table.starts.size <= discovery.STEPS + 2
    assert (counted >= exact).all()
    assert (counted <= 1.03 * exact + 1).all()


def test_levels_are_benjamini_hochbergs_over_all_voxels_with_the_own_unit_counted_as_false():
    random = np.random.default_rng(1)
    wrong, evidence = np.abs(random.normal(size=40)).astype(np.float32), random.normal(1, 1, (6, 5)).astype(np.float32)
    table = table_of(wrong, 1000, 20)
    levels = discovery.levels(table, discovery.count(table, evidence, (3, 5)))[table.step(evidence)]

    def own(step):  # of a selected voxel, how many its unit has selected
        halves = [(table.step(half) >= step).sum() for half in (evidence[:3], evidence[3:])]
        return sum(count**2 for count in halves) / sum(halves)

    steps = table.step(evidence)
    p_value = {
        step: (own(step) + (wrong >= table.starts[step]).sum()) / (1000 * 21 / 20) for step in set(steps[steps > 0].tolist())
    }
    for voxel in np.ndindex(*evidence.shape):
        if evidence[voxel] <= 0:
            assert levels[voxel] == 1
            continue
        rejected = [p * 30 / (steps >= step).sum() for step, p in p_value.items() if step <= steps[voxel]]
        assert levels[voxel] == pytest.approx(min(1, *rejected))


def test_counts_of_parts_add_up():
    evidence = np.random.default_rng(2).normal(size=(8, 12)).astype(np.float32)
    table = table_of([0.2, 0.7], 50, 4)
    parts = sum(discovery.count(table, evidence[:, start : start + 4], (4, 4)) for start in (0, 4, 8))
    np.testing.assert_array_equal(parts, discovery.count(table, evidence, (4, 4)))


def test_so_many_units_as_it_says_select_something_and_one_less_does_not():
    evidence = np.repeat(np.linspace(-1, 2, 60, dtype=np.float32)[None], 4, axis=0)

    def least_level(units):
        table = table_of(np.repeat(f32(0.2, 0.4, 1.1), units), 60 * units, units)
        return discovery.levels(table, discovery.count(table, evidence, (1, 60))).min(), table

    few, table = least_level(3)
    needed = discovery.units_needed(table, discovery.count(table, evidence, (1, 60)), LEVEL)
    assert few > LEVEL and needed is not None
    assert least_level(needed)[0] <= LEVEL < least_level(needed - 1)[0]


def test_no_number_of_units_makes_up_for_predictions_that_tell_nothing():
    evidence = np.abs(np.random.default_rng(3).normal(size=(5, 40))).astype(np.float32)
    table = table_of(evidence.ravel(), 200, 5)
    assert discovery.units_needed(table, discovery.count(table, evidence, (1, 40)), LEVEL) is None


def test_a_volume_with_more_candidates_than_the_calibration_data_expects_more_false_voxels():
    evidence = np.linspace(-1, 3, 40, dtype=np.float32)
    plain, rare = (table_of([0.5, 1.5], 400, 10, candidates=candidates) for candidates in (None, 100))
    beyond = discovery.count(plain, evidence, (40,))
    assert discovery.scale(plain, beyond) == 40 / 400
    assert discovery.scale(rare, beyond) == (evidence > 0).sum() / 100
    assert (discovery.levels(rare, beyond) >= discovery.levels(plain, beyond)).all()


def test_voxels_that_are_false_together_count_as_one():
    random = np.random.default_rng(6)
    alone = np.maximum(random.normal(size=(1, 160, 160)), 0).astype(np.float32)
    coarse = np.maximum(random.normal(size=(1, 40, 40)), 0).astype(np.float32)
    valid = np.ones((160, 160), bool)
    single = discovery.effect([(alone, valid)])
    assert 1 <= single < 3
    assert 14 < discovery.effect([(coarse.repeat(4, 1).repeat(4, 2), valid)]) < 40
    assert discovery.effect([(alone.repeat(2, 0), valid)]) == pytest.approx(2 * single)


def test_where_no_median_is_beyond_the_limit_that_is_why_nothing_is_found():
    evidence, table = np.full((4, 40), -1, np.float32), table_of([0.2, 0.7], 160, 4)
    told = discovery.nothing_found(LEVEL, table, discovery.count(table, evidence, (1, 40)), "image")
    assert told == "Nothing could be marked: no median is beyond the limit anywhere."


def test_where_nothing_is_false_every_voxel_is_one():
    assert discovery.effect([(np.zeros((1, 20, 20), np.float32), np.ones((20, 20), bool))]) == 1


@given(st.floats(1, 1e4), st.lists(st.integers(1, 60), min_size=2, max_size=3))
def test_a_part_of_a_volume_has_the_voxels_asked_for_or_all(voxels, shape):
    edges = discovery.cube(voxels, shape)
    assert all(1 <= edge <= size for edge, size in zip(edges, shape, strict=True))
    assert np.prod(edges) >= min(voxels, np.prod(shape)) - 1e-6


def test_a_part_of_a_cube_is_a_cube():
    assert discovery.cube(27.0, (64, 64, 64)) == (3, 3, 3)
    assert discovery.cube(100.0, (2, 64, 64)) == (2, 8, 7)


def draw(random, count, limit, edge=24):
    """Units with smooth errors that share a scale and an offset; the truth's level differs between them."""

    def smooth(reach):
        field = gaussian_filter(random.normal(size=(count, edge, edge)), (0, reach, reach), mode="wrap")
        return field / field.std()

    each = (count, 1, 1)
    truth = 0.8 * smooth(3) + 0.6 * random.normal(size=each)
    median = truth + 0.5 * (np.exp(0.3 * random.normal(size=each)) * smooth(2) + 0.4 * random.normal(size=each))
    lower, median, upper = (values.reshape(count, -1).astype(np.float32) for values in (median - 0.8, median, median + 0.8))
    return limit.evidence(lower, median, upper), limit.is_met(truth.reshape(count, -1).astype(np.float32))


def rates(share_above, units, volume, fields=100):
    """Mean false discovery proportion and power of the rule, and the proportion of the median above the limit."""
    random, limit, rows = np.random.default_rng(7), Limit({0.3: 0.52, 0.03: 1.88}[share_above], above=True), []
    for _ in range(fields):
        evidence, is_true = draw(random, units, limit)
        new, truth = draw(random, volume, limit)
        table = table_of(evidence[(evidence > 0) & ~is_true], evidence.size, units)
        marked = (discovery.levels(table, discovery.count(table, new, (1, new.shape[1]))) <= LEVEL)[table.step(new)]
        rows.append(
            [
                (marked & ~truth).sum() / max(marked.sum(), 1),
                (marked & truth).sum() / max(truth.sum(), 1),
                ((new > 0) & ~truth).sum() / max((new > 0).sum(), 1),
            ]
        )
    return np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(fields)


@pytest.mark.parametrize(
    ("share", "units", "volume", "power"), [(0.3, 60, 1, 0.2), (0.3, 60, 6, 0.2), (0.03, 60, 1, 0.02), (0.03, 12, 6, 0)]
)
def test_the_false_share_of_what_is_marked_is_as_promised_and_that_of_the_median_is_not(share, units, volume, power):
    mean, error = rates(share, units, volume)
    assert mean[0] <= LEVEL + 2 * error[0]
    assert mean[1] >= power
    assert mean[2] > LEVEL + 3 * error[2]
