import json
import shutil
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import xarray as xr
import zarr
from scipy import ndimage

from behindthenoise.config import RegionConfig
from behindthenoise.core import discovery
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.discovery import Limit, Table
from behindthenoise.errors import ConfigError
from behindthenoise.io import datasets, finished, stores, tables
from behindthenoise.io.geometry import Geometry, write_geometry
from behindthenoise.io.record import read_json
from behindthenoise.run import outlines, regions
from behindthenoise.stages import Spec

SHAPES = {2: (60, 90), 3: (12, 30, 44)}
SPACING = (2.0, 0.5, 0.25)
ORIGIN = (8.0, -3.0, 100.0)
LIMIT = 11.0


class Case:
    """An experiment with many small images, and a finished volume whose numbers are all known."""

    def __init__(self, folder, experiment, shape, monkeypatch):
        monkeypatch.setattr(stores, "SHARD", {2: 32, 3: 16})
        monkeypatch.setattr(stores, "CHUNK", {2: 16, 3: 8})
        self.folder, self.experiment = folder, experiment
        space = ("z", "y", "x")[-len(shape) :]
        dims = -len(shape)
        self.geometry = Geometry(space, ("c0", "c1"), "counts", SPACING[dims:], "micrometer", ORIGIN[dims:])
        random = np.random.default_rng(4)
        median = 10 + 2.5 * ndimage.gaussian_filter(random.normal(size=shape), 3) / 0.08
        median = (10 + 2 * (median - median.mean()) / median.std()).astype(np.float32)
        half = random.uniform(0.3, 1.2, shape).astype(np.float32)
        self.mask = np.ones(shape, bool)
        self.mask[..., :5] = False
        bands = [np.where(self.mask, band, np.nan) for band in (median - half, median, median + half, 2 * half)]
        self.lower, self.median, self.upper, self.width = bands
        dims = ("channel", *space)
        noisy = xr.DataArray(np.zeros((2, *shape), np.float32), dims=dims)
        datasets.write_input(folder / "wide" / "input.zarr", noisy, xr.DataArray(self.mask, dims=space), self.geometry, {})
        write_geometry(folder / "wide" / "geometry.json", self.geometry)
        ome = finished.create_ome(
            folder / "wide.ome.zarr",
            self.geometry,
            [shape],
            [finished.LabelImage("tokens", ((255, 0, 0, 255),) * 2, ({},) * 2)],
        )
        ome["0"][...] = np.stack([*[band + 100 for band in bands], *bands])

    def run(self, **asked):
        asked = {"channel": "c1", "smallest": 1, **asked}
        sections = {
            "regions.{target}": RegionConfig(**asked).model_dump(mode="json"),
            "calibration.support": [None, None],
            "inference.relative_error": 0.0,
        }
        names = {"manifest": "json", "table": "csv", "outlines": "geojson", "view": "npz", "store": "zarr"}
        regions.run(
            Spec("", sections),
            **self.experiment.common,
            rules=self.experiment.folder / "rules.npz",
            thresholds=self.experiment.folder / "thresholds.json",
            finished=self.folder / "wide.ome.zarr",
            geometry=self.folder / "wide" / "geometry.json",
            **{name: self.folder / f"some.{end}" for name, end in names.items()},
        )
        return read_json(self.folder / "some.json"), tables.read(self.folder / "some.csv")

    @property
    def maps(self):
        return xr.open_zarr(self.folder / "some.zarr", consolidated=False)


@pytest.fixture(scope="module", params=[2, 3], ids=["2d", "3d"])
def experiment(request, tmp_path_factory, simulate, write):
    # whole images have one role each
    fields = simulate((24, 24) if request.param == 2 else (6, 12, 12), images=30, reach=2)
    role = np.full_like(fields.role, 2)
    role[:4], role[-6:] = 1, 3
    experiment = write(tmp_path_factory.mktemp("experiment"), replace(fields, role=role))
    experiment.score(score="cqr", groups=(), unit="image")
    experiment.calibrate(score="cqr", groups=(), unit="image", coverage=0.8)
    return experiment


@pytest.fixture
def case(experiment, tmp_path, monkeypatch):
    return Case(tmp_path, experiment, SHAPES[experiment.source.role.ndim - 1], monkeypatch)


def evidence_of(case):
    return Limit(LIMIT, above=True).evidence(case.lower, case.median, case.upper)


def false_evidence(case, role):
    """Evidence and truth of the held-out voxels of one role, straight from the stores."""
    experiment = case.experiment
    threshold = read_json(experiment.folder / "thresholds.json")["channels"][1]["thresholds"][0][0]
    quantiles, _ = experiment.quantiles()
    lower, median, upper = quantiles[:, 0, :, 1].swapaxes(0, 1)
    source = experiment.source
    low, high = np.minimum(lower - np.float32(threshold), median), np.maximum(upper + np.float32(threshold), median)
    chosen = np.asarray(source.role) == role
    limit = Limit(LIMIT, above=True)
    return limit.evidence(low, median, high)[chosen], np.asarray(source.clean)[:, 1][chosen] > LIMIT


def test_the_map_of_levels_is_that_of_calibration_voxels_and_the_list_what_it_marks(case):
    facts, rows = case.run(above=LIMIT, level=0.3)
    evidence, is_true = false_evidence(case, 2)
    wrong = evidence[(evidence > 0) & ~is_true]
    table = Table.of(Histogram.of(wrong, np.zeros(wrong.size, np.int64)), (evidence.size, None), 20)
    # units are as large as an image
    found = discovery.count(table, evidence_of(case), case.experiment.source.role.shape[1:])
    expected = np.where(case.mask, discovery.levels(table, found)[table.step(evidence_of(case))], np.nan)
    np.testing.assert_allclose(case.maps["level"], expected, rtol=1e-5)
    marked = expected <= 0.3
    assert 50 < marked.sum() < (case.median > LIMIT).sum()
    np.testing.assert_array_equal(case.maps["region"] > 0, marked)
    assert facts["marked"] == facts["listed"] == sum(row["voxels"] for row in rows) == marked.sum()
    assert facts["voxels"] == case.mask.sum() and facts["units"] == 20


def test_each_region_is_described_in_units_of_length_and_those_worth_most_come_first(case):
    facts, rows = case.run(above=LIMIT, level=0.3, smallest=4)
    assert facts["marked"] >= facts["listed"] == sum(row["voxels"] for row in rows)
    labels, maps = case.maps["region"], case.maps
    assert [row["region"] for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > 2
    gains = [row["gain"] for row in rows]
    assert gains == sorted(gains, reverse=True)
    for row in rows:
        inside = (labels == row["region"]).to_numpy()
        assert ndimage.label(inside)[1] == 1
        size = np.prod(case.geometry.spacing)
        assert row["voxels"] == inside.sum() >= 4
        extent = "area" if inside.ndim == 2 else "volume"
        assert row[extent] == pytest.approx(inside.sum() * size)
        assert (row[f"{extent}_unit"], row["unit"]) == (f"micrometer^{inside.ndim}", "micrometer")
        assert row["value_unit"] == case.geometry.value_unit
        for name, band in (("expected", case.median), ("lower", case.lower), ("upper", case.upper), ("width", case.width)):
            assert row[name] == pytest.approx(band[inside].mean(), rel=1e-5)
        assert row["gain"] == pytest.approx(case.width[inside].sum() * size, rel=1e-5)
        assert row["level"] == pytest.approx(np.asarray(maps["level"])[inside].min())
        for axis, places in zip(case.geometry.space, np.nonzero(inside), strict=True):
            positions, half = maps[axis].to_numpy()[places], np.diff(maps[axis].to_numpy())[0] / 2
            assert row[f"centre_{axis}"] == pytest.approx(positions.mean())
            assert row[f"from_{axis}"] == pytest.approx(positions.min() - half)
            assert row[f"to_{axis}"] == pytest.approx(positions.max() + half)


def enclosed(ring):
    x, y = np.array(ring).T
    return np.sum(x[:-1] * y[1:] - y[:-1] * x[1:]) / 2


def test_outlines_enclose_what_is_seen_of_a_region_in_the_unit_of_its_coordinates(case):
    case.run(above=LIMIT, level=0.3)
    content = json.loads((case.folder / "some.geojson").read_text())
    labels, (along, across) = case.maps["region"].to_numpy(), case.geometry.spacing[-2:]
    assert content["unit"] == "micrometer" and content["features"]
    for feature in content["features"]:
        seen = (labels == feature["id"]).any(axis=tuple(range(labels.ndim - 2)))
        outer, *holes = feature["geometry"]["coordinates"]
        assert sum(map(enclosed, (outer, *holes))) == pytest.approx(seen.sum() * along * across)
        assert min(x for x, _ in outer) == pytest.approx(ORIGIN[-1] + (np.nonzero(seen)[1].min() - 0.5) * across)
        assert min(y for _, y in outer) == pytest.approx(ORIGIN[-2] + (np.nonzero(seen)[0].min() - 0.5) * along)


def test_a_region_too_large_to_be_read_is_outlined_by_its_box(case, monkeypatch):
    monkeypatch.setattr(outlines, "OUTLINED", 0)
    _, rows = case.run(above=LIMIT, level=0.3)
    first = json.loads((case.folder / "some.geojson").read_text())["features"][0]["geometry"]["coordinates"]
    assert np.min(first[0], axis=0).tolist() == pytest.approx([rows[0]["from_x"], rows[0]["from_y"]])
    assert np.max(first[0], axis=0).tolist() == pytest.approx([rows[0]["to_x"], rows[0]["to_y"]])
    assert len(first[0]) == 5


def test_what_was_marked_wrongly_is_counted_on_test_voxels_and_chosen_without_them(case):
    facts, rows = case.run(above=LIMIT, level=0.3)
    evidence, is_true = false_evidence(case, 3)
    marked = evidence >= facts["evidence"]
    assert facts["test"]["marked"] == marked.sum() > 0
    assert facts["test"]["false"] == (marked & ~is_true).sum()
    assert facts["test"]["false_share_of_median"] == pytest.approx((~is_true)[evidence > 0].mean())
    case.experiment = replace(case.experiment, folder=shutil.copytree(case.experiment.folder, case.folder / "copy"))
    zarr.open_group(case.experiment.folder / "pairs.zarr")["clean"][-6:] = 0
    blind, same = case.run(above=LIMIT, level=0.3)
    assert same == rows and blind["evidence"] == facts["evidence"]
    assert blind["test"]["false_share"] == 1


def test_below_is_the_mirror_of_above(case):
    facts, _ = case.run(below=9.0, level=0.3)
    marked = np.asarray(case.maps["region"]) > 0
    assert facts["marked"] == marked.sum() > 0
    assert (case.median[marked] < 9).all()


def test_a_level_that_cannot_be_kept_marks_nothing_and_says_how_many_units_would(case):
    facts, rows = case.run(above=LIMIT, level=0.001)
    assert not rows and facts["marked"] == 0 and facts["evidence"] is None
    assert "have 20 images, and about" in facts["remark"] or "no number of images would do" in facts["remark"]
    assert json.loads((case.folder / "some.geojson").read_text())["features"] == []
    assert (case.folder / "some.csv").read_text() == ""


def test_a_limit_beyond_every_median_marks_nothing_and_says_so(case):
    facts, rows = case.run(above=1e6)
    assert (rows, facts["marked"], facts["candidates"]) == ([], 0, 0)
    assert facts["remark"] == "Nothing could be marked: no median is beyond the limit anywhere."


@pytest.mark.parametrize("share", [0.01, 0.2, 0.29])
def test_the_widest_intervals_are_those_that_are_wider_than_all_others(case, share):
    facts, rows = case.run(widest=share)
    marked = np.asarray(case.maps["region"]) > 0
    assert marked.sum() == floor(Fraction(str(share)) * int(case.mask.sum())) == facts["marked"]
    assert case.width[marked].min() > np.nanmax(case.width[~marked]) == pytest.approx(facts["width"])
    assert "level" not in case.maps and "level" not in rows[0]


def test_intervals_of_one_width_are_not_told_apart_by_chance(case):
    zarr.open_group(case.folder / "wide.ome.zarr")["0"][7] = np.where(case.mask, 2.0, np.nan)
    facts, rows = case.run(widest=0.1)
    assert facts["marked"] == 0 and not rows


def test_a_channel_that_is_not_there_is_refused(case):
    with pytest.raises(ConfigError, match="channel 'Fe' of regions does not exist; there are 'c0', 'c1'"):
        case.run(channel="Fe", above=1.0)


def test_a_large_field_is_drawn_coarser_and_no_region_is_lost(case, monkeypatch):
    monkeypatch.setattr(outlines, "DRAWN_EDGE", 30)
    ome = zarr.open_group(case.folder / "wide.ome.zarr")
    coarse = tuple(size // 2 if size > 30 else size for size in case.median.shape)
    coarsest = tuple(size // 4 if size > 60 else small for size, small in zip(case.median.shape, coarse, strict=True))
    for level, shape in enumerate((coarse, coarsest), start=1):
        ome.create_array(str(level), data=np.full((8, *shape), float(level), np.float32))
    facts, rows = case.run(above=LIMIT, level=0.3)
    with np.load(case.folder / "some.npz") as view:
        drawn, median = view["regions"], view["median"]
    assert max(median.shape) <= 30 and drawn.shape == median.shape
    labels = case.maps["region"].to_numpy()
    if labels.ndim == 2:
        assert {row["region"] for row in rows} - set(np.unique(drawn).tolist()) <= set(np.unique(labels[:, 88:]).tolist())
    factor = facts["plane"]["spacing"][1] / SPACING[-1]
    assert factor == labels.shape[-1] // drawn.shape[1]
    assert drawn.any()


def test_one_field_counts_as_so_many_units_as_its_false_voxels_say(tmp_path, simulate, make, monkeypatch):
    case = Case(tmp_path, make(simulate((64, 96), reach=2, scans=2)), SHAPES[2], monkeypatch)
    case.experiment.score(score="cqr", groups=())
    case.experiment.calibrate(score="cqr", groups=(), coverage=0.8)
    facts, _ = case.run(above=LIMIT, level=0.5)
    assert facts["unit_kind"] == "sample"
    voxels = (case.experiment.source.role[...] == 2).sum()
    assert 3 < facts["units"] < voxels / 3
    assert 4 < np.prod(facts["unit_edges"]) < 400
    assert f"whose voxels are worth {facts['units']} independent ones" in facts["promise"]
