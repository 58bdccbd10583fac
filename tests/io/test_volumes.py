import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from behindthenoise.core.pyramid import shapes_of_levels
from behindthenoise.errors import StoreError
from behindthenoise.io import datasets, finished, stores, volumes
from behindthenoise.io.geometry import Axes, Geometry

GEOMETRIES = {
    2: Geometry(("y", "x"), ("Fe", "Ni"), "counts", (0.5, 0.25), "micrometer", (10.0, -4.0)),
    3: Geometry(("z", "y", "x"), ("Fe", "Ni"), "counts", (2.0, 0.5, 0.25), "micrometer"),
}
AXES = {ndim: Axes(found.space, found.channels, found.value_unit) for ndim, found in GEOMETRIES.items()}
TOLD = {"origin": "a file", "spacing": {"y": 0.5}}
LABELS = [finished.LabelImage("tokens", ((255, 0, 0, 255),) * 5, tuple({"finest": [number]} for number in range(1, 6)))]
SHAPES = {2: (130, 70), 3: (9, 130, 70)}


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def ndim(request):
    return request.param


@pytest.fixture
def volume(ndim, tmp_path):
    """The input of a volume, with its values."""
    random = np.random.default_rng(ndim)
    axes, shape = AXES[ndim], SHAPES[ndim]
    noisy = xr.DataArray(random.random((*shape, 2)), dims=(*axes.space, "channel"))
    mask = xr.DataArray(random.random(shape) < 0.7, dims=axes.space)
    digests = datasets.write_input(tmp_path / "input.zarr", noisy, mask, AXES[ndim], TOLD)
    return volumes.open_input(tmp_path / "input.zarr"), noisy, mask, digests


@pytest.fixture
def ome(volume, tmp_path):
    """A finished volume's group, and the shapes of its levels."""
    levels = shapes_of_levels(volume[0].shape)
    finished.create_ome(tmp_path / "finished.ome.zarr", GEOMETRIES[volume[0].mask.ndim], levels, LABELS)
    return stores.open_group(tmp_path / "finished.ome.zarr"), levels


def transformations(multiscale):
    """Scale and translation of each level."""
    found = []
    for dataset in multiscale["datasets"]:
        scale, translation = dataset["coordinateTransformations"]
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        found.append((scale["scale"], translation["translation"]))
    return found


def test_an_input_comes_back_with_channels_first(volume, ndim):
    opened, noisy, mask, digests = volume
    assert (opened.axes, opened.told, opened.shape) == (AXES[ndim], TOLD, SHAPES[ndim])
    np.testing.assert_array_equal(opened.noisy[:], np.moveaxis(noisy.to_numpy(), -1, 0).astype(np.float32))
    np.testing.assert_array_equal(opened.mask[:], mask.to_numpy())
    assert digests == {"noisy": stores.digest(opened.noisy), "mask": stores.digest(opened.mask)}


def test_an_input_names_its_channels(volume, tmp_path):
    assert list(xr.open_zarr(tmp_path / "input.zarr", consolidated=False)["channel"].to_numpy()) == ["Fe", "Ni"]


def test_the_positions_of_maps_of_regions_are_in_their_unit(ndim, tmp_path):
    geometry = GEOMETRIES[ndim]
    volumes.create_regions(tmp_path / "maps.zarr", SHAPES[ndim], geometry, {"region": "uint32"})
    found = xr.open_zarr(tmp_path / "maps.zarr", consolidated=False)
    for name, size, step, start in zip(geometry.space, SHAPES[ndim], geometry.spacing, geometry.origin, strict=True):
        np.testing.assert_allclose(found[name], start + step * np.arange(size))
        assert found[name].attrs["units"] == "micrometer"


def test_every_array_of_an_input_has_a_type_that_the_specification_of_zarr_knows(volume, tmp_path):
    metadata = [json.loads(file.read_text()) for file in (tmp_path / "input.zarr").glob("*/zarr.json")]
    assert {array["data_type"] for array in metadata} == {"float32", "bool", "string"}


@pytest.mark.parametrize("axes", [None, "text"])
def test_an_input_without_axes_is_refused(tmp_path, axes):
    stores.create_group(tmp_path / "input.zarr", {} if axes is None else {"axes": axes})
    with pytest.raises(StoreError, match=r"input\.zarr has no axes; delete its folder and run the workflow again"):
        volumes.open_input(tmp_path / "input.zarr")


def test_an_input_that_is_incomplete_is_refused(volume, tmp_path):
    (tmp_path / "input.zarr" / "mask" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="has no array 'mask'"):
        volumes.open_input(tmp_path / "input.zarr")


def test_a_store_of_quantiles_has_a_chunk_for_a_tile_a_file_for_a_shard_and_is_nan(volume, ndim, tmp_path):
    core, shard = (64, 32, 16)[-ndim:], (64, 64, 32)[-ndim:]
    volumes.create_quantiles(tmp_path / "quantiles.zarr", volume[0], core, shard, 4)
    group = stores.open_group(tmp_path / "quantiles.zarr")
    quantiles, embedding = stores.get_array(group, "quantiles"), stores.get_array(group, "embedding")
    cut = tuple(min(edge, size) for edge, size in zip(core, SHAPES[ndim], strict=True))
    assert (quantiles.shape, quantiles.chunks) == ((3, 2, *SHAPES[ndim]), (3, 2, *cut))
    assert (embedding.shape, embedding.chunks) == ((4, *SHAPES[ndim]), (4, *cut))
    assert all(size % edge == 0 for array in (quantiles, embedding) for size, edge in zip(array.shards, array.chunks, strict=True))
    assert all(size >= min(edge, whole) for size, edge, whole in zip(quantiles.shards[2:], shard, SHAPES[ndim], strict=True))
    assert np.isnan(quantiles[:]).all()
    assert volumes.read_layout(group).shard == shard


def test_a_store_that_is_laid_out_again_is_another_one(volume, ndim, tmp_path):
    instances = set()
    for _ in range(2):
        volumes.create_quantiles(tmp_path / "quantiles.zarr", volume[0], [16] * ndim, [16] * ndim, 1)
        instances.add(stores.open_group(tmp_path / "quantiles.zarr").attrs["instance"])
    assert len(instances) == 2


def test_a_finished_volume_says_what_its_axes_and_channels_are(ome, ndim):
    group, levels = ome
    metadata = group.attrs["ome"]
    (multiscale,) = metadata["multiscales"]
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in GEOMETRIES[ndim].space]
    assert (metadata["version"], multiscale["name"]) == ("0.5", "finished")
    assert multiscale["axes"] == [{"name": "c", "type": "channel"}, *space]
    labels = [channel["label"] for channel in metadata["omero"]["channels"]]
    assert labels == [f"{channel} {part}" for channel in ("Fe", "Ni") for part in ("lower", "median", "upper", "width")]
    assert [label for label, shown in zip(labels, metadata["omero"]["channels"], strict=True) if shown["active"]] == [
        "Fe median",
        "Ni median",
    ]
    for level, shape in enumerate(levels):
        array = stores.get_array(group, str(level))
        assert (array.shape, array.dtype) == ((8, *shape), np.float32)
        assert array.metadata.dimension_names == ("c", *GEOMETRIES[ndim].space)


def test_a_coarse_voxel_lies_at_the_centre_of_those_it_averages(ome, ndim):
    group, levels = ome
    found = transformations(group.attrs["ome"]["multiscales"][0])
    assert len(found) == len(levels)
    for axis, (start, step) in enumerate(zip(GEOMETRIES[ndim].origin, GEOMETRIES[ndim].spacing, strict=True)):
        positions = start + step * np.arange(SHAPES[ndim][axis])
        for level, (scale, translation) in enumerate(found):
            size = levels[level][axis]
            # as `finish` does: pairs of neighbours become one, an odd last one is left out
            if level and levels[level - 1][axis] != size:
                positions = positions[: 2 * size].reshape(size, 2).mean(axis=1)
            np.testing.assert_allclose(translation[1 + axis] + scale[1 + axis] * np.arange(size), positions)
            assert (scale[0], translation[0]) == (1, 0)


@given(st.integers(1, 70_000), st.integers(1, 3000))
def test_voxels_of_every_level_are_powers_of_two_as_large(long, wide):
    # 1041 voxels become 32 by five halvings, although 1041 / 32 is nearer to 33
    geometry = Geometry(("y", "x"), ("Fe",), "counts", (0.5, 0.25), "micrometer")
    levels = shapes_of_levels((long, wide))
    found = transformations(finished._multiscale(geometry, "some", levels, channels=False))
    factors = np.array([np.divide(scale, geometry.spacing) for scale, _ in found])
    halvings = np.array(
        [np.count_nonzero(np.diff([level[axis] for level in levels[: index + 1]])) for index, axis in np.ndindex(len(levels), 2)]
    )
    np.testing.assert_array_equal(factors.reshape(-1), 2.0**halvings)


def test_a_viewer_shows_the_whole_range_and_one_range_for_interval_and_median(volume, tmp_path):
    levels = shapes_of_levels(volume[0].shape)
    group = finished.create_ome(tmp_path / "finished.ome.zarr", GEOMETRIES[volume[0].mask.ndim], levels, LABELS)
    values = np.random.default_rng(0).normal(100, 10, (8, *levels[-1])).astype(np.float32)
    values[:, 0] = np.nan
    values[4:] = np.nan
    stores.get_array(group, str(len(levels) - 1))[:] = values
    finished.set_windows(group, len(levels) - 1)
    reopened = stores.open_group(tmp_path / "finished.ome.zarr").attrs["ome"]
    windows = [channel["window"] for channel in reopened["omero"]["channels"]]
    together, width = ((float(np.nanmin(part)), float(np.nanmax(part))) for part in (values[:3], values[3]))
    for window, (low, high) in zip(windows, [together] * 3 + [width] + [(0.0, 1.0)] * 4, strict=True):
        assert window == {"start": low, "end": high, "min": low, "max": high}
    assert reopened["version"] == "0.5"


def test_the_spread_of_the_members_follows_with_a_range_of_its_own(volume, tmp_path):
    levels = shapes_of_levels(volume[0].shape)
    group = finished.create_ome(
        tmp_path / "finished.ome.zarr", GEOMETRIES[volume[0].mask.ndim], levels, LABELS, ["Fe spread", "Ni spread"]
    )
    channels, coarsest = volume[0].axes.channels, len(levels) - 1
    values = np.random.default_rng(0).normal(np.arange(1.0, 11.0), 0.1, (*levels[-1], 10)).astype(np.float32)
    stores.get_array(group, str(coarsest))[:] = np.moveaxis(values, -1, 0)
    finished.set_windows(group, coarsest)
    shown = group.attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in shown[8:]] == [f"{name} spread" for name in channels]
    # of each: lower, median, upper; width; and the two spreads
    for indices in ((0, 1, 2), (3,), (4, 5, 6), (7,), (8,), (9,)):
        part = values[..., list(indices)]
        for index in indices:
            assert shown[index]["window"]["min"] == float(part.min())
            assert shown[index]["window"]["max"] == float(part.max())


def test_tokens_are_labels_of_the_image(ome, ndim):
    group, levels = ome
    assert group["labels"].attrs["ome"] == {"version": "0.5", "labels": ["tokens"]}
    metadata = group["labels/tokens"].attrs["ome"]
    (multiscale,) = metadata["multiscales"]
    assert metadata["version"] == "0.5"
    assert [axis["name"] for axis in multiscale["axes"]] == list(GEOMETRIES[ndim].space)
    image = transformations(group.attrs["ome"]["multiscales"][0])
    assert transformations(multiscale) == [(scale[1:], translation[1:]) for scale, translation in image]
    colours = metadata["image-label"]["colors"]
    assert [colour["label-value"] for colour in colours] == [1, 2, 3, 4, 5]
    assert metadata["image-label"]["properties"] == [{"label-value": index, "finest": [index]} for index in range(1, 6)]
    assert metadata["image-label"]["source"] == {"image": "../../"}
    for level, shape in enumerate(levels):
        array = stores.get_array(group, f"labels/tokens/{level}")
        assert (array.shape, array.dtype, array.metadata.dimension_names) == (shape, np.uint8, GEOMETRIES[ndim].space)


def test_the_embedding_is_an_image_of_its_own_in_red_green_and_blue(ome, volume, tmp_path):
    group, levels = ome
    geometry = GEOMETRIES[volume[0].mask.ndim]
    target = stores.open_group(tmp_path / "finished.ome.zarr", "r+")
    finished.create_false_colours(target, geometry, levels, {"explained": [0.7]})
    found = group["embedding"]
    metadata = found.attrs["ome"]
    assert found.attrs["explained"] == [0.7]
    (multiscale,) = metadata["multiscales"]
    assert metadata["version"] == "0.5"
    assert multiscale["axes"] == group.attrs["ome"]["multiscales"][0]["axes"]
    assert transformations(multiscale) == transformations(group.attrs["ome"]["multiscales"][0])
    channels = metadata["omero"]["channels"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    assert all(channel["active"] and channel["window"] == {"start": 0, "end": 255, "min": 0, "max": 255} for channel in channels)
    for level, shape in enumerate(levels):
        array = stores.get_array(found, str(level))
        assert (array.shape, array.dtype) == ((3, *shape), np.uint8)
        assert array.metadata.dimension_names == ("c", *geometry.space)


@pytest.mark.parametrize("unit", ["pixel", "voxel"])
def test_axes_without_physical_size_have_no_unit(volume, tmp_path, unit):
    opened = volume[0]
    plain = opened.axes.measured((1.0,) * len(opened.shape), unit)
    group = finished.create_ome(tmp_path / "plain.ome.zarr", plain, [opened.shape], LABELS)
    assert all("unit" not in axis for axis in group.attrs["ome"]["multiscales"][0]["axes"])
