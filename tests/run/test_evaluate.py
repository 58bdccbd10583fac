"""The tables of `evaluate` say what numpy says of the same test voxels, and on data where all is known what must come out."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import ndtri

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.thresholds import Calibration
from behindthenoise.core.calibration.units import Units
from behindthenoise.core.metrics.coverage import covers
from behindthenoise.core.split import CALIBRATION, TEST
from behindthenoise.io import stores
from behindthenoise.run import calibrate, evaluate, judge
from behindthenoise.run.judge import Judged

ASKED = {"guarantee": "pooled", "coverage": 0.8, "unit": "block", "block": 8, "score": "cqr"}
LEVELS = (0.1, 0.5, 0.8, 0.9)


@pytest.fixture(autouse=True)
def few_levels(monkeypatch):
    """All levels are the slowest part, and one is as good as another."""
    monkeypatch.setattr(calibrate, "LEVELS", (80,))
    monkeypatch.setattr(evaluate, "LEVELS", LEVELS)


@pytest.fixture(scope="module", params=["image", "volume"])
def evaluated(request, simulate, write, tmp_path_factory):
    """Fields, the experiment, and its tables."""
    shape = {"image": (32, 48), "volume": (6, 12, 24)}[request.param]
    fields = simulate(shape, scans=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "LEVELS", (80,))
        patch.setattr(evaluate, "LEVELS", LEVELS)
        experiment = write(tmp_path_factory.mktemp("evaluate"), fields)
        experiment.score(**ASKED)
        calibration, noisy, _ = experiment.calibrate(**ASKED)
        return fields, experiment, calibration, noisy, experiment.evaluate(**ASKED)


def judged_of(fields, experiment, calibration, channel, role=TEST):
    """Whole arrays of one channel at the test voxels, image by image and scan by scan, as `Judged`."""
    quantiles, spread = experiment.quantiles()
    where = np.broadcast_to((fields.role == role)[:, None], fields.tokens.shape)
    own, token, wide = np.moveaxis(quantiles[:, :, :, channel], 2, 0)[:, where], fields.tokens[where], spread[:, :, channel][where]
    truth = np.broadcast_to(fields.clean[:, None, channel], where.shape)[where]
    image, scan, *position = np.nonzero(where)
    units = Units.of("block", ASKED["block"], experiment.source.boxes(int(role)))
    unit = np.array([units.ids(int(one), np.array(at)[:, None])[0] for one, *at in zip(image, *position, strict=True)])
    ends = calibration.interval(channel, own, token, wide, (None, None))
    return Judged(own, wide, fields.noisy[:, :, channel][where], truth, token, unit, *ends, scan=scan)


def rows_of(table, channel):
    return [row for row in table if row["channel"] == f"c{channel}"]


@pytest.mark.parametrize("channel", [0, 1])
def test_the_row_of_a_channel_is_what_numpy_says(evaluated, channel):
    fields, experiment, calibration, noisy, tables = evaluated
    test = judged_of(fields, experiment, calibration, channel)
    (row,) = rows_of(tables["channels"], channel)
    inside = (test.lower <= test.truth) & (test.truth <= test.upper)
    median = np.clip(test.quantiles[1], test.lower, test.upper)
    width = test.upper.astype(np.float64) - test.lower
    shares = np.array([inside[test.unit == one].mean() for one in np.unique(test.unit)])
    below, above = np.maximum(test.lower - test.truth, 0), np.maximum(test.truth - test.upper, 0)
    expected = {
        "pixels": inside.size,
        "units": len(shares),
        "coverage": inside.mean(),
        "missed_below": (below > 0).mean(),
        "missed_above": (above > 0).mean(),
        "unit_least": shares.min(),
        "unit_median": np.median(shares),
        "unit_five_percent": np.quantile(shares, 0.05),
        "width": width.mean(),
        "width_median": np.median(width),
        "noisy_width": 2 * noisy[channel],
        "width_reduction": 2 * noisy[channel] / width.mean(),
        "noisy_coverage": (np.abs(test.noisy - test.truth) <= noisy[channel] + 1e-5).mean(),
        "gaussian_reduction": 1 - width.mean() / (2 * ndtri(0.9) * np.std(test.noisy - test.truth)),
        "interval_score": (width + 10 * below + 10 * above).mean(),
        "correlation": np.corrcoef(median, test.truth)[0, 1],
        "correlation_noisy": np.corrcoef(test.noisy, test.truth)[0, 1],
        "psnr": 20 * np.log10(np.ptp(test.truth)) - 10 * np.log10(np.square(median - test.truth).mean()),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4), name
    assert row["coverage_low"] < row["coverage"] < row["coverage_high"]
    assert row["missed_below"] + row["missed_above"] + row["coverage"] == pytest.approx(1)
    tokens = [inside[test.token == one].mean() for one in np.unique(test.token)]
    assert row["gap_tokens"] == pytest.approx(np.abs(np.array(tokens) - 0.8).mean())
    assert row["gap_intensity"] == pytest.approx(
        np.mean([abs(one["coverage"] - 0.8) for one in rows_of(tables["intensity"], channel)])
    )


@pytest.mark.parametrize("channel", [0, 1])
def test_every_group_and_unit_has_the_coverage_of_its_own_voxels(evaluated, channel):
    fields, experiment, calibration, _, tables = evaluated
    test = judged_of(fields, experiment, calibration, channel)
    inside, width = test.inside, test.upper - test.lower
    for table, key, values in (("tokens", "token", test.token), ("scans", "scan", test.scan), ("units", "unit", test.unit)):
        rows = rows_of(tables[table], channel)
        assert [row[key] for row in rows] == np.unique(values).tolist()
        for row in rows:
            chosen = values == row[key]
            assert row["pixels"] == chosen.sum()
            assert row["coverage"] == pytest.approx(inside[chosen].mean())
            if table == "tokens":
                assert row["width"] == pytest.approx(width[chosen].mean(), rel=1e-5)
                assert row["units"] == np.unique(test.unit[chosen]).size
    for table, values in (("intensity", test.median), ("widths", width)):
        rows = rows_of(tables[table], channel)
        assert sum(row["pixels"] for row in rows) == inside.size
        assert all(one["to"] == other["from"] for one, other in pairwise(rows))
        assert (rows[0]["from"], rows[-1]["to"]) == pytest.approx((values.min(), values.max()))
        for row in rows:
            last = row is rows[-1]
            chosen = (values >= row["from"]) & ((values < row["to"]) | last)
            assert row["pixels"] == chosen.sum()
            assert row["coverage"] == pytest.approx(inside[chosen].mean())
            assert row["pixels"] == pytest.approx(inside.size / len(rows), rel=0.1)


@pytest.mark.parametrize("channel", [0, 1])
def test_reliability_is_the_coverage_by_the_threshold_of_each_level(evaluated, channel):
    fields, experiment, calibration, _, tables = evaluated
    calibrating = judged_of(fields, experiment, calibration, channel, CALIBRATION)
    test = judged_of(fields, experiment, calibration, channel)
    rows = rows_of(tables["reliability"], channel)
    assert [row["level"] for row in rows] == list(LEVELS)
    for row in rows:
        hits, widths = [], []
        for one in (1, 2, 3):
            # the score of a value, by hand: how far it lies outside the sorted quantiles
            distance = [
                np.maximum(part.quantiles.min(axis=0) - part.truth, part.truth - part.quantiles.max(axis=0))[part.token == one]
                for part in (calibrating, test)
            ]
            ordered = np.sort(distance[0])
            threshold = ordered[int(np.ceil((ordered.size + 1) * row["level"] - 1e-9)) - 1]
            hits.append(distance[1] <= threshold)
            widths.append(np.maximum(np.ptp(test.quantiles, axis=0)[test.token == one] + 2 * threshold, 0))
        assert row["coverage"] == pytest.approx(np.concatenate(hits).mean(), abs=2 / test.truth.size)
        assert row["width"] == pytest.approx(np.concatenate(widths).mean(), rel=1e-3, abs=1e-4)
    nominal = next(row for row in rows if row["level"] == ASKED["coverage"])
    assert nominal["coverage"] == rows_of(tables["channels"], channel)[0]["coverage"]


def test_shares_of_the_probability_integral_transform_add_up_to_one(evaluated):
    tables = evaluated[-1]
    for channel in range(2):
        rows = rows_of(tables["pit"], channel)
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert [row["from"] for row in rows] == pytest.approx(np.arange(20) / 20)


@pytest.mark.parametrize("channel", [0, 1])
def test_the_first_members_are_averaged_for_every_size_of_the_ensemble(evaluated, channel):
    fields, _, _, _, tables = evaluated
    where = np.broadcast_to((fields.role == TEST)[:, None], fields.tokens.shape)
    truth = np.broadcast_to(fields.clean[:, None, channel], where.shape)[where]
    rows = rows_of(tables["ensemble"], channel)
    assert [row["members"] for row in rows] == [1, 2]
    for row in rows:
        mean = fields.members[: row["members"]].astype(np.float64).mean(axis=0)
        lower, median, upper = np.moveaxis(mean[:, :, :, channel], 2, 0)[:, where]
        assert row["correlation"] == pytest.approx(np.corrcoef(median, truth)[0, 1])
        assert row["width"] == pytest.approx((upper - lower).mean())
        assert row["coverage"] == pytest.approx(((lower <= truth) & (truth <= upper)).mean())


@pytest.mark.parametrize("evaluated", ["volume"], indirect=True)
def test_chunks_leave_the_tables_as_they_are(evaluated, make, monkeypatch):
    fields, _, _, _, tables = evaluated
    monkeypatch.setattr(stores, "CHUNK", {2: 20, 3: 11})
    again = make(fields)
    again.score(**ASKED)
    again.calibrate(**ASKED)
    found = again.evaluate(**ASKED)
    # slabs are drawn from a sample, and voxels come in another order
    drawn = {"slab_coverage"}
    for name, rows in tables.items():
        assert len(found[name]) == len(rows)
        for one, other in zip(found[name], rows, strict=True):
            for key in one.keys() - drawn:
                assert one[key] == (pytest.approx(other[key], rel=1e-5, nan_ok=True) if isinstance(one[key], float) else other[key])


@pytest.mark.parametrize("evaluated", ["image"], indirect=True)
def test_no_more_voxels_are_held_than_are_judged(evaluated, monkeypatch):
    """Test voxels may be a thousand million; the sample is the same for the ensemble and for each member."""
    _, experiment, calibration, _, tables = evaluated
    for name in ("MOST", "MOST_OF_MEMBERS"):
        monkeypatch.setattr(evaluate, name, 200)
    counted = evaluate.counts_on_disk.read(experiment.folder / "scores.npz")
    config = CalibrationConfig(**ASKED)
    judged = evaluate.collect(experiment.source, counted, calibration, 1, config)
    assert 190 <= judged.truth.size <= 210 < rows_of(tables["channels"], 1)[0]["pixels"]
    row = evaluate.by_size(experiment.source, experiment.members)[1][-1]
    lower, median, upper = judged.quantiles
    assert row["width"] == pytest.approx((upper - lower).mean(), rel=1e-5)
    assert row["correlation"] == pytest.approx(np.corrcoef(median, judged.truth)[0, 1], rel=1e-5)
    assert row["coverage"] == pytest.approx(((lower <= judged.truth) & (judged.truth <= upper)).mean())


# --- where everything is known ------------------------------------------------------------------------------------------------


@pytest.fixture
def known(simulate, make):
    """
    Predicted is 10 ± 1 everywhere, by members that disagree.

    The calibration voxels' errors are 0.5, 1.5, ... 9.5 in turn, 76 of each, so that of 760 scores the one of rank 571, which 75 %
    asks for, belongs to 7.5. The errors of the test voxels are 7.5 for token 1 and -8.5 for token 2; float32 knows all of these.
    """
    fields = simulate((20, 80), channels=1, roles=(1, 2, 2, 3))
    token = np.broadcast_to(1 + (np.arange(20) < 5)[:, None], (20, 80))
    error = np.broadcast_to(np.arange(80) % 10 + 0.5, (20, 80))
    fields.tokens[...] = token
    fields.clean[...] = 10 + np.where(fields.role[0] == TEST, np.where(token == 1, 7.5, -8.5), error)
    fields.noisy[...] = fields.clean[:, None] + 4
    fields.members[...] = np.array([9, 10, 11]).reshape(3, 1, 1, 1)
    fields.members[0] += 2
    fields.members[1] -= 2
    return make(replace(fields, value_unit="counts"))


def test_where_everything_is_known_the_tables_say_it(known):
    asked = {**ASKED, "coverage": 0.75, "groups": []}
    known.score(**asked)
    calibration, noisy, certificate = known.calibrate(**asked)
    assert calibration.thresholds[0].item() == 7.5 - 1
    assert noisy == [4.0]
    assert [row["threshold"] for row in certificate["channels"]] == [6.5]

    tables = known.evaluate(**asked)
    (row,) = tables["channels"]
    covered, missed = 15 * 20 / 380, 4 * 20 / 380  # [2.5, 17.5] holds 17.5 and not 1.5
    expected = {
        "coverage": covered,
        "missed_below": missed,
        "missed_above": 0,
        "width": 15,
        "noisy_width": 8,
        "noisy_coverage": 1,
        "interval_score": 15 + 2 / 0.25 * missed,
        "psnr": 20 * np.log10(16) - 10 * np.log10(7.5**2 * covered + 8.5**2 * missed),
        "gap_tokens": (0.25 + 0.75) / 2,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert [(one["token"], one["pixels"], one["coverage"]) for one in tables["tokens"]] == [(1, 300, 1), (2, 80, 0)]
    # scores of rank 77, 381, 609 and 685
    levels = [(one["coverage"], one["width"]) for one in tables["reliability"]]
    assert levels == [(0, pytest.approx(3)), (0, pytest.approx(11)), (1, pytest.approx(17)), (1, pytest.approx(19))]
    assert [(one["coverage"], one["width"]) for one in tables["ensemble"]] == [(0, 2), (0, 2)]
    # counts vary as much as they are: 17.5 and 1.5
    (noise,) = tables["reference"]
    assert (noise["pixels"], noise["noise_variance"]) == (380, pytest.approx(17.5 * covered + 1.5 * missed))


def normal_levels(levels):
    """Calibrations that are exact for standard normal truths predicted as -1, 0, 1."""
    for level in levels:
        threshold = np.full((1, 1), ndtri((1 + level) / 2) - 1, np.float32)
        yield level, Calibration((Score("cqr"),), (Groups(),), (threshold,))


def normal_test(size, random, shift=0.0):
    quantiles = np.tile(np.array([[-1.0], [0.0], [1.0]], np.float32), size)
    truth = (random.standard_normal(size) + shift).astype(np.float32)
    zeros, ones = np.zeros(size, np.float32), np.ones(size, np.uint8)
    return Judged(quantiles, zeros, truth, truth, ones, np.arange(size) % 50, quantiles[0], quantiles[2])


def test_a_calibrated_prediction_has_a_flat_transform_and_the_scores_of_its_law():
    """A standard normal truth has a continuous ranked probability score of 1/√π for its own law."""
    test = normal_test(100_000, np.random.default_rng(0))
    levels = [level / 100 for level in range(1, 100)]
    reliability, pit, scores = judge.by_level(test, 0, list(normal_levels(levels)), (None, None))
    np.testing.assert_allclose([row["share"] for row in pit], 0.05, atol=0.003)
    np.testing.assert_allclose([row["coverage"] for row in reliability], levels, atol=0.005)
    assert scores["crps"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)


def test_a_prediction_that_is_too_low_has_a_transform_that_leans_to_one():
    test = normal_test(30_000, np.random.default_rng(0), shift=1.0)
    levels = [level / 100 for level in range(1, 100)]
    _, pit, _ = judge.by_level(test, 0, list(normal_levels(levels)), (None, None))
    shares = [row["share"] for row in pit]
    assert all(one < other for one, other in pairwise(shares))


def test_a_level_that_nothing_can_be_promised_at_is_left_out():
    test = normal_test(1000, np.random.default_rng(0))
    endless = Calibration((Score("cqr"),), (Groups(),), (np.full((1, 1), np.inf, np.float32),))
    reliability, pit, scores = judge.by_level(test, 0, [*normal_levels([0.5, 0.9]), (0.99, endless)], (None, None))
    assert [row["level"] for row in reliability] == [0.5, 0.9]
    assert sum(row["share"] for row in pit) == pytest.approx(1)
    assert all(np.isfinite(value) for value in scores.values())


def test_groups_are_judged_by_whole_units():
    """Two units, one covered and one not: their voxels are many, but they tell of two draws."""
    test = normal_test(1000, np.random.default_rng(0))
    test = replace(test, unit=np.repeat([4, 9], 500), truth=np.repeat(np.array([0, 5], np.float32), 500))
    (row,) = judge.by_group(test, np.zeros(1000, int), 1)
    assert (row["coverage"], row["pixels"], row["units"]) == (0.5, 1000, 2)
    assert row["coverage_low"] < 0.01
    assert row["coverage_high"] > 0.99
    assert [(one["unit"], one["coverage"]) for one in judge.by_unit(test)] == [(4, 1.0), (9, 0.0)]


def test_groups_without_voxels_are_left_out():
    test = normal_test(30, np.random.default_rng(0))
    assert [row["group"] for row in judge.by_group(test, np.repeat([1, 4], 15), 7)] == [1, 4]
    assert [row["token"] for row in judge.by_token(replace(test, token=np.repeat([0, 3], 15).astype(np.uint8)))] == [0, 3]


def test_repeated_slow_scans_say_how_noisy_the_truth_is(simulate, make):
    fields = simulate((20, 60), channels=1)
    random = np.random.default_rng(4)
    half = random.normal(0, 0.4, fields.clean.shape).astype(np.float32)
    experiment = make(replace(fields, difference=half))
    experiment.score(**ASKED)
    experiment.calibrate(**ASKED)
    table = experiment.evaluate(**ASKED)["reference"]
    where = fields.role[0] == TEST
    total = sum(row["pixels"] for row in table)
    assert total == where.sum()
    measured = sum(row["noise_variance"] * row["pixels"] for row in table) / total
    assert measured == pytest.approx(half[0, 0][where].var(), rel=0.1)
    plain = make(fields, "plain")
    plain.score(**ASKED)
    plain.calibrate(**ASKED)
    assert plain.evaluate(**ASKED)["reference"] == []


def test_where_there_is_no_threshold_at_a_level_it_is_infinite(simulate, make):
    experiment = make(simulate((12, 24)))
    counted = experiment.score(**{**ASKED, "block": 4})
    config = CalibrationConfig(**{**ASKED, "guarantee": "crc", "coverage": 0.5})
    found = dict(evaluate.at_every_level(config, counted))
    assert list(found) == list(LEVELS)
    assert np.isfinite(np.concatenate(found[0.5].thresholds)).all()
    assert np.isinf(np.concatenate(found[0.9].thresholds)).all()
    tables = [np.concatenate(found[level].thresholds) for level in LEVELS]
    assert all((one <= other).all() for one, other in pairwise(tables))


def test_metrics_see_what_is_judged():
    test = normal_test(100, np.random.default_rng(1))
    np.testing.assert_array_equal(test.inside, covers(test.lower, test.upper, test.truth))
    cut = replace(test, lower=np.full(100, 0.5, np.float32))
    assert (cut.median == 0.5).all(), "the median lies inside the interval"
    np.testing.assert_array_equal(cut.width, 0.5)
