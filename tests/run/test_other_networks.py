"""Calibration of other people's arrays: NPY files and Zarr arrays in, thresholds, certificate and intervals out."""

import hashlib
import json
import re
import shlex
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.ndimage import gaussian_filter

from behindthenoise.cli import main
from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.ranks import cluster_rank
from behindthenoise.core.calibration.scores import Score, scores
from behindthenoise.core.calibration.survey import Dependence
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import CALIBRATION
from behindthenoise.errors import CalibrationError, ConfigError, SourceError
from behindthenoise.io import tables
from behindthenoise.io.geometry import Axes
from behindthenoise.io.record import read_json
from behindthenoise.run import calibrate, other_networks, score, shares, survey
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.other_networks import Options, apply, calibration, levels, settings
from behindthenoise.run.other_networks import arrays as io
from behindthenoise.run.scored import Scored
from behindthenoise.run.scored import read as read_scores

ROOT = Path(__file__).parents[2]
AXES = {2: "image y x", 3: "image z y x"}
IMAGES = 12


def field(random, shape, reach=1.5):
    """A correlated field of variance 1."""
    smooth = gaussian_filter(random.normal(size=shape), reach, mode="wrap")
    return smooth / smooth.std()


def simulate(seed=0, images=IMAGES, shape=(18, 14), between=0.3):
    """Predictions and truth of images whose errors are correlated, and larger in some images than in others."""
    random = np.random.default_rng(seed)
    median = np.stack([field(random, shape, 3) for _ in range(images)])
    size = np.exp(between * random.normal(size=(images, *[1] * len(shape))))
    error = size * np.stack([0.8 * field(random, shape) + 0.6 * random.normal(size=shape) for _ in range(images)])
    width = 1 + 0.3 * np.abs(median)
    found = {"lower": median - width, "median": median, "upper": median + 1.2 * width, "truth": median + error, "spread": width / 4}
    return {name: values.astype(np.float32) for name, values in found.items()}


def save(folder, values, how="npy"):
    """Arrays on disk, and their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.{'zarr' if how.startswith('zarr') else 'npy'}" for name in values}
    for name, array in values.items():
        if how == "zarr":
            chunks = tuple(max(1, size // 3) for size in array.shape)
            zarr.create_array(paths[name], shape=array.shape, dtype=array.dtype, chunks=chunks)[:] = array
        elif how == "zarr-shards":
            shards = tuple(4 * (size // 4 + 1) for size in array.shape)
            stored = zarr.create_array(
                paths[name], shape=array.shape, dtype=array.dtype, chunks=tuple(size // 4 for size in shards), shards=shards
            )
            stored[:] = array
        else:
            np.save(paths[name], np.asfortranarray(array) if how == "npy-fortran" else array)
    return paths


def need(paths, *names):
    return {name: paths[name] for name in ("lower", "median", "upper", "truth", *names)}


def options(ndim=2, floor=None, **values):
    return Options(settings(values), axes=AXES[ndim], floor=floor)


def threshold(folder):
    return np.array(read_json(folder / "thresholds.json")["channels"][0]["thresholds"], np.float32)


def crc_oracle(values, kind="cqr", miss=Fraction(1, 10), chosen=None):
    """Threshold of guarantee crc by sorting every score."""
    found = scores(Score(kind), np.stack([values[name] for name in io.QUANTILES]), values["truth"])
    chosen = np.ones(values["truth"].shape, bool) if chosen is None else chosen
    sizes = chosen.reshape(len(chosen), -1).sum(axis=1)
    share = miss / len(found)
    return np.array([np.sort(row[chosen])[cluster_rank(sizes[sizes > 0], share) - 1] for row in found])


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def ndim(request):
    return request.param


# --- thresholds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cqr", "asymmetric"])
def test_the_threshold_is_the_order_statistic_of_all_scores(tmp_path, ndim, kind):
    # asymmetric halves the misses, which takes 19 images
    values = simulate(images=24, shape=(10, 9, 8)[:ndim])
    other_networks.calibrate(need(save(tmp_path, values)), options(ndim, guarantee="crc", score=kind), tmp_path / "out")
    np.testing.assert_array_equal(threshold(tmp_path / "out")[:, 0], crc_oracle(values, kind))


@pytest.mark.parametrize("how", ["npy-fortran", "zarr", "zarr-shards"])
@pytest.mark.parametrize("guarantee", ["pac", "crc", "tolerance", "rcps", "pooled"])
def test_storage_pieces_and_buckets_leave_every_bit_of_the_thresholds(tmp_path, monkeypatch, how, guarantee):
    values = simulate(images=30)
    asked = options(guarantee=guarantee, coverage=0.8, score="cqr-r")
    whole = other_networks.calibrate(need(save(tmp_path / "whole", values)), asked, tmp_path / "one")
    monkeypatch.setattr(io, "PIECE", 150)
    monkeypatch.setattr(calibration, "LOSSLESS", 0)
    parts = other_networks.calibrate(need(save(tmp_path / "parts", values, how)), asked, tmp_path / "two")
    assert threshold(tmp_path / "one") == threshold(tmp_path / "two")
    assert whole["thresholds"] == parts["thresholds"]
    assert whole["statement"] == parts["statement"]


@pytest.mark.parametrize("how", ["npy-fortran", "zarr", "zarr-shards"])
@pytest.mark.parametrize("asked", [{}, {"unit": "block", "block": 6, "guarantee": "crc"}], ids=["one field", "blocks"])
def test_blocks_of_one_masked_image_are_the_same_for_any_storage(tmp_path, monkeypatch, how, asked):
    values = {name: array[0] for name, array in simulate(images=1, shape=(60, 50), between=0).items()}
    values["mask"] = np.zeros((60, 50), bool)
    values["mask"][5:57, 3:] = True
    whole = other_networks.calibrate(need(save(tmp_path / "whole", values), "mask"), Options(settings(asked)), tmp_path / "one")
    monkeypatch.setattr(io, "PIECE", 150)
    monkeypatch.setattr(calibration, "LOSSLESS", 0)
    parts = other_networks.calibrate(
        need(save(tmp_path / "parts", values, how), "mask"), Options(settings(asked)), tmp_path / "two"
    )
    assert whole["thresholds"] == parts["thresholds"]
    assert whole["basis"] == parts["basis"]
    if asked:
        assert whole["basis"]["units"] == 9 * 8  # of 52 x 47 voxels


@pytest.mark.parametrize("guarantee", ["pac", "crc", "tolerance", "pooled"])
def test_the_order_of_the_images_does_not_matter(tmp_path, guarantee):
    values = simulate()
    order = np.random.default_rng(3).permutation(IMAGES)
    found = []
    for name, images in (("sorted", slice(None)), ("shuffled", order)):
        paths = save(tmp_path / name, {key: array[images] for key, array in values.items()})
        other_networks.calibrate(need(paths), options(guarantee=guarantee), tmp_path / f"{name}-out")
        found.append(threshold(tmp_path / f"{name}-out"))
    assert found[0] == found[1]


def test_numbers_of_other_precision_count_as_float32(tmp_path):
    values = simulate()
    asked = options(guarantee="crc")
    other_networks.calibrate(need(save(tmp_path / "a", values)), asked, tmp_path / "one")
    doubled = {name: array.astype(">f8") for name, array in values.items()}
    other_networks.calibrate(need(save(tmp_path / "b", doubled)), asked, tmp_path / "two")
    assert threshold(tmp_path / "one") == threshold(tmp_path / "two")


def test_whole_numbers_are_numbers(tmp_path):
    # float32 holds all of them
    values = {name: np.rint(100 * array).astype(np.int64) for name, array in simulate().items()}
    asked = options(guarantee="crc")
    found = other_networks.calibrate(need(save(tmp_path / "a", values)), asked, tmp_path / "one")
    single = {name: array.astype(np.float32) for name, array in values.items()}
    other_networks.calibrate(need(save(tmp_path / "b", single)), asked, tmp_path / "two")
    assert threshold(tmp_path / "one") == threshold(tmp_path / "two")
    assert not any("rounded to float32" in sentence for sentence in found["assumptions"])
    ends = []
    for folder in ("a", "b"):
        paths = {name: tmp_path / folder / f"{name}.npy" for name in io.QUANTILES}
        ends.append([np.load(path) for path in apply(tmp_path / "one", paths, tmp_path / f"{folder}-new")])
    np.testing.assert_array_equal(*ends)
    assert ends[0][0].dtype == np.float32


@pytest.mark.parametrize(
    "lossy",
    [lambda v: v.astype(np.float64) + 1e-12, lambda v: (2.0**20 * v).astype(np.int64) * 1001],
    ids=["float64", "int64"],
)
def test_rounding_to_float32_is_said_once_where_it_changes_a_number(tmp_path, capsys, lossy):
    values = simulate()
    kept = values["upper"] * np.float32(2.0**20) if lossy(values["upper"]).dtype.kind == "i" else values["upper"]
    # what is exact, and what is masked, does not matter
    values = {name: np.asarray(array, np.float64) for name, array in {**values, "upper": kept}.items()}
    paths = need(save(tmp_path, values))
    found = other_networks.calibrate(paths, options(), tmp_path / "out")
    assert not any("rounded" in sentence for sentence in found["assumptions"])
    masked = np.ones(values["truth"].shape, bool)
    masked[0, 0, 0] = False
    hidden = {**values, "mask": masked, "lower": np.where(masked, values["lower"], 0.1)}
    found = other_networks.calibrate(need(save(tmp_path, hidden), "mask"), options(), tmp_path / "out")
    assert not any("rounded" in sentence for sentence in found["assumptions"])
    assert "rounded" not in capsys.readouterr().err
    changed = {name: lossy(simulate()[name]) if name in ("truth", "lower") else array for name, array in values.items()}
    paths = save(tmp_path, changed)
    found = other_networks.calibrate(need(paths), options(), tmp_path / "out")
    said = [sentence for sentence in found["assumptions"] if "rounded" in sentence]
    assert said == [said[0]] and said[0].startswith("Numbers of --lower, --truth were rounded to float32")
    assert capsys.readouterr().err.count(said[0]) == 1
    apply(tmp_path / "out", {name: paths[name] for name in io.QUANTILES}, tmp_path / "new")
    assert capsys.readouterr().err.count("Numbers of --lower were rounded to float32") == 1


def test_both_scores_of_a_voxel_count_towards_what_is_kept_one_by_one(tmp_path, monkeypatch):
    values = simulate(images=24)
    paths = need(save(tmp_path, values))
    voxels = values["truth"].size
    for kind, most, exact in (("cqr", voxels, True), ("cqr", voxels - 1, False), ("asymmetric", voxels, False)):
        monkeypatch.setattr(calibration, "LOSSLESS", most)
        other_networks.calibrate(paths, options(score=kind, guarantee="crc"), tmp_path / "out")
        kept = [histogram.exact.all() for histogram in read_scores(tmp_path / "out" / "scores.npz").histograms.values()]
        assert all(kept) == exact


def test_what_is_masked_does_not_count_whatever_it_holds(tmp_path, ndim, monkeypatch):
    monkeypatch.setattr(io, "PIECE", 100)
    values = simulate(images=20, shape=(10, 9, 8)[:ndim])
    chosen = np.random.default_rng(1).random(values["truth"].shape) < 0.6
    chosen[3] = False
    kept = crc_oracle(values, chosen=chosen)
    for name in ("lower", "median", "upper", "truth"):
        values[name][~chosen] = np.nan
    found = other_networks.calibrate(
        need(save(tmp_path, {**values, "mask": chosen.astype(np.uint8)}), "mask"), options(ndim, guarantee="crc"), tmp_path / "out"
    )
    assert threshold(tmp_path / "out")[:, 0] == kept
    assert found["basis"]["units"] == 19
    assert found["thresholds"][0]["pixels"] == chosen.sum()


def test_each_token_has_the_threshold_that_it_would_have_alone(tmp_path):
    values = simulate(images=20)
    tokens = np.random.default_rng(2).choice([1, 2, 4], p=[0.6, 0.3, 0.1], size=values["truth"].shape).astype(np.uint16)
    values["truth"] += (tokens == 4) * np.float32(3)
    paths = save(tmp_path, {**values, "tokens": tokens})
    certificate = other_networks.calibrate(need(paths, "tokens"), options(guarantee="crc", coverage=0.7), tmp_path / "out")
    alone = [crc_oracle(values, miss=Fraction(3, 10), chosen=tokens == token)[0] for token in (1, 2, 4)]
    # token 3 never occurs and shares the threshold of another one
    np.testing.assert_array_equal(threshold(tmp_path / "out")[0, [0, 1, 3]], alone)
    assert threshold(tmp_path / "out")[0, 2] in alone
    assert "token 3 (0 pixels)" in certificate["merged"][0]
    assert "each group of voxels (by token)" in certificate["statement"]


@pytest.mark.parametrize("kind", ["cqr-r", "cqr-m", "ensemble"])
def test_the_least_width_is_a_thousandth_of_the_median_width(tmp_path, kind):
    values = simulate()
    paths = need(save(tmp_path, values), *(["spread"] if kind == "ensemble" else []))
    found = other_networks.calibrate(paths, options(score=kind), tmp_path / "out")
    median = np.median(values["upper"] - values["lower"])
    assert median / 1000 <= found["score"]["floor"] <= 1.01 * median / 1000
    assert "comes from the widths predicted" in found["assumptions"][-1]
    given = other_networks.calibrate(paths, options(score=kind, floor=0.25), tmp_path / "out")
    assert given["score"]["floor"] == 0.25
    assert not any("widths predicted" in sentence for sentence in given["assumptions"])


def test_widths_of_zero_leave_a_floor_to_divide_by(tmp_path):
    values = simulate()
    flat = {**values, "lower": values["median"], "upper": values["median"]}
    assert other_networks.calibrate(need(save(tmp_path, flat)), options(score="cqr-r"), tmp_path / "out")["score"]["floor"] == 1


def held_out(values, tokens):
    """The workflow's view of the same numbers."""

    def stored(array):
        made = zarr.create_array({}, shape=array.shape, dtype=array.dtype, chunks=(1,) * (array.ndim - 2) + (10, 9))
        made[:] = array
        return made

    quantiles = np.stack([values[name] for name in io.QUANTILES], axis=1)[:, None, :, None]
    scan = values["truth"][:, None, None]
    return HeldOut(
        role=stored(np.full(values["truth"].shape, int(CALIBRATION), np.uint8)),
        noisy=stored(scan),
        clean=stored(scan[:, 0]),
        quantiles=stored(quantiles),
        spread=stored(values["spread"][:, None, None]),
        tokens=stored(tokens[:, None]),
        difference=None,
        scale=Scale((0.0,), (1.0,), (0.0,), (1.0,), (1.0,), (0.0,)),
        axes=Axes(("y", "x"), ("only",), "a.u."),
        gap=0,
        tiling_difference=0.0,
    )


@pytest.mark.parametrize("guarantee", ["pac", "crc"])
@pytest.mark.parametrize(("images", "shape"), [(8, (18, 14)), (1, (60, 50))], ids=["images", "one field"])
def test_the_workflow_finds_the_same_thresholds_for_the_same_numbers(tmp_path, guarantee, images, shape):
    values = simulate(images=images, shape=shape, between=0)
    tokens = (1 + (values["median"] > 0)).astype(np.uint8)
    asked = {"coverage": 0.8, "guarantee": guarantee, "score": "cqr-m"} | ({"block": 6} if guarantee == "crc" else {})
    paths = need(save(tmp_path, {**values, "tokens": tokens}), "tokens")
    found = other_networks.calibrate(paths, options(floor=0.01, **asked), tmp_path / "out")

    config, source = settings({**asked, "groups": ["token"]}), held_out(values, tokens)
    rules = survey.Rules((Score("cqr-m", 0.01),), (Groups(None, 2),), (np.zeros(0),))
    boxes = source.boxes(int(CALIBRATION))
    kind = "image" if images >= 5 else "block"
    dependence = Dependence.unknown(*survey.shape_of(rules))
    if kind == "block":
        dependence = survey.measured(survey.read_parts(source, rules, boxes)[0], rules)
    fixed = Scored(
        scores=rules.scores,
        groups=rules.groups,
        places=(np.zeros((2, 1)),),
        histograms={},
        noisy=(),
        dependence=dependence,
        noisy_dependence=Dependence.unknown(1),
        unit_kind=kind,
        unit_edge=found["basis"]["edge"],
        radius=0,
    )
    counted = fixed.with_counts(*score.count(source, fixed, shares.ALL))
    chosen = calibrate.thresholds_of(config, counted, source)
    np.testing.assert_array_equal(threshold(tmp_path / "out"), chosen[0].thresholds)
    assert found["thresholds"] == chosen[0].records


# --- promises -----------------------------------------------------------------------------------------------------------------


def failing(tmp_path, images, repeats, **asked):
    """Coverage of each calibration on a population, by its threshold."""
    population = simulate(seed=100, images=2000, shape=(8, 8), between=0.2)
    found = scores(Score("cqr"), np.stack([population[name] for name in io.QUANTILES]), population["truth"])[0]
    random, coverage = np.random.default_rng(0), []
    for _ in range(repeats):
        drawn = random.choice(2000, images, replace=False)
        paths = need(save(tmp_path, {name: array[drawn] for name, array in population.items()}))
        other_networks.calibrate(paths, options(**asked), tmp_path / "out")
        coverage.append(float((found <= threshold(tmp_path / "out")).mean()))
    return np.array(coverage)


@pytest.mark.slow
def test_coverage_of_new_images_fails_no_more_often_than_promised(tmp_path):
    coverage = failing(tmp_path, images=10, repeats=100, guarantee="pac", failure=0.1)
    # 18 and more of 100 would have a chance of 0.6 % at a failure of 0.1
    assert (coverage < 0.9).sum() < 18
    assert coverage.mean() < 0.96


@pytest.mark.slow
def test_coverage_of_new_images_is_kept_in_expectation(tmp_path):
    coverage = failing(tmp_path, images=20, repeats=60, guarantee="crc")
    assert coverage.mean() > 0.9 - 2 * coverage.std() / 60**0.5


def test_one_image_speaks_of_its_specimen_alone(tmp_path, ndim):
    values = {name: array[0] for name, array in simulate(images=1, shape=(90, 80, 9)[:ndim] if ndim == 2 else (24, 22, 20)).items()}
    axes = {2: None, 3: "z y x"}[ndim]
    found = other_networks.calibrate(need(save(tmp_path, values)), Options(settings({}), axes=axes), tmp_path / "out")
    assert "The promise is about this specimen" in found["statement"]
    assert found["basis"]["one_field"] and found["basis"]["kind"] == "block"
    assert found["thresholds"][0]["design_effect"] > 1.5
    assert found["basis"]["blocks"] == min(row["blocks"] for row in found["thresholds"])


def test_the_certificate_says_what_it_was_made_from(tmp_path):
    paths = need(save(tmp_path / "npy", simulate()))
    found = other_networks.calibrate(paths, options(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "certificate.json").read_text()) == json.loads(json.dumps(found))
    assert set(found["arrays"]) == {"lower", "median", "upper", "truth"}
    for name, origin in found["arrays"].items():
        assert origin == {"path": str(paths[name]), "sha256": hashlib.sha256(paths[name].read_bytes()).hexdigest()}
    assert {row["guarantee"] for row in found["other_guarantees"]} == {"pac", "crc", "tolerance", "rcps", "pooled"}
    stored = need(save(tmp_path / "zarr", simulate(), "zarr"))
    digests = other_networks.calibrate(stored, options(), tmp_path / "out")["arrays"]
    stored["truth"] = save(tmp_path / "other", {"truth": simulate(seed=1)["truth"]}, "zarr")["truth"]
    changed = other_networks.calibrate(stored, options(), tmp_path / "out")["arrays"]
    assert [changed[name]["sha256"] != digests[name]["sha256"] for name in digests] == [False, False, False, True]


def test_an_image_that_is_unlike_the_others_and_crossed_quantiles_are_warned_of(tmp_path):
    values = simulate(between=0.02, shape=(30, 30))
    values["truth"][4] = values["median"][4] + 5
    values["lower"][0, 0, :7], values["upper"][0, 0, :7] = values["upper"][0, 0, :7], values["lower"][0, 0, :7].copy()
    found = other_networks.calibrate(need(save(tmp_path, values)), options(guarantee="crc"), tmp_path / "out")
    assert "unit 4 is unlike the other calibration units" in found["warnings"][0]
    assert f"7 of {12 * 900} voxels had quantiles out of order" in found["warnings"][1]


def test_images_of_very_different_size_are_warned_of(tmp_path):
    values = simulate(images=20, shape=(30, 30))
    values["mask"] = np.zeros((20, 30, 30), bool)
    values["mask"][:, :6, :6] = True
    values["mask"][:3] = True
    paths = need(save(tmp_path, values), "mask")
    found = other_networks.calibrate(paths, options(coverage=0.8), tmp_path / "out")
    assert "The 20 images differ so much in size that they are worth 4.47 of one size" in found["warnings"][0]
    # crc does not rest on their number
    assert not any(
        "in size" in text
        for text in other_networks.calibrate(paths, options(guarantee="crc", coverage=0.2), tmp_path / "out")["warnings"]
    )
    with pytest.raises(
        CalibrationError, match=r"20 calibration images .*, as the largest has 5.43 times .* images of more even size"
    ):
        other_networks.calibrate(paths, options(guarantee="crc"), tmp_path / "out")


def test_few_images_as_units_are_told_of_unit_auto(tmp_path):
    paths = need(save(tmp_path, simulate(images=3)))
    with pytest.raises(CalibrationError, match=r"^3 calibration images .* use more images, or unit auto") as error:
        other_networks.calibrate(paths, options(unit="image"), tmp_path / "out")
    assert "block" not in str(error.value)


def test_a_block_that_is_not_used_is_warned_of(tmp_path):
    found = other_networks.calibrate(need(save(tmp_path, simulate())), options(block=8), tmp_path / "out")
    assert found["warnings"] == ["--block 8 was not used: the 12 images are the units."]


def test_perfect_predictions_get_the_narrowest_intervals_and_a_warning(tmp_path):
    values = dict.fromkeys(("lower", "median", "upper", "truth"), np.zeros((12, 18, 14), np.float32))
    paths = need(save(tmp_path, values))
    found = other_networks.calibrate(paths, options(), tmp_path / "out")
    assert threshold(tmp_path / "out") == 0
    assert found["warnings"][0].startswith("The lower quantile, median and upper quantile of every voxel are its truth")
    assert "3e-45 beside 0" in found["warnings"][0]
    lower, upper = (
        np.load(path) for path in apply(tmp_path / "out", {name: paths[name] for name in io.QUANTILES}, tmp_path / "new")
    )
    # the least that rounding outwards gives: one step for the threshold, and one for the end
    step = np.nextafter(np.float32(0), np.float32(1))
    assert (lower == -2 * step).all() and (upper == 2 * step).all()
    assert f"{upper[0, 0, 0]:.0e}" == "3e-45"


# --- intervals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"])
@pytest.mark.parametrize("how", ["npy", "zarr", "zarr-shards"])
def test_intervals_hold_exactly_the_voxels_whose_scores_are_accepted(tmp_path, monkeypatch, kind, how):
    monkeypatch.setattr(io, "PIECE", 100)
    values = simulate(images=24)
    extra = ["spread"] if kind == "ensemble" else []
    paths = save(tmp_path / "in", values, how)
    found = other_networks.calibrate(need(paths, *extra), options(guarantee="crc", score=kind), tmp_path / "out")
    new = {name: paths[name] for name in (*io.QUANTILES, *extra)}
    ends = [io.open_array(path)[...] for path in apply(tmp_path / "out", new, tmp_path / "intervals")]
    assert [end.dtype for end in ends] == [np.float32] * 2
    inside = (values["truth"] >= ends[0]) & (values["truth"] <= ends[1])
    pieces = np.stack([values[name] for name in io.QUANTILES])
    accepted = (
        scores(Score(**found["score"]), pieces, values["truth"], values["spread"]) <= threshold(tmp_path / "out")[..., None, None]
    )
    assert inside[accepted.all(axis=0)].all()
    assert inside.sum() <= accepted.all(axis=0).sum() + 2


def test_intervals_are_stored_as_the_predictions_are(tmp_path):
    values = simulate()
    other_networks.calibrate(need(save(tmp_path / "npy", values)), options(), tmp_path / "out")
    found = {}
    for how in ("npy", "zarr"):
        paths = save(tmp_path / how, values, how)
        targets = apply(tmp_path / "out", {name: paths[name] for name in io.QUANTILES}, tmp_path / f"{how}-intervals")
        assert targets == [tmp_path / f"{how}-intervals" / f"{name}.{how}" for name in ("lower", "upper")]
        assert sorted(target.name for target in targets) == sorted(path.name for path in targets[0].parent.iterdir())
        found[how] = [np.asarray(io.open_array(target)[...]) for target in targets]
    np.testing.assert_array_equal(found["npy"], found["zarr"])
    stored = io.open_array(tmp_path / "zarr-intervals" / "lower.zarr")
    assert stored.chunks == io.open_array(tmp_path / "zarr" / "lower.zarr").chunks


def test_where_there_is_no_prediction_or_no_token_there_is_no_interval(tmp_path):
    values = simulate(images=20)
    values["tokens"] = (1 + (values["median"] > 0)).astype(np.int32)
    asked = options(guarantee="crc", coverage=0.7, support=(-1.5, None))
    values["truth"] = np.maximum(values["truth"], -1.5)
    other_networks.calibrate(need(save(tmp_path, values), "tokens"), asked, tmp_path / "out")
    values["lower"][0, 0, 0], values["tokens"][0, 0, 1] = np.nan, 0
    paths = save(tmp_path, values)
    lower, upper = (
        np.load(path)
        for path in apply(tmp_path / "out", {name: paths[name] for name in (*io.QUANTILES, "tokens")}, tmp_path / "new")
    )
    missing = np.zeros(lower.shape, bool)
    missing[0, 0, :2] = True
    np.testing.assert_array_equal(np.isnan(lower), missing)
    np.testing.assert_array_equal(np.isnan(upper), missing)
    assert np.nanmin(lower) == -1.5
    own = threshold(tmp_path / "out")[0][values["tokens"] - 1]
    np.testing.assert_allclose(upper[~missing], np.maximum(values["upper"] + own, -1.5)[~missing], atol=1e-6)


def test_a_token_without_calibration_data_is_told_with_its_threshold(tmp_path, capsys):
    values = simulate(images=20)
    values["tokens"] = np.where(values["median"] > 0, 4, 1).astype(np.uint8)
    asked = options(guarantee="crc", coverage=0.7)
    found = other_networks.calibrate(need(save(tmp_path, values), "tokens"), asked, tmp_path / "out")
    assert found["unseen_tokens"] == [2, 3]
    paths = {name: tmp_path / f"{name}.npy" for name in (*io.QUANTILES, "tokens")}
    capsys.readouterr()
    apply(tmp_path / "out", paths, tmp_path / "known")
    assert "token" not in capsys.readouterr().err
    np.save(paths["tokens"], np.where(np.arange(14) == 5, 3, values["tokens"]))
    apply(tmp_path / "out", paths, tmp_path / "new")
    own = threshold(tmp_path / "out")[0, 2]
    told = capsys.readouterr().err
    assert f"warning: token 3 never occurred in the calibration data; it gets the threshold {own:.6g} of others" in told
    assert "token 2" not in told
    np.testing.assert_allclose(np.load(tmp_path / "new" / "upper.npy")[..., 5], values["upper"][..., 5] + own, atol=1e-6)


# --- every level --------------------------------------------------------------------------------------------------------------


def test_every_guarantee_at_every_level_follows_from_the_counted_scores(tmp_path):
    values = simulate(images=30)
    paths = need(save(tmp_path, values))
    other_networks.calibrate(paths, options(guarantee="crc", coverage=0.83), tmp_path / "out")
    for path in paths.values():
        path.unlink()
    levels(tmp_path / "out", tmp_path / "levels.csv")
    rows = tables.read(tmp_path / "levels.csv")
    assert len(rows) == 5 * 99
    by = {(row["guarantee"], row["level"]): row["threshold"] for row in rows}
    assert np.float32(by["crc", 83]) == threshold(tmp_path / "out")[0, 0]
    assert by["crc", 96] < by["crc", 97] == np.inf  # 30 images cannot promise 97 %
    for name in ("pac", "crc", "tolerance", "pooled"):
        assert (np.diff([by[name, level] for level in range(1, 97)]) >= 0).all()


# --- memory -------------------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "LOSSLESS", 1 << 12)
    monkeypatch.setattr(io, "PIECE", 1 << 14)
    random = np.random.default_rng(0)

    def peak(edge, name):
        shape = (8, edge, edge)
        median, error = random.normal(size=(2, *shape)).astype(np.float32)
        values = {"lower": median - 1, "median": median, "upper": median + 1, "truth": median + error}
        paths = save(tmp_path, values)
        tracemalloc.start()
        other_networks.calibrate(need(paths), options(score="cqr-r"), tmp_path / "out")
        apply(tmp_path / "out", {name: paths[name] for name in io.QUANTILES}, tmp_path / name)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(32, "imports")
    small, large = peak(128, "small"), peak(320, "large")
    # of four arrays; the counts fill a few more buckets
    assert large - small < 4 * 4 * 8 * (320**2 - 128**2) / 2


# --- what is refused ----------------------------------------------------------------------------------------------------------


def changed(**arrays):
    return lambda values: {**values, **{name: change(values) for name, change in arrays.items()}}


def holed(values):
    values["truth"][2, 3, 4] = np.nan
    return values


BAD_ARRAYS = {
    "another shape": (changed(truth=lambda v: v["truth"][:, :-1]), {}, SourceError, r"--truth .* is 12 x 17 x 14, but --lower"),
    "NaN": (holed, {}, SourceError, r"--truth .* holds nan at \[2, 3, 4\], which is no number; mend"),
    "beyond float32": (
        changed(upper=lambda v: v["upper"].astype(np.float64) * 1e300),
        {},
        SourceError,
        r"--upper .* holds -?\d\S+e\+\d+ at \[0, 0, 0\], which is too large for float32 .at most 3.4e\+38.; mend",
    ),
    "infinite": (
        changed(upper=lambda v: v["upper"].astype(np.float64) + np.inf),
        {},
        SourceError,
        r"--upper .* holds inf at \[0, 0, 0\], which is no number; mend",
    ),
    "true or false": (
        changed(truth=lambda v: v["truth"] > 0),
        {},
        SourceError,
        "--truth .* holds bool, and must hold real or whole numbers",
    ),
    "negative spread": (
        changed(spread=lambda v: np.where(np.arange(14) == 3, -0.25, v["truth"] ** 2).astype(np.float32)),
        {"score": "ensemble"},
        SourceError,
        r"--spread .* holds -0.25 at \[0, 0, 3\], and a standard deviation is 0 or more; mend such voxels, or leave them out",
    ),
    "a block beyond the image": (
        changed(),
        {"unit": "block", "block": 19},
        ConfigError,
        "--block 19 is larger than what calibrates, whose longest axis has 18 voxels; use at most 18",
    ),
    "complex": (changed(lower=lambda v: v["lower"] + 1j), {}, SourceError, "--lower .* holds complex64, and must"),
    "objects": (changed(lower=lambda v: v["lower"].astype(object)), {}, SourceError, "lower.npy cannot be read"),
    "no voxels": (lambda v: {name: array[:, :0] for name, array in v.items()}, {}, SourceError, "has no voxels .12 x 0 x 14."),
    "one number": (changed(lower=lambda _: np.float32(1)), {}, SourceError, "has no voxels .a single number."),
    "all masked": (changed(mask=lambda v: np.zeros(v["truth"].shape, bool)), {}, SourceError, "--mask .* is 0 everywhere"),
    "mask of numbers": (
        changed(mask=lambda v: v["truth"]),
        {},
        SourceError,
        "--mask .* holds float32, and must hold true or false",
    ),
    "token 0": (
        changed(tokens=lambda v: (v["truth"] > 0).astype(int)),
        {},
        SourceError,
        r"--tokens .* holds 0 at \[.*, and tokens are counted from 1 to 255",
    ),
    "many tokens": (changed(tokens=lambda v: np.full(v["truth"].shape, 256)), {}, SourceError, "holds 256 at"),
    "few images": (
        lambda v: {name: array[:7] for name, array in v.items()},
        {"guarantee": "crc"},
        CalibrationError,
        "takes at least 9",
    ),
    "high coverage": (changed(), {"guarantee": "tolerance", "shortfall": 0.01}, CalibrationError, "12 calibration images cannot"),
    "support": (
        changed(),
        {"support": (0, None)},
        CalibrationError,
        r"--truth .* holds -\S+ to \S+, and --support is 0 null; .* widen --support",
    ),
    "no spread": (changed(), {"score": "ensemble"}, ConfigError, "--spread is missing, and the score is 'ensemble'"),
    "bad floor": (changed(), {"score": "cqr-r", "floor": -1.0}, CalibrationError, "floor -1 of score 'cqr-r' must be positive"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, case):
    change, asked, error, message = BAD_ARRAYS[case]
    values = simulate()
    del values["spread"]
    paths = save(tmp_path, change(values))
    with pytest.raises(error, match=message):
        other_networks.calibrate(paths, options(**asked), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_units_are_refused_before_scores_are_counted(tmp_path, monkeypatch):
    def count(*_):
        raise AssertionError("counted")

    monkeypatch.setattr(calibration, "count", count)
    with pytest.raises(CalibrationError, match="takes at least 19"):
        other_networks.calibrate(need(save(tmp_path, simulate())), options(guarantee="crc", coverage=0.95), tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coverage": 1.2}, "--coverage is 1.2: must be less than 1"),
        ({"support": (2.0, 1.0)}, "support from 2 to 1 is empty"),
        ({"guarantee": "perhaps"}, "--guarantee is 'perhaps': must be 'pac', 'crc'"),
        ({"block": 1}, "--block is 1: must be greater than or equal to 4, or must be 'auto'"),
    ],
    ids=["coverage", "support", "guarantee", "block"],
)
def test_settings_are_checked_as_in_the_configuration(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings(values)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (None, (6, 8, 8), "--axes is not given, and the arrays are 6 x 8 x 8; use 'z y x' or 'image y x'"),
        ("scan y x", (6, 8, 8), "--axes is 'scan y x', and the arrays are 6 x 8 x 8; use 'z y x' or 'image y x'"),
        ("image y x", (8, 8), "--axes is 'image y x', and the arrays are 8 x 8; use 'y x'"),
        (None, (8,), "use arrays with the axes 'y x', 'z y x', 'image y x', 'image z y x'"),
    ],
    ids=["not given", "unknown", "too many", "one axis"],
)
def test_axes_that_are_unknown_or_do_not_fit_are_refused(tmp_path, axes, shape, message):
    paths = save(tmp_path, dict.fromkeys(("lower", "median", "upper", "truth"), np.zeros(shape, np.float32)))
    with pytest.raises(ConfigError, match=re.escape(message)):
        other_networks.calibrate(paths, Options(settings({}), axes), tmp_path / "out")


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"absent\.npy does not exist"):
        io.open_array(tmp_path / "absent.npy")
    (tmp_path / "text.txt").write_text("no")
    with pytest.raises(SourceError, match="neither an NPY file nor the folder"):
        io.open_array(tmp_path / "text.txt")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(SourceError, match=r"broken\.npy cannot be read"):
        io.open_array(tmp_path / "broken.npy")
    with pytest.raises(SourceError, match="cannot be read"):
        io.open_array(tmp_path)
    group = zarr.create_group(tmp_path / "group.zarr")
    group.create_array("lower", shape=(2, 2), dtype="float32")
    with pytest.raises(SourceError, match=r"group.zarr is a group and no array; .* inside: .*group.zarr/lower$"):
        io.open_array(tmp_path / "group.zarr")
    assert io.open_array(tmp_path / "group.zarr" / "lower").shape == (2, 2)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="out is a file; name a folder"):
        other_networks.calibrate({}, options(), tmp_path / "out")


@pytest.fixture
def calibrated(tmp_path):
    values = simulate(images=20)
    paths = save(tmp_path / "in", {**values, "tokens": (1 + (values["median"] > 0)).astype(np.uint8)})
    other_networks.calibrate(need(paths), options(), tmp_path / "plain")
    other_networks.calibrate(need(paths, "tokens"), options(guarantee="crc", coverage=0.7), tmp_path / "by token")
    other_networks.calibrate(need(paths, "spread"), options(score="ensemble"), tmp_path / "ensemble")
    return tmp_path, paths


@pytest.mark.parametrize(
    ("folder", "extra", "message"),
    [
        ("plain", ["tokens"], "--tokens was given, and the calibration was made without"),
        ("by token", [], "--tokens is missing, and the calibration was made with"),
        ("plain", ["spread"], "--spread was given, and the score is 'cqr'"),
        ("ensemble", [], "--spread is missing, and the score is 'ensemble'"),
    ],
)
def test_predictions_come_with_what_the_calibration_had(calibrated, folder, extra, message):
    tmp_path, paths = calibrated
    with pytest.raises(ConfigError, match=message):
        apply(tmp_path / folder, {name: paths[name] for name in (*io.QUANTILES, *extra)}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("dtype", "token"), [(np.uint8, 3), (np.int16, -1)])
def test_tokens_that_the_calibration_does_not_know_are_refused(calibrated, dtype, token):
    tmp_path, paths = calibrated
    np.save(paths["tokens"], np.full(np.load(paths["tokens"]).shape, token, dtype))
    with pytest.raises(ConfigError, match=f"holds {token} to {token}, and the calibration knows 1 to 2"):
        apply(tmp_path / "by token", {name: paths[name] for name in (*io.QUANTILES, "tokens")}, tmp_path / "new")


def test_predictions_are_never_overwritten(calibrated):
    tmp_path, paths = calibrated
    before = paths["lower"].read_bytes()
    with pytest.raises(ConfigError, match=r"lower\.npy exists, and nothing is overwritten"):
        apply(tmp_path / "plain", {name: paths[name] for name in io.QUANTILES}, paths["lower"].parent)
    assert paths["lower"].read_bytes() == before


def test_a_folder_that_holds_no_calibration_is_refused(calibrated):
    tmp_path, _ = calibrated
    with pytest.raises(SourceError, match=r"holds no certificate\.json"):
        levels(tmp_path / "in", tmp_path / "levels.csv")
    certificate = read_json(tmp_path / "plain" / "certificate.json")
    (tmp_path / "plain" / "certificate.json").write_text(json.dumps({**certificate, "spec": {}}))
    with pytest.raises(SourceError, match="belongs to the workflow"):
        levels(tmp_path / "plain", tmp_path / "levels.csv")


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "without keys": lambda path: path.write_text("{}"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "an array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "of another calibration": lambda path: path.write_bytes((path.parents[1] / "ensemble" / path.name).read_bytes()),
}


@pytest.mark.parametrize("name", ["certificate.json", "thresholds.json", "scores.npz"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_calibration_is_refused_by_the_name_of_the_file(calibrated, how, name):
    tmp_path, paths = calibrated
    DAMAGE[how](tmp_path / "plain" / name)
    # a certificate of another calibration is whole, and the files beside it are not its own
    blamed = "thresholds.json" if (how, name) == ("of another calibration", "certificate.json") else name
    message = (
        rf"^\S*{blamed} is (damaged, or was written by another version|not what \S*certificate.json was written for).* run `btn cal"
    )
    with pytest.raises(SourceError, match=message) as error:
        apply(tmp_path / "plain", {name: paths[name] for name in io.QUANTILES}, tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    with pytest.raises(SourceError, match=message):
        levels(tmp_path / "plain", tmp_path / "levels.csv")


def test_files_of_another_version_are_refused_though_they_are_whole(calibrated):
    tmp_path, paths = calibrated
    folder = tmp_path / "plain"
    np.savez(folder / "scores.npz", other=np.zeros(3))
    (folder / "thresholds.json").write_text('{"rows": []}')
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("scores.npz", "thresholds.json")}
    certificate = {**read_json(folder / "certificate.json"), "files": digests}
    (folder / "certificate.json").write_text(json.dumps(certificate))
    with pytest.raises(SourceError, match=r"scores.npz is damaged, or was written by another version than .* \(it has no 'meta'\)"):
        levels(folder, tmp_path / "levels.csv")
    with pytest.raises(SourceError, match=r"thresholds.json is damaged, .* \(it has no 'channels'\); run `btn calibrate` again"):
        apply(folder, {name: paths[name] for name in io.QUANTILES}, tmp_path / "new")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lower", lambda v: v.astype(np.float64) * 1e300, r"--lower .* holds \S+ at \[0, 0, 0\], which is too large for float32"),
        ("spread", lambda v: -v, r"--spread .* holds -\S+ at \[0, 0, 0\], and a standard deviation is 0 or more; .* make them NaN"),
    ],
)
def test_predictions_that_nothing_can_be_computed_from_are_refused(calibrated, name, change, message):
    tmp_path, paths = calibrated
    np.save(paths[name], change(np.load(paths[name])))
    with pytest.raises(SourceError, match=message):
        apply(tmp_path / "ensemble", {name: paths[name] for name in (*io.QUANTILES, "spread")}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- the document -------------------------------------------------------------------------------------------------------------


def test_the_example_of_the_document_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "other_networks.md").read_text()
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    commands = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    assert len(list(filter(None, python.splitlines()))) + len(commands) <= 10
    exec(compile(python, "docs/other_networks.md", "exec"), {})
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)[1]
    assert " ".join(capsys.readouterr().out.split()) == " ".join(shown.split())
