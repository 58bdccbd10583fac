import numpy as np
import pytest
import xarray as xr

from behindthenoise.core.tokens import TokenModel
from behindthenoise.errors import ConfigError
from behindthenoise.io import datasets, finished, stores, tables
from behindthenoise.io.geometry import Geometry, write_geometry
from behindthenoise.run import describe
from behindthenoise.run.finish import label_images, numbers_of
from behindthenoise.stages import Spec

CLASSES = {"grain": (2, 3), "void": (1,)}


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def case(request, tmp_path, monkeypatch):
    """A finished volume of several files with random tokens and values, and all its arrays."""
    monkeypatch.setattr(stores, "CHUNK", {2: 8, 3: 4})
    monkeypatch.setattr(stores, "SHARD", {2: 16, 3: 8})
    ndim, random = request.param, np.random.default_rng(request.param)
    shape = (9, 30, 41)[-ndim:]
    space = ("z", "y", "x")[-ndim:]
    spacing, origin = (2.0, 0.5, 0.25)[-ndim:], (8.0, -3.0, 100.0)[-ndim:]
    geometry = Geometry(space, ("Fe", "Ni"), "counts", spacing, "micrometer", origin)
    noisy = xr.DataArray(np.zeros((2, *shape), np.float32), dims=("channel", *space))
    mask = random.random(shape) < 0.8
    datasets.write_input(tmp_path / "some" / "input.zarr", noisy, xr.DataArray(mask, dims=space), geometry, {})
    write_geometry(tmp_path / "some" / "geometry.json", geometry)
    model = TokenModel.of_centroids(np.arange(4.0)[:, None])
    images = label_images(model, CLASSES)
    group = finished.create_ome(tmp_path / "some.ome.zarr", geometry, [shape], images, ["novelty"])
    bands = np.where(mask, random.normal(10, 2, (9, *shape)), np.nan).astype(np.float32)
    tokens = np.where(mask, random.integers(1, 4, shape), 0).astype(np.uint8)
    stores.get_array(group, "0")[:] = bands
    stores.get_array(group, "labels/tokens/0")[:] = tokens
    stores.get_array(group, "labels/classes/0")[:] = numbers_of(CLASSES, model)[tokens]
    tables.write(tmp_path / "known.csv", [{"token": token, "stability": 0.5, "verdict": "unsure"} for token in range(1, 5)])
    tables.write(tmp_path / "coverage.csv", [{"channel": "Fe", "token": 2, "coverage": 0.91}])
    return tmp_path, bands, tokens, geometry


def run(folder, classes):
    given = {name: folder / f"{name}.csv" for name in ("known", "coverage")}
    where = folder / "some"
    spec = Spec("", {"tokens.count": 4, "tokens.classes": {name: list(members) for name, members in classes.items()}})
    describe.run(
        spec,
        finished=folder / "some.ome.zarr",
        geometry=where / "geometry.json",
        **given,
        folder=where,
        manifest=where / "describe.json",
    )
    return {path.stem: tables.read(path) for path in where.glob("*.csv")}


def expect_extent(row, inside, geometry):
    name = "area" if inside.ndim == 2 else "volume"
    assert row[name] == pytest.approx(inside.sum() * np.prod(geometry.spacing))
    assert row[f"{name}_unit"] == f"micrometer^{inside.ndim}"
    assert row["value_unit"] == geometry.value_unit


def test_a_token_is_described_by_what_its_voxels_hold(case):
    folder, bands, tokens, geometry = case
    rows = run(folder, {})["tokens"]
    assert [row["token"] for row in rows] == [1, 2, 3, 4]
    for row in rows[:3]:
        inside = tokens == row["token"]
        assert row["voxels"] == inside.sum()
        assert row["share"] == pytest.approx(inside.sum() / (tokens > 0).sum())
        expect_extent(row, inside, geometry)
        for position, channel in enumerate(geometry.channels):
            assert row[f"mean_{channel}"] == pytest.approx(bands[4 * position + 1][inside].mean(), rel=1e-5)
            assert row[f"spread_{channel}"] == pytest.approx(bands[4 * position + 1][inside].std(), rel=1e-4)
            assert row[f"width_{channel}"] == pytest.approx(bands[4 * position + 3][inside].mean(), rel=1e-5)
        assert row["novelty"] == pytest.approx(bands[8][inside].mean(), rel=1e-5)
        assert row["verdict"] == "unsure"
    assert rows[3]["voxels"] == rows[3]["neighbour"] == 0
    assert rows[1]["test_coverage_Fe"] == 0.91


def test_neighbours_are_counted_by_shared_faces(case):
    folder, _, tokens, _ = case
    expected = np.zeros((5, 5), int)
    for axis in range(tokens.ndim):
        one, other = tokens.take(range(tokens.shape[axis] - 1), axis), tokens.take(range(1, tokens.shape[axis]), axis)
        np.add.at(expected, (one, other), 1)
        np.add.at(expected, (other, one), 1)
    expected = expected[1:, 1:] * ~np.eye(4, dtype=bool)
    group = stores.open_group(folder / "some.ome.zarr")
    np.testing.assert_array_equal(describe.contacts(stores.get_array(group, "labels/tokens/0"), 4), expected)


def test_classes_join_tokens_and_their_regions_are_connected(case):
    folder, bands, tokens, geometry = case
    found = run(folder, CLASSES)
    assert [row["class"] for row in found["classes"]] == ["grain", "void"]
    assert found["classes"][0]["voxels"] == np.isin(tokens, (2, 3)).sum()
    assert found["classes"][1]["share"] == pytest.approx((tokens == 1).sum() / (tokens > 0).sum())
    regions = found["class_regions"]
    assert [row["voxels"] for row in regions] == sorted((row["voxels"] for row in regions), reverse=True)
    assert min(row["voxels"] for row in regions) >= 9
    stored = stores.get_array(stores.open_group(folder / "some" / "class_regions.zarr"), "region")[...]
    for row in regions[:5]:
        inside = stored == row["region"]
        assert inside.sum() == row["voxels"]
        expect_extent(row, inside, geometry)
        assert row["unit"] == "micrometer"
        assert np.isin(tokens[inside], CLASSES[row["class"]]).all()
        for axis, name in enumerate(geometry.space):
            places = np.nonzero(inside)[axis]
            assert row[f"centre_{name}"] == pytest.approx(geometry.origin[axis] + places.mean() * geometry.spacing[axis])
            assert row[f"from_{name}"] == pytest.approx(geometry.origin[axis] + (places.min() - 0.5) * geometry.spacing[axis])
            assert row[f"to_{name}"] == pytest.approx(geometry.origin[axis] + (places.max() + 0.5) * geometry.spacing[axis])
        assert row["mean_Fe"] == pytest.approx(bands[1][inside].mean(), rel=1e-5)


def test_tables_of_classes_that_are_no_longer_named_go_away(case):
    folder = case[0]
    assert set(run(folder, CLASSES)) == {"tokens", "classes", "class_regions"}
    assert set(run(folder, {})) == {"tokens"}
    assert not (folder / "some" / "class_regions.zarr").exists()


def test_a_class_of_a_token_that_there_is_not_is_refused():
    model = TokenModel.of_centroids(np.arange(3.0)[:, None])
    np.testing.assert_array_equal(numbers_of({"a": (1, 3)}, model), [0, 1, 0, 1])
    with pytest.raises(ConfigError, match="names token 4, but there are 3 tokens"):
        numbers_of({"a": (4,)}, model)
