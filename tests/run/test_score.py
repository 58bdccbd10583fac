"""`score` counts every calibration voxel once, and `calibrate` makes of the counts what sorting all scores would give."""

from dataclasses import replace
from math import ceil, inf

import numpy as np
import pytest

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import survey
from behindthenoise.core.calibration.histogram import Histogram, values
from behindthenoise.core.calibration.survey import Dependence
from behindthenoise.core.calibration.units import Units
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN
from behindthenoise.errors import CalibrationError
from behindthenoise.io import stores
from behindthenoise.run import calibrate, score, scored
from behindthenoise.run import thresholds as stored

CASES = {"one field": {"shape": (18, 26)}, "volume": {"shape": (5, 8, 16), "scans": 2}, "images": {"shape": (9, 12), "images": 5}}


@pytest.fixture(autouse=True)
def few_levels(monkeypatch):
    """The table of levels is the slowest part, and one level in it is as good as another."""
    monkeypatch.setattr(calibrate, "LEVELS", (2, 50, 90, 99))


def conformity(rule, quantiles, truth, spread):
    """Scores by side as the table in `scores.Score` writes them, of whole arrays; quantiles are (..., 3, ...) along axis 0."""
    lower, median, upper = np.sort(quantiles, axis=0).astype(np.float64)
    width = {
        "cqr-m": (median - lower, upper - median),
        "cqr-r": (upper - lower,) * 2,
        "ensemble": (upper - lower + rule.spread_weight * spread,) * 2,
    }.get(rule.kind)
    below, above = np.float64(lower - truth), np.float64(truth - upper)
    if width is not None:
        below, above = (part / np.maximum(scale, rule.floor) for part, scale in zip((below, above), width, strict=True))
    return np.stack([below, above] if rule.kind == "asymmetric" else [np.maximum(below, above)]).astype(np.float32)


def listed(histogram):
    """All scores with their units, sorted."""
    table = histogram.counts.tocoo()
    rows = zip(histogram.units[table.row].tolist(), values(histogram.upper[table.col]).tolist(), table.data.tolist(), strict=True)
    return sorted((unit, value) for unit, value, times in rows for _ in range(times))


def expected_rows(experiment, fields, counted, channel):
    """Scores by side, groups and units of the calibration voxels of one channel, from the arrays as a whole."""
    quantiles, spread = experiment.quantiles()
    where = np.broadcast_to((fields.role == CALIBRATION)[:, None], fields.tokens.shape)
    truth = np.broadcast_to(fields.clean[:, None, channel], where.shape)[where]
    own = np.moveaxis(quantiles[:, :, :, channel], 2, 0)[:, where]
    rows = conformity(counted.scores[channel], own, truth, spread[:, :, channel][where])
    group = fields.tokens[where].astype(int) - 1
    edges = counted.groups[channel].edges
    if edges is not None:
        group = group * (len(edges) + 1) + np.searchsorted(edges, np.sort(own, axis=0)[1], side="right")
    units = Units.of(counted.unit_kind, counted.unit_edge, experiment.source.boxes(int(CALIBRATION)))
    image, _, *position = np.nonzero(where)
    unit = np.array([units.ids(int(one), np.array(at)[:, None])[0] for one, *at in zip(image, *position, strict=True)])
    return rows, group, unit


@pytest.mark.parametrize(
    ("case", "kind"),
    [("one field", "cqr"), ("one field", "cqr-r"), ("one field", "ensemble"), ("volume", "asymmetric"), ("images", "cqr-m")],
)
def test_each_cell_counts_the_scores_of_its_voxels_and_no_others(case, kind, simulate, make):
    fields = simulate(**CASES[case])
    experiment = make(fields)
    counted = experiment.score(score=kind, groups=["token", "intensity"], intensity_bins=2, unit="block", block=4)
    seen = set()
    for channel in range(fields.clean.shape[1]):
        rows, group, unit = expected_rows(experiment, fields, counted, channel)
        for side, row in enumerate(rows):
            for index in np.unique(group).tolist():
                chosen = group == index
                found = listed(counted.histograms[channel, side, index])
                expected = sorted(zip(unit[chosen].tolist(), row[chosen].tolist(), strict=True))
                assert [unit for unit, _ in found] == [unit for unit, _ in expected]
                # scaled scores are divided in another order than here
                np.testing.assert_allclose([one for _, one in found], [one for _, one in expected], rtol=1e-6, atol=1e-7)
                seen.add((channel, side, index))
    assert seen == set(counted.histograms)


@pytest.mark.parametrize("shares", [2, 5, 40])
def test_every_voxel_is_counted_by_one_job(shares, simulate, make, monkeypatch):
    """More jobs than blocks leave some with nothing to do."""
    monkeypatch.setattr(stores, "CHUNK", {2: 8, 3: 8})
    experiment = make(simulate(**CASES["images"]))
    whole, parts = experiment.score(), experiment.score(shares=shares)
    assert whole.histograms.keys() == parts.histograms.keys()
    for cell, histogram in whole.histograms.items():
        assert listed(histogram) == listed(parts.histograms[cell])
    for one, other in zip(whole.noisy, parts.noisy, strict=True):
        assert listed(one) == listed(other)
    sizes = [sum(histogram.total for histogram in scored.read(path).noisy) for path in experiment.shares]
    assert len(sizes) == shares
    assert sizes.count(0) == max(0, shares - 5 * 2 * 2)


def test_the_noisy_scan_is_judged_as_its_own_prediction(simulate, make):
    fields = simulate(**CASES["volume"])
    experiment = make(fields)
    counted = experiment.score(unit="block", block=4)
    where = np.broadcast_to((fields.role == CALIBRATION)[:, None], fields.tokens.shape)
    for channel, histogram in enumerate(counted.noisy):
        error = np.abs(fields.noisy - fields.clean[:, None])[:, :, channel][where]
        np.testing.assert_allclose(np.sort([value for _, value in listed(histogram)]), np.sort(error), atol=1e-5)


@pytest.mark.parametrize(("images", "asked", "expected"), [(4, "auto", "block"), (5, "auto", "image"), (5, "block", "block")])
def test_images_are_units_where_enough_of_them_calibrate(images, asked, expected, simulate, make):
    fields = simulate((9, 12), images=images + 1, channels=1)
    fields.role[-1][fields.role[-1] == CALIBRATION] = TRAIN
    counted = make(fields).score(unit=asked)
    assert counted.unit_kind == expected
    if expected == "image":
        assert not counted.dependence.is_known
        assert {tuple(histogram.units.tolist()) for histogram in counted.noisy} == {tuple(range(images))}


def test_dependence_is_measured_where_a_field_is_all_there_is(simulate, make):
    fields = simulate((30, 40), reach=2.0)
    experiment = make(fields)
    auto, blocks = experiment.score(), experiment.score(unit="block")
    assert np.isfinite(auto.dependence.effects).all()
    assert auto.radius > 2
    assert auto.unit_edge == 3 * auto.radius
    assert not blocks.dependence.is_known
    # the middle of the field is all of it here: the very scores that were counted
    rows, group, _ = expected_rows(experiment, fields, auto, 1)
    shape = (1, 30, 40)
    scores, groups = np.zeros(shape, np.float32), np.full(shape, -1, np.int16)
    where = fields.role == CALIBRATION
    scores[where], groups[where] = rows[0], group
    box = (slice(None), *experiment.source.boxes(int(CALIBRATION))[0])
    expected = survey.measure([survey.Part(scores[box], groups[box])], 3)
    np.testing.assert_allclose(auto.dependence[1, 0].effects, expected.effects, rtol=1e-9)
    np.testing.assert_allclose(auto.dependence[1, 0].blocks, expected.blocks, rtol=1e-9)


def test_the_certificate_names_the_fewest_blocks_and_warns_of_them(simulate, make):
    experiment = make(simulate((40, 60), reach=3.0))
    asked = {"coverage": 0.6, "failure": 0.4, "groups": []}
    experiment.score(**asked)
    _, _, certificate = experiment.calibrate(**asked)
    blocks = [row["blocks"] for row in certificate["channels"]]
    assert certificate["basis"]["blocks"] == min(blocks) < 5
    assert any(f"worth no more than {min(blocks):.2g} blocks" in line for line in certificate["warnings"])
    experiment.score(**asked, unit="block", block=4)
    _, _, counted = experiment.calibrate(**asked, unit="block", block=4)
    assert counted["basis"]["blocks"] is None


def test_the_scan_has_the_room_that_its_own_blocks_ask_for(simulate, make):
    counted = make(simulate((40, 60), reach=2.0)).score()
    config = CalibrationConfig(coverage=0.8, failure=0.1)

    def threshold(blocks):
        dependence = Dependence(counted.noisy_dependence.effects, np.full_like(counted.noisy_dependence.blocks, blocks))
        return calibrate.noisy_threshold(config, replace(counted, noisy_dependence=dependence), 0)

    assert threshold(1.0) > threshold(20.0) > threshold(1e9)
    few = counted.noisy_dependence[0].at(0.2)[1]
    assert calibrate.noisy_threshold(config, counted, 0) == threshold(few)


def test_dependence_is_measured_where_calibration_voxels_lie(simulate, make, monkeypatch):
    """Blocks that calibrate may leave the middle of the field to training."""
    monkeypatch.setattr(survey, "LARGEST", 100)
    fields = simulate((12, 60), roles=(2, 1, 1, 3, 2))
    assert not (fields.role[:, :, 20:40] == CALIBRATION).any()
    counted = make(fields).score()
    assert counted.dependence.is_known


def test_constants_come_from_training_voxels_alone(simulate, make):
    fields = simulate((16, 40))
    asked = {"score": "ensemble", "groups": ["intensity"], "intensity_bins": 4}
    first = make(fields, "first").score(**asked)
    held_out = fields.role != TRAIN
    changed = replace(fields, clean=fields.clean.copy(), members=fields.members.copy())
    changed.clean[np.broadcast_to(held_out[:, None], changed.clean.shape)] *= 5
    changed.members[np.broadcast_to(held_out[None, :, None, None, None], changed.members.shape)] *= 3
    second = make(changed, "second").score(**asked)
    assert second.scores == first.scores
    for one, other in zip(first.groups, second.groups, strict=True):
        np.testing.assert_array_equal(one.edges, other.edges)
        trained = np.mean(fields.members[:, 0, 0, 1], axis=0)[first.groups.index(one)][fields.role[0] == TRAIN]
        assert np.bincount(np.searchsorted(one.edges, trained, side="right")).min() >= 0.2 * trained.size
    assert not np.array_equal(first.dependence.effects, second.dependence.effects)
    trained = replace(fields, members=fields.members.copy())
    trained.members[np.broadcast_to(~held_out[None, :, None, None, None], trained.members.shape)] *= 3
    assert make(trained, "third").score(**asked).scores != first.scores


def test_channels_may_have_bins_of_their_own_number(simulate, make):
    """Where most medians are tied, there are fewer bins that can be filled alike."""
    fields = simulate((16, 40), members=1)
    fields.members[:, :, :, :, 1] = np.where(fields.members[:, :, :, :, 1] > 12, fields.members[:, :, :, :, 1], 0)
    counted = make(fields).score(groups=["intensity"], intensity_bins=5, unit="block", block=4)
    assert [groups.bins for groups in counted.groups][1] < 5 == counted.groups[0].bins
    assert [place.shape for place in counted.places] == [(groups.count, 1) for groups in counted.groups]
    for channel in range(2):
        assert counted.counted(channel).pixels.sum() == (fields.role == CALIBRATION).sum()


def test_every_group_that_a_voxel_may_have_has_a_name_a_place_and_its_scores(simulate, make):
    experiment = make(simulate(**CASES["one field"]))
    counted = experiment.score(groups=["token", "intensity"], score="cqr-m", unit="block")
    for channel, groups in enumerate(counted.groups):
        counts = counted.counted(channel)
        assert len(counts.names) == groups.count == counts.dependence.effects.shape[1] == len(counts.places)
        assert sum(histogram.total for histogram in counts.sides[0].values()) == counted.noisy[channel].total
        assert all(isinstance(histogram, Histogram) for histogram in counts.sides[0].values())
    assert counted.unit_kind == "block"


@pytest.mark.parametrize(("case", "guarantee"), [("one field", "pac"), ("volume", "crc"), ("images", "pac")])
def test_chunks_and_buckets_leave_every_bit_of_the_thresholds(case, guarantee, simulate, make, monkeypatch):
    """As a whole and one by one; by several jobs in chunks that do not fit, and in buckets that are read again."""
    fields = simulate(**CASES[case])
    asked = {"guarantee": guarantee, "coverage": 0.6, "failure": 0.4, "score": "asymmetric", "block": 4}
    found = []
    for name, edge, lossless, shares in (("whole", 64, score.LOSSLESS, 1), ("pieces", 10, 0, 3)):
        monkeypatch.setattr(stores, "CHUNK", {2: edge, 3: edge})
        monkeypatch.setattr(score, "LOSSLESS", lossless)
        experiment = make(fields, name)
        counted = experiment.score(**asked, shares=shares)
        assert all(histogram.exact.all() == (lossless > 0) for histogram in counted.noisy)
        calibration, _, certificate = experiment.calibrate(**asked)
        measured = (counted.dependence.effects, counted.dependence.blocks, counted.radius)
        found.append((*measured, calibration.thresholds, certificate["channels"], certificate["statement"]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize("kind", ["cqr-m", "asymmetric"])
def test_intervals_hold_on_calibration_voxels_what_was_counted(kind, simulate, make, chosen):
    fields = simulate((30, 44))
    experiment = make(fields)
    asked = {"score": kind, "guarantee": "crc", "coverage": 0.75, "unit": "block", "block": 4}
    experiment.score(**asked)
    calibration, noisy, certificate = experiment.calibrate(**asked)
    quantiles, spread = experiment.quantiles()
    where = chosen(fields, CALIBRATION)
    for row in certificate["channels"]:
        channel = int(row["channel"][1:])
        truth = np.broadcast_to(fields.clean[:, None, channel], where.shape)[where]
        own, token = np.moveaxis(quantiles[:, :, :, channel], 2, 0)[:, where], fields.tokens[where]
        lower, upper = calibration.interval(channel, own, token, spread[:, :, channel][where], (None, None))
        members = np.isin(token, [int(name.split()[1]) for name in row["groups"]])
        kept = {0: lower <= truth, 1: truth <= upper}[row["side"]] if kind == "asymmetric" else (lower <= truth) & (truth <= upper)
        assert row["pixels"] == members.sum()
        assert row["rank"] <= kept[members].sum() <= row["rank"] + 2
    for channel, threshold in enumerate(noisy):
        error = np.abs(fields.noisy - fields.clean[:, None])[:, :, channel][where]
        assert 0.75 < (error <= threshold + 1e-5).mean() < 0.9


def test_the_table_of_levels_holds_the_thresholds_of_every_level(simulate, make):
    fields = simulate((30, 44))
    experiment = make(fields)
    asked = {"score": "asymmetric", "guarantee": "pooled", "coverage": 0.9}
    counted = experiment.score(**asked)
    calibration, _, certificate = experiment.calibrate(**asked)
    rows = experiment.levels()
    sides = 2
    assert len(rows) == 2 * 4 * sides * 3
    direct = {}
    for channel in range(2):
        scores, group, _ = expected_rows(experiment, fields, counted, channel)
        direct |= {(f"c{channel}", side, one): np.sort(row[group == one]) for side, row in enumerate(scores) for one in range(3)}
    for row in rows:
        ordered = direct[row["channel"], row["side"], row["group"]]
        rank = ceil((ordered.size + 1) * (100 * sides - (100 - row["level"])) / (100 * sides) - 1e-9)
        assert row["threshold"] == pytest.approx(float(ordered[rank - 1]) if rank <= ordered.size else inf)
        if row["level"] == 90:
            channel = int(row["channel"][1:])
            assert row["threshold"] == pytest.approx(calibration.thresholds[channel][row["side"], row["group"]])
    assert {row["guarantee"] for row in certificate["other_guarantees"]} == {"pac", "crc", "tolerance", "rcps", "pooled"}
    for row in certificate["other_guarantees"]:
        if row["guarantee"] == "pooled":
            own = calibration.thresholds[int(row["channel"][1:])][row["side"], row["groups"]]
            np.testing.assert_array_equal(own, np.float32(row["threshold"]))


def test_the_certificate_says_what_the_data_are(simulate, make):
    single = make(simulate((30, 44), scans=3, channels=1), "single")
    single.score()
    basis = single.calibrate(coverage=0.6)[2]["basis"]
    assert (basis["fields"], basis["scans"], basis["one_field"], basis["grouped_by"]) == (1, 3, True, ["token"])
    several = make(simulate((10, 12), images=7, channels=1), "several")
    several.score(groups=[])
    certificate = several.calibrate(coverage=0.6, groups=[])[2]
    basis = certificate["basis"]
    assert (basis["kind"], basis["units"], basis["fields"], basis["one_field"], basis["groups"]) == ("image", 7, 7, False, 1)
    assert "7 calibration images" in certificate["statement"]
    assert "at least 4 voxels lie between them" in certificate["checked"][0]


def test_what_cannot_be_promised_ends_in_an_error(simulate, make):
    experiment = make(simulate((9, 12), images=6, channels=1))
    experiment.score()
    with pytest.raises(CalibrationError, match=r"6 calibration images cannot promise 90 % coverage .* at least 9"):
        experiment.calibrate(guarantee="crc")
    assert not (experiment.folder / "thresholds.json").exists()


def test_clean_values_outside_the_support_are_refused_wherever_they_lie(simulate, make, monkeypatch):
    monkeypatch.setattr(stores, "CHUNK", {2: 5, 3: 5})
    fields = simulate((13, 16))
    fields.clean[0, 1, 12, 15] = -7
    experiment = make(fields)
    experiment.score()
    with pytest.raises(CalibrationError, match="channel 'c1' of the clean image holds -7"):
        experiment.calibrate(coverage=0.6, support=[-5, None])
    experiment.calibrate(coverage=0.6, support=[-7, None])


def test_a_missing_prediction_is_an_error_and_no_score(simulate, make):
    fields = simulate((13, 16))
    fields.members[0, 0, 0, :, 1, 5, 6] = np.nan
    assert fields.role[0, 5, 6] == CALIBRATION
    with pytest.raises(CalibrationError, match="calibration scores are NaN"):
        make(fields).score()


def test_scores_are_kept_one_by_one_only_as_long_as_all_channels_and_sides_fit(simulate, make, monkeypatch):
    """Each calibration voxel has, in each channel, a score for each side and the error of the noisy scan."""
    fields = simulate((13, 16), channels=3)
    total = int((fields.role == CALIBRATION).sum()) * 3 * (2 + 1)
    for limit, lossless in ((total, True), (total - 1, False)):
        monkeypatch.setattr(score, "LOSSLESS", limit)
        counted = make(fields, str(limit)).score(score="asymmetric", unit="block")
        assert all(histogram.exact.all() == lossless for histogram in counted.noisy)


def test_thresholds_are_read_back_to_the_bit(simulate, make):
    experiment = make(simulate((30, 44)))
    counted = experiment.score(groups=["token", "intensity"], intensity_bins=2)
    asked = {"coverage": 0.6, "groups": ["token", "intensity"], "intensity_bins": 2}
    config = experiment.spec("calibrate", **asked).part("calibration", CalibrationConfig)
    chosen = calibrate.thresholds_of(config, counted, experiment.source)
    calibration, noisy, _ = experiment.calibrate(**asked)
    for own, read in zip(chosen, calibration.thresholds, strict=True):
        np.testing.assert_array_equal(own.thresholds, read)
    assert calibration.scores == counted.scores
    for one, other in zip(calibration.groups, counted.groups, strict=True):
        np.testing.assert_array_equal(one.edges, other.edges)
        assert one.tokens == other.tokens == 3
    stored.write(
        experiment.folder / "again.json", replace(calibration, thresholds=(np.full((1, 6), inf, np.float32),) * 2), noisy, 0.6
    )
    assert np.isinf(stored.read(experiment.folder / "again.json")[0].thresholds[0]).all()


def test_every_channel_and_token_of_independent_pixels_is_covered_as_asked_for(simulate, make):
    """By `score`, `calibrate` and the intervals on test voxels, within half a point."""
    fields = simulate((400, 720), reach=0, members=1, roles=(1, 2, 2, 2, 2, 3, 3, 3, 3))
    experiment = make(fields)
    asked = {"guarantee": "pooled", "unit": "block", "block": 64, "score": "cqr-m"}
    experiment.score(**asked)
    calibration, _, _ = experiment.calibrate(**asked)
    quantiles, spread = experiment.quantiles()
    where = fields.role == TEST
    for channel in range(2):
        own, token = quantiles[0, 0, :, channel][:, where[0]], fields.tokens[0, 0][where[0]]
        lower, upper = calibration.interval(channel, own, token, spread[0, 0, channel][where[0]], (None, None))
        truth = fields.clean[0, channel][where[0]]
        inside = (lower <= truth) & (truth <= upper)
        raw = (np.sort(own, axis=0)[0] <= truth) & (truth <= np.sort(own, axis=0)[2])
        for one in (1, 2, 3):
            assert inside[token == one].mean() == pytest.approx(0.9, abs=0.005)
            assert abs(raw[token == one].mean() - 0.9) > 0.05


def test_what_is_true_of_several_channels_is_said_once():
    together = "token 1 and token 2 share one threshold"
    told = calibrate.by_sentence({"Si": [together], "Al": ["another"], "Fe": [together, "a third"]})
    assert told == [f"Si, Fe: {together}", "Al: another", "Fe: a third"]
