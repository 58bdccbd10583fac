"""Every format becomes one kind of array, lazily, and what does not fit is refused with its cause."""

from pathlib import Path

import dask.array as da
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

from behindthenoise.config import Source
from behindthenoise.errors import SourceError
from behindthenoise.io.sources import crop_space, open_source, select_channels

CHONDRITE = Path(__file__).parents[3] / "shared" / "data" / "edx_chondrite_obj1.zarr"
IMAGE = np.arange(2 * 3 * 6 * 7, dtype=np.uint16).reshape(2, 3, 6, 7)
PAGES = np.arange(12 * 6 * 7, dtype=np.uint16).reshape(12, 6, 7)
DIMS = ("scan", "channel", "y", "x")


def write_zarr(path, zarr_format):
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    dims = {"dimension_names": DIMS} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": list(DIMS)}}
    group.create_array("images/noisy", data=IMAGE, chunks=(1, 3, 6, 7), **dims)


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("images/noisy", data=IMAGE, chunks=(1, 3, 6, 7))
        for axis, name in enumerate(DIMS):
            dataset.dims[axis].label = name


def write_tiff_folder(path):
    for number, page in enumerate(PAGES):
        tifffile.imwrite(path.parent / path.name.replace("*", str(number)), page)


def write_ome(path, version):
    scaled = [{"type": "scale", "scale": [1, 1, 2.5, 0.5, 0.25]}, {"type": "translation", "translation": [0, 0, 10, -3, 20]}]
    units = [None, None, "micrometer", "micrometer", "micrometer"]
    axes = [{"name": name} | ({"unit": unit} if unit else {}) for name, unit in zip("tczyx", units, strict=True)]
    levels = [{"path": str(level), "coordinateTransformations": scaled} for level in range(2)]
    content = {
        "multiscales": [
            {"axes": axes, "datasets": levels, "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, 2, 2]}]}
        ],
        "omero": {"channels": [{"label": name} for name in ("Si", "Al", "Fe")]},
    }
    attributes = {"ome": {"version": version, **content}} if version == "0.5" else content
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2, attributes=attributes)
    group.create_array("0", data=IMAGE[:, :, None])
    group.create_array("1", data=IMAGE[:, :, None, ::2, ::2])


def change_ome(path, change):
    """Change what an OME-Zarr of version 0.5 tells of its image."""
    group = zarr.open_group(path, mode="r+")
    ome = group.attrs.asdict()["ome"]
    change(ome["multiscales"][0])
    group.attrs["ome"] = ome


WRITERS = {
    "zarr2": ("a.zarr", lambda path: write_zarr(path, 2)),
    "zarr3": ("a.zarr", lambda path: write_zarr(path, 3)),
    "hdf5": ("a.h5", write_hdf5),
    "nexus": ("a.nxs", write_hdf5),
    "imagej": ("a.tif", lambda path: tifffile.imwrite(path, IMAGE, imagej=True, metadata={"axes": "TCYX"})),
    "ome-tiff": ("a.ome.tiff", lambda path: tifffile.imwrite(path, IMAGE, metadata={"axes": "TCYX"}, compression="zlib")),
}


@pytest.fixture(params=list(WRITERS))
def written(request, tmp_path):
    name, write = WRITERS[request.param]
    write(tmp_path / name)
    return tmp_path / name


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return str(path)


def save_one(path, array):
    np.save(path, array)
    return str(path)


def test_a_format_that_names_its_axes_reads_back_equal_under_our_names(written):
    array = open_source(Source(path=str(written)))
    assert array.dims == DIMS
    assert array.dtype == IMAGE.dtype
    assert isinstance(array.data, da.Array)
    np.testing.assert_array_equal(array.values, IMAGE)


@pytest.mark.parametrize(("name", "writer"), [("a.npy", save_one), ("a.npz", lambda path, image: save(path, noisy=image))])
def test_a_format_without_names_takes_them_from_the_config(tmp_path, name, writer):
    array = open_source(Source(path=writer(tmp_path / name, IMAGE), axes="scan channel y x"))
    assert array.dims == DIMS
    assert isinstance(array.data, da.Array)
    np.testing.assert_array_equal(array.values, IMAGE)


def test_a_flat_array_without_names_is_y_x(tmp_path):
    array = open_source(Source(path=save_one(tmp_path / "a.npy", IMAGE[0, 0] > 9)))
    assert array.dims == ("y", "x")
    assert array.dtype == bool


def test_placeholders_are_no_names_of_axes(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=IMAGE[0, 0], dimension_names=["dim_0", "dim_1"])
    assert open_source(Source(path=str(tmp_path / "a.zarr"))).dims == ("y", "x")


def test_many_tiff_files_are_stacked_in_the_order_a_person_would_count(tmp_path):
    write_tiff_folder(tmp_path / "slice_*.tif")
    array = open_source(Source(path=str(tmp_path / "slice_*.tif"), axes="z y x"))
    assert array.dims == ("z", "y", "x")
    assert isinstance(array.data, da.Array)
    np.testing.assert_array_equal(array.values, PAGES)


def test_tiff_files_of_many_pages_are_stacked_as_volumes(tmp_path):
    for scan, volume in enumerate(IMAGE):
        tifffile.imwrite(tmp_path / f"scan{scan}.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
    array = open_source(Source(path=str(tmp_path / "scan*.tif"), axes="scan z y x"))
    np.testing.assert_array_equal(array.values, IMAGE)


def test_several_series_of_a_tiff_are_told_apart_by_their_number(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(IMAGE[0, 0])
        tiff.write(IMAGE[0, 0, :4])
    with pytest.raises(SourceError, match=r"holds 2 arrays; choose one with `array`: 0 \(6 x 7\), 1 \(4 x 7\)"):
        open_source(Source(path=str(tmp_path / "a.tif")))
    array = open_source(Source(path=str(tmp_path / "a.tif"), array="1"))
    np.testing.assert_array_equal(array.values, IMAGE[0, 0, :4])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_gives_level_zero_with_axes_channels_and_scale(tmp_path, version):
    write_ome(tmp_path / "a.ome.zarr", version)
    array = open_source(Source(path=str(tmp_path / "a.ome.zarr")))
    assert array.dims == ("scan", "channel", "z", "y", "x")
    assert list(array.channel.values) == ["Si", "Al", "Fe"]
    assert array.attrs["spacing"] == {"z": 2.5, "y": 1.0, "x": 0.5}
    assert array.attrs["position"] == {"z": 10.0, "y": -6.0, "x": 40.0}  # the image's own scale comes after the level's shift
    assert array.attrs["unit"] == "micrometer"
    assert array.attrs["origin"] == f"{tmp_path / 'a.ome.zarr'}::0"
    np.testing.assert_array_equal(array.values, IMAGE[:, :, None])


def test_ome_tiff_gives_channels_and_scale(tmp_path):
    told = {"axes": "CYX", "Channel": {"Name": ["Si", "Al", "Fe"]}, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "\N{MICRO SIGN}m"}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE[0], metadata={**told, "PhysicalSizeY": 0.25})
    array = open_source(Source(path=str(tmp_path / "a.ome.tif")))
    assert list(array.channel.values) == ["Si", "Al", "Fe"]
    assert array.attrs["spacing"] == {"y": 0.25, "x": 0.5}
    assert array.attrs["unit"] == "micrometer"


def test_imagej_tiff_gives_its_scale(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", PAGES, imagej=True, resolution=(2, 4), metadata={"axes": "ZYX", "spacing": 3.0, "unit": "um"}
    )
    attributes = open_source(Source(path=str(tmp_path / "a.tif"))).attrs
    assert attributes["spacing"] == {"z": 3.0, "y": 0.25, "x": 0.5}
    assert attributes["unit"] == "micrometer"


def test_axes_in_units_unlike_come_in_one(tmp_path):
    told = {"axes": "ZYX", "PhysicalSizeZ": 50, "PhysicalSizeZUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", PAGES, metadata=told)
    attributes = open_source(Source(path=str(tmp_path / "a.ome.tif"))).attrs
    assert attributes["spacing"] == {"z": pytest.approx(0.05), "y": 0.5, "x": 0.5}
    assert attributes["unit"] == "micrometer"


@pytest.mark.parametrize(
    ("unit", "spacing", "position"), [("nanometer", 0.0025, 0.01), ("micrometer", 2.5, 10), (None, 2.5, 10), ("second", None, None)]
)
def test_an_axis_of_an_ome_zarr_has_a_unit_of_its_own(tmp_path, unit, spacing, position):
    write_ome(tmp_path / "a.ome.zarr", "0.5")
    change_ome(tmp_path / "a.ome.zarr", lambda image: image["axes"][2].update(unit=unit) if unit else image["axes"][2].pop("unit"))
    attributes = open_source(Source(path=str(tmp_path / "a.ome.zarr"))).attrs
    assert attributes.get("spacing", {}).get("z") == (pytest.approx(spacing) if spacing else None)
    assert attributes.get("position", {}).get("z") == (pytest.approx(position) if position else None)


def test_a_size_of_nothing_says_nothing(tmp_path):
    write_ome(tmp_path / "a.ome.zarr", "0.5")
    scale = {"type": "scale", "scale": [1, 1, 2.5, 0, -0.25]}
    change_ome(tmp_path / "a.ome.zarr", lambda image: image["datasets"][0].update(coordinateTransformations=[scale]))
    assert open_source(Source(path=str(tmp_path / "a.ome.zarr"))).attrs["spacing"] == {"z": 2.5}


def test_labels_of_imagej_name_the_channels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[0], imagej=True, metadata={"axes": "CYX", "Labels": ["Si", "Al", "Fe"]})
    assert list(open_source(Source(path=str(tmp_path / "a.tif"))).channel.values) == ["Si", "Al", "Fe"]


@pytest.mark.parametrize("told", [{"unit": "inch"}, {}])
def test_resolutions_for_printers_are_no_scale(tmp_path, told):
    tifffile.imwrite(tmp_path / "a.tif", PAGES, imagej=bool(told), resolution=(72, 72), metadata={"axes": "ZYX", **told})
    assert "spacing" not in open_source(Source(path=str(tmp_path / "a.tif"))).attrs


def test_stacked_tiff_files_tell_no_distance_between_them(tmp_path):
    for number, page in enumerate(PAGES):
        tifffile.imwrite(tmp_path / f"{number}.ome.tif", page, metadata={"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    array = open_source(Source(path=str(tmp_path / "*.tif"), axes=("z", "y", "x")))
    assert array.attrs["spacing"] == {"y": 0.5, "x": 0.5}
    assert array.attrs["unit"] == "micrometer"


def test_broken_metadata_of_a_tiff_tell_nothing(tmp_path):
    told = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image></OME>'
    tifffile.imwrite(tmp_path / "a.tif", PAGES[0], description=told, metadata=None)
    assert set(open_source(Source(path=str(tmp_path / "a.tif"))).attrs) == {"origin"}


def test_another_level_of_an_ome_zarr_can_be_asked_for(tmp_path):
    write_ome(tmp_path / "a.ome.zarr", "0.5")
    array = open_source(Source(path=str(tmp_path / "a.ome.zarr"), array="1"))
    assert array.dims == ("scan", "channel", "z", "y", "x")
    np.testing.assert_array_equal(array.values, IMAGE[:, :, None, ::2, ::2])


def test_an_ome_image_inside_a_larger_zarr_is_named_by_its_group(tmp_path):
    zarr.open_group(tmp_path / "plate.zarr", mode="w")
    write_ome(tmp_path / "plate.zarr" / "field", "0.5")
    array = open_source(Source(path=str(tmp_path / "plate.zarr"), array="field"))
    assert array.attrs["origin"].endswith("plate.zarr::field/0")
    assert list(array.channel.values) == ["Si", "Al", "Fe"]


def test_a_zarr_array_without_a_group_is_read(tmp_path):
    zarr.save_array(tmp_path / "a.zarr", IMAGE[0, 0])
    array = open_source(Source(path=str(tmp_path / "a.zarr")))
    assert array.attrs["origin"] == str(tmp_path / "a.zarr")
    np.testing.assert_array_equal(array.values, IMAGE[0, 0])


def test_opening_a_zarr_reads_no_chunk(tmp_path):
    write_zarr(tmp_path / "a.zarr", 3)
    damaged = tmp_path / "a.zarr" / "images" / "noisy" / "c" / "1" / "0" / "0" / "0"
    damaged.write_bytes(b"no chunk")
    array = open_source(Source(path=str(tmp_path / "a.zarr")))
    assert array.data.numblocks == (1, 1, 1, 1)
    with pytest.raises(Exception, match=r"."):
        array.compute()


def test_opening_a_memory_mapped_file_larger_than_memory_is_no_work(tmp_path):
    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(4096, 4096, 4096))[4095, 4095, 4095] = 7
    array = open_source(Source(path=str(path), axes="z y x"))
    assert array[-1, -1, -1].values == 7
    path.unlink()


@pytest.mark.parametrize("chunk", [(3, 500, 700), (1, 1, 1), (8, 4096, 4096), (1, 64, 4096)])
def test_blocks_are_whole_stored_chunks_and_not_too_many(tmp_path, chunk):
    zarr.create_array(tmp_path / "a.zarr", shape=(8, 4096, 4096), chunks=chunk, dtype="f4")
    blocks = open_source(Source(path=str(tmp_path / "a.zarr"), axes="z y x")).data
    for lengths, step in zip(blocks.chunks, chunk, strict=True):
        assert all(length % step == 0 for length in lengths[:-1])
    assert max(np.prod(chunk) * 4, 2**23) <= np.prod(blocks.chunksize) * 4 <= max(np.prod(chunk) * 4, 2**25)


def test_a_factor_scales_lazily_to_float32(tmp_path):
    array = open_source(Source(path=save_one(tmp_path / "a.npy", IMAGE[0, 0]), factor=0.5))
    assert array.dtype == np.float32
    assert isinstance(array.data, da.Array)
    assert "origin" in array.attrs
    np.testing.assert_array_equal(array.values, IMAGE[0, 0] / 2)


def test_big_endian_files_arrive_in_native_order(tmp_path):
    array = open_source(Source(path=save_one(tmp_path / "a.npy", IMAGE[0, 0].astype(">u2"))))
    assert array.dtype.isnative
    assert array.values.dtype.isnative
    np.testing.assert_array_equal(array.values, IMAGE[0, 0])


@pytest.mark.parametrize(
    ("own", "ours"),
    [
        ("frame element row column", "scan channel y x"),
        ("time line Y X", "scan channel y x"),
        ("t c y x", "scan channel y x"),
        ("band slice y x", "channel z y x"),
        ("image plane y x", "image z y x"),
    ],
)
def test_usual_names_of_axes_become_ours(tmp_path, own, ours):
    zarr.create_array(tmp_path / "a.zarr", data=IMAGE, dimension_names=own.split())
    assert open_source(Source(path=str(tmp_path / "a.zarr"))).dims == tuple(ours.split())


def test_the_names_in_the_config_win_over_those_in_the_file(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=IMAGE, dimension_names=DIMS)
    assert open_source(Source(path=str(tmp_path / "a.zarr"), axes="image z x y")).dims == ("image", "z", "x", "y")


@pytest.mark.parametrize("attributes", [{"elements": ["Si", "Al", "Fe"]}, {"lines": {"Si": [1, 2], "Al": [2, 3], "Fe": [3, 4]}}])
@pytest.mark.parametrize("where", ["group", "array"])
def test_channels_are_named_by_the_attributes_of_a_zarr(tmp_path, attributes, where):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes=attributes if where == "group" else {})
    group.create_array("b/noisy", data=IMAGE, dimension_names=DIMS, attributes=attributes if where == "array" else {})
    assert list(open_source(Source(path=str(tmp_path / "a.zarr"))).channel.values) == ["Si", "Al", "Fe"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_channels_are_named_by_the_coordinate_that_xarray_writes(tmp_path, zarr_format):
    image = xr.DataArray(IMAGE, dims=("scan", "element", "y", "x"), coords={"element": ["Si", "Al", "Fe"]}, name="noisy")
    image.to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format)
    array = open_source(Source(path=str(tmp_path / "a.zarr")))
    assert array.dims == DIMS
    assert list(array.channel.values) == ["Si", "Al", "Fe"]


def test_channels_and_axes_are_named_by_the_scales_of_an_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["noisy"] = IMAGE[0]
        for axis, (name, values) in enumerate({"channel": ["Si", "Al", "Fe"], "y": np.arange(6), "x": np.arange(7)}.items()):
            file[name] = values
            file[name].make_scale(name)
            file["noisy"].dims[axis].attach_scale(file[name])
    array = open_source(Source(path=str(tmp_path / "a.h5")))
    assert array.dims == ("channel", "y", "x")
    assert list(array.channel.values) == ["Si", "Al", "Fe"]


@pytest.mark.parametrize("place", ["/", "images", "images/noisy"])
def test_channels_are_named_by_the_attributes_of_an_hdf5(tmp_path, place):
    write_hdf5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file[place].attrs["elements"] = ["Si", "Al", "Fe"]
    assert list(open_source(Source(path=str(tmp_path / "a.h5"))).channel.values) == ["Si", "Al", "Fe"]


def test_names_of_another_array_and_sentences_are_not_taken_for_channels(tmp_path):
    attributes = {"elements": ["Si", "Al"], "channels": ["a", "a", "b"], "lines": "one"}
    zarr.open_group(tmp_path / "a.zarr", mode="w", attributes=attributes).create_array("b", data=IMAGE, dimension_names=DIMS)
    assert list(open_source(Source(path=str(tmp_path / "a.zarr"))).channel.values) == ["0", "1", "2"]


def test_the_channel_names_in_the_config_win(tmp_path):
    path = save_one(tmp_path / "a.npy", IMAGE)
    array = open_source(Source(path=path, axes="scan channel y x", channel_names=("Si", "Al", "Fe")))
    assert list(array.channel.values) == ["Si", "Al", "Fe"]


@pytest.fixture
def field(tmp_path):
    path = save_one(tmp_path / "a.npy", IMAGE)
    return open_source(Source(path=path, axes="scan channel y x", channel_names=("Si", "Al", "Fe")))


def test_channels_are_selected_by_name_in_the_order_asked_for(field):
    array = select_channels(field, ("Fe", "Al"))
    assert list(array.channel.values) == ["Fe", "Al"]
    assert isinstance(array.data, da.Array)
    np.testing.assert_array_equal(array.values, IMAGE[:, [2, 1]])
    assert select_channels(field, None) is field


def test_a_channel_that_does_not_exist_is_refused(field):
    with pytest.raises(SourceError, match=r"channel 'Xx' does not exist in .*a\.npy; it has Si, Al, Fe$"):
        select_channels(field, ("Si", "Xx"))
    with pytest.raises(SourceError, match=r"a\.npy has no channel axis to take Si from; its axes are scan y x"):
        select_channels(field.isel(channel=0), ("Si",))


def test_a_crop_keeps_what_lies_inside_its_spans(field):
    array = crop_space(field, {"y": (1, 6), "x": (0, 3)})
    assert isinstance(array.data, da.Array)
    np.testing.assert_array_equal(array.values, IMAGE[..., 1:6, 0:3])
    np.testing.assert_array_equal(crop_space(field, {}).values, IMAGE)


@pytest.mark.parametrize("span", [(0, 7), (-1, 3), (4, 4)])
def test_a_crop_beyond_the_array_is_refused(field, span):
    with pytest.raises(
        SourceError, match=rf"crop of y from {span[0]} to {span[1]} does not lie in .*a\.npy.* has 6 voxels along y"
    ):
        crop_space(field, {"y": span})


def test_a_crop_of_an_axis_that_is_not_there_is_refused(field):
    with pytest.raises(SourceError, match=r"crop of z does not fit .*a\.npy; its axes are scan channel y x"):
        crop_space(field, {"z": (0, 1)})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"source '.*none\.zarr' does not exist"):
        open_source(Source(path=str(tmp_path / "none.zarr")))


def test_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(SourceError, match=r"a\.jpg' is of unknown format '\.jpg'; known are \.zarr, \.tif"):
        open_source(Source(path=str(tmp_path / "a.jpg")))


def test_several_files_are_refused_where_they_are_not_tiff(tmp_path):
    for name in "ab":
        save_one(tmp_path / f"{name}.npy", IMAGE)
    with pytest.raises(SourceError, match=r"matches 2 files; only TIFF files are stacked"):
        open_source(Source(path=str(tmp_path / "*.npy")))


@pytest.mark.parametrize("name", ["a.tif", "a.h5", "a.npy", "a.npz", "a.zarr"])
@pytest.mark.parametrize("content", [b"", b"this is no image"], ids=["empty", "nonsense"])
def test_a_corrupt_file_is_named_with_its_cause(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name} cannot be read \(\w+: .+\)") as caught:
        open_source(Source(path=str(tmp_path / name)))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("place", "metadata"), [("", "{"), ("", '{"zarr_format": 3, "node_type": "array"}'), ("noisy", "{")])
def test_a_zarr_with_broken_metadata_is_named_with_its_cause(tmp_path, place, metadata):
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    (tmp_path / "a.zarr" / place).mkdir(exist_ok=True)
    (tmp_path / "a.zarr" / place / "zarr.json").write_text(metadata)
    with pytest.raises(SourceError, match=r"a\.zarr cannot be read \(\w+: .+\)"):
        open_source(Source(path=str(tmp_path / "a.zarr"), array=place or None))


def test_ome_metadata_without_axes_are_refused(tmp_path):
    attributes = {"ome": {"multiscales": [{"datasets": [{"path": "0"}]}]}}
    zarr.open_group(tmp_path / "a.zarr", mode="w", attributes=attributes).create_array("0", data=IMAGE)
    with pytest.raises(SourceError, match=r"a\.zarr cannot be read \(KeyError: 'axes'\)"):
        open_source(Source(path=str(tmp_path / "a.zarr")))


def test_a_truncated_npy_is_refused(tmp_path):
    path = Path(save_one(tmp_path / "a.npy", IMAGE))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"a\.npy cannot be read \(ValueError: mmap length is greater"):
        open_source(Source(path=str(path), axes="scan channel y x"))


def test_a_compression_that_cannot_be_decoded_here_is_refused_at_once(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[0, 0], compression="zlib")
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {1: None})
    with pytest.raises(SourceError, match=r"a\.tif is compressed with ADOBE_DEFLATE; install imagecodecs"):
        open_source(Source(path=str(tmp_path / "a.tif")))


def test_stacked_files_must_be_alike(tmp_path):
    tifffile.imwrite(tmp_path / "1.tif", IMAGE[0, 0])
    tifffile.imwrite(tmp_path / "2.tif", IMAGE[0, 0, :5])
    with pytest.raises(SourceError, match=r"2\.tif holds 5 x 7 YX uint16, but .*1\.tif 6 x 7 YX uint16; .* must be alike"):
        open_source(Source(path=str(tmp_path / "*.tif"), axes="z y x"))


def container(path):
    if path.suffix == ".npz":
        save(path, noisy=IMAGE, clean=IMAGE[0], gain=IMAGE[0, 0, 0])
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.update({"noisy": IMAGE, "clean": IMAGE[0], "gain": IMAGE[0, 0, 0]})
    else:
        group = zarr.open_group(path, mode="w")
        for name, image in {"noisy": IMAGE, "clean": IMAGE[0], "gain": IMAGE[0, 0, 0]}.items():
            group.create_array(name, data=image)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.npz"])
def test_a_container_of_several_arrays_asks_which_one(tmp_path, name):
    container(tmp_path / name)
    path = str(tmp_path / name)
    with pytest.raises(SourceError, match=r"holds 2 arrays; choose one with `array`: ") as caught:
        open_source(Source(path=path))
    assert "clean (3 x 6 x 7)" in str(caught.value)
    assert "noisy (2 x 3 x 6 x 7)" in str(caught.value)
    with pytest.raises(SourceError, match=r"array 'dirty' does not exist in .*; it has .*noisy \(2 x 3 x 6 x 7\)"):
        open_source(Source(path=path, array="dirty"))
    array = open_source(Source(path=path, array="clean", axes="channel y x"))
    assert array.attrs["origin"] == f"{path}::clean"
    np.testing.assert_array_equal(array.values, IMAGE[0])


def test_a_container_without_an_image_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"holds no array of two or more axes"):
        open_source(Source(path=save(tmp_path / "a.npz", gain=IMAGE[0, 0, 0])))


@pytest.mark.parametrize("name", ["a.npy", "a.zarr"])
def test_an_array_that_is_no_container_has_no_arrays_to_choose(tmp_path, name):
    if name == "a.npy":
        save_one(tmp_path / name, IMAGE)
    else:
        zarr.save_array(tmp_path / name, IMAGE)
    with pytest.raises(SourceError, match=r"is one array and holds no 'noisy'; leave `array` out"):
        open_source(Source(path=str(tmp_path / name), array="noisy"))


def test_a_wrong_number_of_axes_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(
        SourceError, match=r"a\.npy has 4 axes \(2 x 3 x 6 x 7\) but `axes` names 3 \(z y x\); give one name per axis"
    ):
        open_source(Source(path=save_one(tmp_path / "a.npy", IMAGE), axes="z y x"))


def test_a_deep_array_without_names_asks_for_axes(tmp_path):
    with pytest.raises(SourceError, match=r"a\.npy \(3 x 6 x 7\) has the axes \(unnamed\) \(unnamed\) \(unnamed\).*give `axes`"):
        open_source(Source(path=save_one(tmp_path / "a.npy", IMAGE[0])))


def test_pages_of_a_tiff_that_say_not_what_they_are_ask_for_axes(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[0].repeat(2, axis=0))
    with pytest.raises(SourceError, match=r"has the axes \(unnamed\) y x.*give `axes`"):
        open_source(Source(path=str(tmp_path / "a.tif")))


def test_stacked_files_ask_what_their_new_first_axis_is(tmp_path):
    write_tiff_folder(tmp_path / "slice_*.tif")
    with pytest.raises(SourceError, match=r"slice_\*\.tif \(12 x 6 x 7\) has the axes \(unnamed\) y x"):
        open_source(Source(path=str(tmp_path / "slice_*.tif")))


def test_ome_metadata_of_other_axes_than_the_array_has_are_refused(tmp_path):
    write_ome(tmp_path / "a.ome.zarr", "0.5")
    zarr.open_group(tmp_path / "a.ome.zarr").create_array("0", data=IMAGE, overwrite=True)
    with pytest.raises(SourceError, match=r"\(2 x 3 x 6 x 7\) has the axes t c z y x, which do not say"):
        open_source(Source(path=str(tmp_path / "a.ome.zarr")))


@pytest.mark.parametrize("own", ["energy y x", "y y x", "z channel x", "frame t y x"])
def test_axes_that_mean_nothing_to_us_ask_for_axes(tmp_path, own):
    zarr.create_array(
        tmp_path / "a.zarr", data=IMAGE.reshape(-1, 6, 7) if own.count(" ") == 2 else IMAGE, dimension_names=own.split()
    )
    with pytest.raises(SourceError, match=rf"has the axes {own}, which do not say .* give `axes`"):
        open_source(Source(path=str(tmp_path / "a.zarr")))


@pytest.mark.parametrize("names", [("Si", "Al"), ("Si", "Al", "Al")])
def test_channel_names_that_do_not_fit_are_refused(tmp_path, names):
    source = Source(path=save_one(tmp_path / "a.npy", IMAGE), axes="scan channel y x", channel_names=names)
    with pytest.raises(SourceError, match=rf"has 3 channels but `channel_names` has {len(names)} \({', '.join(names)}\)"):
        open_source(source)


def test_channel_names_without_a_channel_axis_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"has no channel axis for `channel_names`; its axes are y x"):
        open_source(Source(path=save_one(tmp_path / "a.npy", IMAGE[0, 0]), channel_names=("Si",)))


@pytest.mark.parametrize("dtype", [np.complex64, "S3", [("a", "i4")]])
def test_values_that_are_no_real_numbers_are_refused(tmp_path, dtype):
    with pytest.raises(SourceError, match=r"a\.npy holds values of type .*; an image has integers, real numbers or booleans"):
        open_source(Source(path=save_one(tmp_path / "a.npy", np.zeros((2, 3), dtype))))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_python_objects_are_refused_and_never_unpickled(tmp_path, name):
    objects = np.array([[{}]], dtype=object)
    path = save_one(tmp_path / name, objects) if name == "a.npy" else save(tmp_path / name, noisy=objects)
    with pytest.raises(SourceError, match=rf"{name} cannot be read \(ValueError: .*(objects|pickle)"):
        open_source(Source(path=path))


def test_an_empty_array_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"a\.npy is empty: 0 x 3"):
        open_source(Source(path=save_one(tmp_path / "a.npy", np.zeros((0, 3)))))


@pytest.mark.skipif(not CHONDRITE.is_dir(), reason="real data ../shared/data/edx_chondrite_obj1.zarr is not on this machine")
def test_measured_element_maps_open_with_their_elements():
    array = open_source(Source(path=str(CHONDRITE), array="noisy_1e2"))
    assert array.dims == DIMS
    assert array.dtype == np.uint8
    assert isinstance(array.data, da.Array)
    assert list(array.channel.values) == ["Si", "Al", "Fe", "Mg", "Ca", "Ni", "S", "Cr", "P", "Ti"]
    part = crop_space(select_channels(array, ("Fe", "Si")), {"y": (100, 164), "x": (0, 64)})
    stored = zarr.open_group(CHONDRITE, mode="r")["noisy_1e2"]
    np.testing.assert_array_equal(part[3].values, stored[3, :, 100:164, 0:64][[2, 0]])


@pytest.mark.parametrize(
    ("numbers", "axes", "gap"),
    [
        ([1, 2, 4, 10], "z y x", "s_2_b3.tif and s_4_b3.tif"),
        ([8, 9, 10], "z y x", None),
        ([0, 5, 10], "z y x", None),
        ([1, 2, 4], "scan y x", None),
    ],
)
def test_a_slice_that_is_missing_among_numbered_files_is_told(tmp_path, monkeypatch, capsys, numbers, axes, gap):
    monkeypatch.chdir(tmp_path)
    for number in numbers:
        tifffile.imwrite(f"s_{number}_b3.tif", np.zeros((4, 5), np.uint8))
    assert open_source(Source(path="s_*.tif", axes=axes)).shape == (len(numbers), 4, 5)
    told = capsys.readouterr().err
    assert (f"no file between {gap}, which are taken for neighbouring slices" in told) == (gap is not None)
    assert ("warning" in told) == (gap is not None)
