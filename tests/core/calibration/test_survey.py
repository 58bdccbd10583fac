"""How strongly misses depend on each other, measured on one field, against the variance over many."""

import importlib.util
from math import ceil, inf, isnan, nan, prod, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr, ndtri

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import survey
from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.calibration.scores import Score, scores
from behindthenoise.core.calibration.survey import (
    FEWEST,
    LARGEST,
    MISSES,
    VALUES,
    Dependence,
    Part,
    correlation_radius,
    fullest,
    measure,
    middle,
    room,
    stacked,
    union_effect,
)
from behindthenoise.core.calibration.thresholds import Counted, choose, merging_of
from behindthenoise.core.calibration.units import box_around

specification = importlib.util.spec_from_file_location("bench_coverage", Path(__file__).parents[3] / "bench" / "coverage.py")
bench = importlib.util.module_from_spec(specification)
specification.loader.exec_module(bench)

TENTH = MISSES.index(0.1)


@pytest.fixture
def one_share(monkeypatch):
    """Only misses of 10 % are measured, which takes a sixth of the time."""
    monkeypatch.setattr(survey, "MISSES", (0.1,))


def smooth(shape, reach, random):
    """A Gaussian field of variance 1, correlated over some `reach` voxels."""
    if not reach:
        return random.standard_normal(shape).astype(np.float32)
    # periodic, so that the correlation is alike everywhere; a filter of white noise has the variance of its squared kernel
    kernel = np.zeros(shape)
    kernel[(0,) * len(shape)] = 1
    norm = sqrt(float(np.square(gaussian_filter(kernel, reach, mode="wrap")).sum()))
    return (gaussian_filter(random.standard_normal(shape), reach, mode="wrap") / norm).astype(np.float32)


def effects(parts, groups):
    return measure(parts, groups).effects


def effect_at(measured, miss):
    """The stronger effect, and with it that of blocks the fewer count."""
    effect, blocks = Dependence(measured, -measured).at(miss)
    assert blocks == -effect or (isnan(blocks) and isnan(effect))
    return effect


def one_scan(values, group=None):
    """A field of one scan; all its voxels in one group unless said otherwise."""
    group = np.zeros(values.shape, np.int16) if group is None else group.astype(np.int16)
    return Part(values[None], group[None])


def true_effects(draw, groups, miss, repetitions):
    """Variance of the number of misses beyond the expected, of each group, over what independent pixels have: by simulation."""
    threshold = ndtri(1 - miss)
    found = []
    for _ in range(repetitions):
        part = draw()
        members = [part.group == group for group in range(groups)]
        sizes = [int(where.sum()) for where in members]
        excess = [(part.scores[where] > threshold).sum() - miss * size for where, size in zip(members, sizes, strict=True)]
        found.append(np.array(excess) / np.sqrt(miss * (1 - miss) * np.maximum(sizes, 1)))
    return np.square(found).mean(axis=0)


def measured(draw, groups, repetitions):
    return np.mean([effects([draw()], groups)[:, 0] for _ in range(repetitions)], axis=0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=3), st.integers(1, 3000))
def test_the_middle_of_a_box_is_as_large_as_it_may_be_and_lies_in_the_middle(spans, largest):
    box = tuple(slice(start, start + size) for start, size in spans)
    found = middle(box, largest)
    kept = [part.stop - part.start for part in found]
    sizes = [size for _, size in spans]
    assert 1 <= prod(kept) <= max(largest, 1)
    edge = max(kept)
    assert kept == [min(size, edge) for size in sizes], "the longest axes are cut, and no other"
    assert kept == sizes or prod(min(size, edge + 1) for size in sizes) > largest
    for part, whole in zip(found, box, strict=True):
        before, after = part.start - whole.start, whole.stop - part.stop
        assert 0 <= after - before <= 1


@given(st.lists(st.integers(1, 14), min_size=1, max_size=3), st.integers(1, 60), st.integers(0, 2**31), st.integers(1, 6))
def test_where_dependence_is_measured_there_are_voxels_of_the_role(shape, largest, seed, count):
    """Few voxels anywhere in the field: oracle by all windows of the size."""
    random = np.random.default_rng(seed)
    chosen = np.zeros(shape, bool)
    for _ in range(count):
        chosen[tuple(random.integers(size) for size in shape)] = True
    box = box_around(chosen)
    found, first = fullest(chosen, box, largest), middle(box, largest)
    assert [part.stop - part.start for part in found] == [part.stop - part.start for part in first]
    assert all(whole.start <= part.start and part.stop <= whole.stop for part, whole in zip(found, box, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(chosen[box], [part.stop - part.start for part in first])
    most = windows.reshape(-1, prod(windows.shape[len(shape) :])).sum(axis=1).max()
    assert 1 <= chosen[found].sum() <= most
    # the fullest window overlaps 2 of its neighbours along each axis, which together hold what it does
    assert chosen[found].sum() >= most / 2 ** len(shape)
    assert chosen[found].sum() >= chosen[first].sum()


def test_what_is_looked_at_fits_into_memory_and_is_never_less_than_a_small_field():
    assert room(1, 1) == room(1, VALUES // LARGEST) == LARGEST
    assert room(4, 1) == LARGEST // 4
    assert room(1, 90) == VALUES // 90
    assert room(1, 1000) == FEWEST


def test_where_all_calibrates_dependence_is_measured_in_the_middle():
    assert fullest(np.ones((40, 60), bool), np.s_[0:40, 0:60], 400) == np.s_[10:30, 20:40]


def test_independent_pixels_have_an_effect_of_one(random):
    field = one_scan(random.standard_normal((200, 200)).astype(np.float32))
    found = effects([field], 1)
    assert found.shape == (1, len(MISSES))
    assert (found >= 1).all()
    # blocks are few, and the larger of several estimates counts: a part of it is chance
    assert (found < 1.8).all()
    assert found.mean() < 1.5


@pytest.mark.parametrize("reach", [1.5, 2.5])
def test_the_effect_is_the_variance_over_many_fields(reach, one_share, random):
    def draw():
        return one_scan(smooth((112, 112), reach, random))

    truth = true_effects(draw, 1, 0.1, 400)
    assert truth > 8
    # the variance of 400 sums is known to 7 %, and a small field shows a little less of long correlation
    np.testing.assert_allclose(measured(draw, 1, 15), truth, rtol=0.25)


def test_the_effect_of_a_volume_is_the_variance_over_many(one_share, random):
    def draw():
        return one_scan(smooth((24, 24, 24), 1, random))

    np.testing.assert_allclose(measured(draw, 1, 10), true_effects(draw, 1, 0.1, 300), rtol=0.25)


def test_a_flat_volume_has_the_effect_of_the_image(random):
    field, group = smooth((64, 70), 2, random), random.integers(-1, 2, (64, 70))
    flat = effects([one_scan(field[None], group[None])], 2)
    np.testing.assert_allclose(flat[:, TENTH], effects([one_scan(field, group)], 2)[:, TENTH], rtol=0.35)
    by_range = effects([one_scan(field[None, :15, :15], group[None, :15, :15])], 2)  # too small for blocks
    np.testing.assert_allclose(by_range, effects([one_scan(field[:15, :15], group[:15, :15])], 2), rtol=1e-6)


@pytest.mark.parametrize("layout", ["scattered", "checkerboard", "patches"])
def test_groups_that_lie_among_each_other_have_the_effect_of_many_fields(layout, one_share, random):
    """A group whose pixels are strewn over the field: neighbours are seldom of the same group, but its misses still cluster."""

    def draw():
        shape = (96, 96)
        if layout == "scattered":
            group = random.choice(3, p=[0.7, 0.22, 0.08], size=shape)
        elif layout == "checkerboard":
            group = np.indices(shape).sum(axis=0) % 2
        else:
            group = np.searchsorted(ndtri([0.6, 0.85]), smooth(shape, 5, random))
        return one_scan(smooth(shape, 2, random), group)

    groups = 2 if layout == "checkerboard" else 3
    truth = true_effects(draw, groups, 0.1, 400)
    found = measured(draw, groups, 20)
    assert (truth > 1.5).all()
    np.testing.assert_allclose(found, truth, rtol=0.35)


def test_a_rare_group_among_others_does_not_pass_for_independent_pixels(one_share, random):
    """Of 50 neighbours one is of the group: the correlation of its map with itself is lost in that of the others."""
    shape = (128, 128)

    def draw():
        return one_scan(smooth(shape, 3, random), random.choice(2, p=[0.98, 0.02], size=shape))

    found, truth = measured(draw, 2, 20)[1], true_effects(draw, 2, 0.1, 300)[1]
    assert truth > 1.5
    assert found > 0.7 * truth


@pytest.mark.parametrize("shared", [0.0, 0.6, 1.0])
def test_scans_of_one_truth_count_as_far_as_they_repeat_each_other(shared, one_share, random):
    """Errors of 10 scans with a part in common; pixels are independent, so that only the scans are not."""

    def draw():
        common, own = random.standard_normal((1, 60, 60)), random.standard_normal((10, 60, 60))
        values = (sqrt(shared) * common + sqrt(1 - shared) * own).astype(np.float32)
        return Part(values, np.zeros(values.shape, np.int16))

    found = measured(draw, 1, 15)
    np.testing.assert_allclose(found, true_effects(draw, 1, 0.1, 400), rtol=0.35)
    assert found == pytest.approx({0.0: 1.2, 1.0: 11.5}[shared], abs=1.6) if shared != 0.6 else 2 < found < 7


def test_ten_equal_scans_are_worth_one(random):
    field = smooth((60, 70), 2, random)
    scans = Part(np.repeat(field[None], 10, axis=0), np.zeros((10, 60, 70), np.int16))
    np.testing.assert_allclose(effects([scans], 1), 10 * effects([one_scan(field)], 1), rtol=0.05)


def test_scans_may_disagree_on_the_group_of_a_voxel(one_share, random):
    def draw():
        values = np.repeat(smooth((60, 60), 2, random)[None], 4, axis=0)
        return Part(values, random.integers(0, 2, values.shape).astype(np.int16))

    np.testing.assert_allclose(measured(draw, 2, 25), true_effects(draw, 2, 0.1, 400), rtol=0.35)


def test_two_fields_have_the_effect_of_one(random):
    fields = [one_scan(smooth((90, 90), 2, random)) for _ in range(2)]
    alone = np.mean([effects([field], 1) for field in fields], axis=0)
    np.testing.assert_allclose(effects(fields, 1), alone, rtol=0.5)
    np.testing.assert_allclose(effects([fields[0]] * 2, 1), effects([fields[0]], 1), rtol=0.02)


def test_what_does_not_calibrate_is_not_read(random):
    values, group = smooth((40, 50), 2, random), random.integers(0, 2, (40, 50))
    group[10:25] = -1
    expected = effects([one_scan(values, group)], 2)
    for rubbish in (nan, inf, -1e30):
        found = effects([one_scan(np.where(group < 0, np.float32(rubbish), values), group)], 2)
        np.testing.assert_array_equal(found, expected)


def test_a_group_that_does_not_occur_or_is_too_rare_for_a_miss_has_no_effect(random):
    group = np.zeros((40, 40), int)
    group[3, 4:16] = 2
    found = effects([one_scan(smooth((40, 40), 1, random), group)], 4)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[[1, 3]]).all()
    # of 12 pixels, 5 % are less than one
    assert np.isfinite(found[2]).tolist() == [miss >= 0.1 for miss in MISSES]


def test_scores_that_are_mostly_equal_do_not_make_a_region_look_dependent(random):
    """In three of four pixels of one half, the truth is exactly what was predicted: no share of misses between is reached."""
    values = np.abs(random.standard_normal((120, 120))).astype(np.float32)
    values[random.random(values.shape) < 0.75] = 0
    group = np.repeat([0, 1], 60)[:, None] * np.ones(120, int)
    assert effects([one_scan(values, group)], 2).max() < 2


def test_scores_that_are_all_equal_miss_nothing():
    found = effects([one_scan(np.zeros((40, 40), np.float32))], 1)
    np.testing.assert_array_equal(found, 1)


def test_the_radius_is_where_smoothing_ends(random):
    assert correlation_radius([one_scan(smooth((200, 200), 0, random))], 0.1) == 1
    # exp(-r²/4 reach²) is the field's correlation; that of its misses falls a little faster, and is negligible from 3 reaches on
    for reach in (1, 2, 4):
        radii = [correlation_radius([one_scan(smooth((200, 200), reach, random))], 0.1) for _ in range(5)]
        assert 2.5 * reach <= np.median(radii) <= 5 * reach


def test_blocks_are_three_radii_long_and_those_that_hold_little_count_less(random):
    fields = [one_scan(smooth((192, 192), 2, random)) for _ in range(2)]
    radius, edge = survey.blocks([fields], "auto")
    assert edge == 3 * radius
    assert survey.blocks([fields], 64) == (radius, 64)
    found = measure(fields, 1).blocks[0, TENTH]
    along = ceil(192 / edge)
    last = 192 - edge * (along - 1)
    equal = 192**2 / (edge**2 * (along - 1) + last**2)  # of the blocks along one edge, the last is cut off
    assert found == pytest.approx(2 * equal**2)
    assert survey.blocks([], "auto") == (0, 8)


def test_each_group_has_blocks_of_its_own(random):
    """Correlated misses on the left, white ones on the right, and a third group in one corner."""
    group = np.zeros((96, 96), np.int16)
    group[:, 48:] = 1
    group[:8, 88:] = 2
    values = np.where(group == 0, smooth((96, 96), 4, random), random.standard_normal((96, 96)).astype(np.float32))
    blocks = measure([one_scan(values, group)], 4).blocks[:, TENTH]
    assert blocks[1] == pytest.approx(96 * 48 / 8**2, rel=0.05)
    assert blocks[0] < 15
    assert blocks[2] == 1
    assert isnan(blocks[3])


def test_a_field_thinner_than_a_block_has_blocks_as_thin(random):
    thin = measure([one_scan(smooth((3, 96, 96), 2, random))], 1).blocks[0, TENTH]
    flat = measure([one_scan(smooth((96, 96), 2, random))], 1).blocks[0, TENTH]
    assert flat / 3 < thin < 3 * flat


measurements = st.lists(st.one_of(st.just(nan), st.floats(1, 1e6)), min_size=len(MISSES), max_size=len(MISSES))


@given(measurements)
def test_at_a_share_that_was_measured_the_effect_is_the_measured_one(values):
    for miss, value in zip(MISSES, values, strict=True):
        if not isnan(value):
            assert effect_at(np.array(values), miss) == value


@given(measurements, st.floats(1e-4, 0.9999))
def test_between_two_shares_the_stronger_dependence_counts(values, miss):
    known = sorted((share, value) for share, value in zip(MISSES, values, strict=True) if not isnan(value))
    found = effect_at(np.array(values), miss)
    if not known:
        assert isnan(found)
        return
    below = [value for share, value in known if share <= miss][-1:]
    above = [value for share, value in known if share >= miss][:1]
    assert found == max(below + above)


@given(measurements, st.integers(0, len(MISSES) - 1), st.floats(1, 100), st.floats(1e-3, 0.999))
def test_stronger_dependence_at_any_share_never_makes_the_effect_less(values, index, times, miss):
    assume(not isnan(values[index]))
    stronger = np.array(values)
    stronger[index] *= times
    assert effect_at(stronger, miss) >= effect_at(np.array(values), miss)


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 2**31)), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_the_effect_of_a_union_is_never_less_than_the_true_one(rows, rank):
    """Excess misses of groups as vectors, whose products are their covariances: any dependence between groups is allowed."""
    vectors = np.array([np.random.default_rng(seed).normal(size=rank) for _, seed in rows])
    pixels = [count for count, _ in rows]
    alone = [float(vector @ vector) / count for vector, count in zip(vectors, pixels, strict=True)]
    together = vectors.sum(axis=0)
    assert union_effect(alone, pixels) >= float(together @ together) / sum(pixels) * (1 - 1e-9)
    assert union_effect(alone, pixels) >= np.average(alone, weights=pixels) * (1 - 1e-9)
    assert union_effect(alone, pixels) <= len(rows) * np.average(alone, weights=pixels) * (1 + 1e-9)


@given(st.floats(1, 1e6), st.integers(1, 10**9))
def test_the_effect_of_one_group_is_its_own(effect, pixels):
    assert union_effect([effect], [pixels]) == pytest.approx(effect)


def test_groups_that_miss_together_reach_the_bound_of_their_union():
    assert union_effect([5.0, 5.0], [1000, 1000]) == pytest.approx(10)


def test_the_effect_of_the_whole_is_bounded_by_that_of_its_groups(one_share, random):
    """Measured on the same field: a mixture of groups that are alike has at most the effect that the bound says."""
    for layout in ("scattered", "patches"):
        shape = (128, 128)
        group = random.integers(0, 3, shape)
        if layout == "patches":
            group = np.searchsorted(ndtri([1 / 3, 2 / 3]), smooth(shape, 6, random))
        values = smooth(shape, 2, random)
        alone = effects([one_scan(values, group)], 3)[:, 0]
        counts = np.bincount(group.ravel())
        assert effects([one_scan(values)], 1)[0, 0] <= 1.1 * union_effect(alone.tolist(), counts.tolist())


# --- the promise, as the workflow computes it ---------------------------------------------------------------------------------

SIGMA = np.array([0.9, 1.0, 1.3, 1.8])
SHARES = np.array([0.4, 0.3, 0.2, 0.1])


def calibrated_coverage(random, layout, config):
    """True coverage of each class of groups by thresholds from one field of 256 x 256 pixels with four tokens."""
    shape = (256, 256)
    residual = bench.residuals(1, shape[0], 4, random)[0]
    if layout == "scattered":
        token = random.choice(4, p=SHARES, size=shape)
    else:
        token = np.searchsorted(ndtri(SHARES.cumsum()[:-1]), smooth(shape, 12, random))
    truth = (residual * SIGMA[token]).astype(np.float32)
    half = np.float32(1.2)
    quantiles = np.stack([truth * 0 - half, truth * 0, truth * 0 + half])
    rows = scores(Score("asymmetric"), quantiles, truth)
    group, unit = token.astype(np.int16), np.zeros(truth.size, np.int64)
    counted = Counted(
        tuple({one: Histogram.of(row[token == one], unit[: (token == one).sum()]) for one in range(4)} for row in rows),
        Groups(tokens=4).names,
        SIGMA[:, None],
        stacked([measure([Part(row[None], group[None])], 4) for row in rows]),
    )
    merging = merging_of(config, counted)
    below, above = choose(config, counted, merging).thresholds
    covered = ndtr((half + above) / SIGMA) - ndtr(-(half + below) / SIGMA)
    return [np.average(covered[list(members)], weights=SHARES[list(members)]) for members in merging.members]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["scattered", "patches"])
def test_all_groups_of_one_field_hold_at_once_as_often_as_promised(layout, monkeypatch, random):
    config = CalibrationConfig()
    # two sides share the misses, so that no other share is asked for
    monkeypatch.setattr(survey, "MISSES", (float(config.miscoverage / 2),))
    repetitions = 25
    found = [calibrated_coverage(random, layout, config) for _ in range(repetitions)]
    failure = np.mean([min(classes) < config.coverage for classes in found])
    assert failure <= 0.1 + 2 * sqrt(0.1 * 0.9 / repetitions)
    pooled = [calibrated_coverage(random, layout, config.model_copy(update={"guarantee": "pooled"})) for _ in range(10)]
    assert np.mean([min(classes) < config.coverage for classes in pooled]) > 0.5, "the simulation can tell"
    assert np.mean([np.mean(classes) for classes in found]) < 0.94, "no promise is kept by intervals without end"
