"""A source at a URL gives what the same source gives on this machine."""

import re
from pathlib import Path

import dask.array as da
import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import zarr

from behindthenoise.config import Source
from behindthenoise.errors import SourceError
from behindthenoise.io import copies
from behindthenoise.io.canonical import reading
from behindthenoise.io.sources import open_source

IMAGE = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)
AXES = [{"name": "c", "type": "channel"}, {"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "micrometer"}]
OME = {
    "version": "0.5",
    "multiscales": [
        {"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2.0, 0.5]}]}]}
    ],
    "omero": {"channels": [{"label": name} for name in ("Si", "Al", "Fe")]},
}


def write_ome(path, zarr_format):
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format, attributes={"ome": OME} if zarr_format == 3 else OME)
    group.create_array("0", data=IMAGE, chunks=(1, 20, 25))


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/noisy", data=IMAGE)
        file.create_dataset("deep/clean", data=IMAGE)


def write_slices(path):
    for number in (1, 2, 10):
        tifffile.imwrite(path.parent / path.name.replace("*", str(number)), IMAGE[0] + number)


SOURCES = {
    "zarr3": ("a.ome.zarr", lambda path: write_ome(path, 3), {}),
    "zarr2": ("a.zarr", lambda path: write_ome(path, 2), {}),
    "tiff": ("a.tif", lambda path: tifffile.imwrite(path, IMAGE, photometric="minisblack"), {"axes": "channel y x"}),
    "slices": ("s*.tif", write_slices, {"axes": "z y x"}),
    "hdf5": ("a.h5", write_hdf5, {"axes": "channel y x", "array": "deep/noisy"}),
    "npy": ("a.npy", lambda path: np.save(path, IMAGE), {"axes": "channel y x"}),
    "npz": ("a.npz", lambda path: np.savez(path, noisy=IMAGE), {"axes": "channel y x"}),
}


def upload(folder: Path, url, options):
    system, path = fsspec.url_to_fs(url, **options)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            system.pipe_file(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_at_a_url_is_the_one_on_this_machine(tmp_path, bucket, kind):
    (url, options), (name, write, keys) = bucket, SOURCES[kind]
    write(tmp_path / name)
    upload(tmp_path, url, options)
    here = open_source(Source(path=str(tmp_path / name), **keys))
    there = open_source(Source(path=f"{url}/{name}", options=options, **keys))
    assert isinstance(there.data, da.Array)
    assert (there.dims, there.dtype) == (here.dims, here.dtype)
    assert there.attrs.pop("origin") == here.attrs.pop("origin").replace(str(tmp_path), url)
    assert there.attrs == here.attrs
    np.testing.assert_array_equal(there.values, here.values)
    assert there.coords.identical(here.coords)


def test_of_a_store_at_a_url_only_what_is_used_is_read(tmp_path, bucket):
    url, options = bucket
    write_ome(tmp_path / "a.ome.zarr", 3)
    (tmp_path / "a.ome.zarr/0/c/2/1/1").write_bytes(b"no chunk")
    upload(tmp_path, url, options)
    array = open_source(Source(path=f"{url}/a.ome.zarr", options=options))
    np.testing.assert_array_equal(array.isel(channel=0).values, IMAGE[0])
    with (
        pytest.raises(SourceError, match=rf"{url}/a\.ome\.zarr::0 cannot be read .* or the network lost; try again"),
        reading(array.origin),
    ):
        array.values  # noqa: B018  # reads


def test_a_file_is_fetched_once_and_only_as_long_as_the_process_lives(tmp_path, bucket):
    url, options = bucket
    write_hdf5(tmp_path / "a.h5")
    upload(tmp_path, url, options)
    first = copies.copies(f"{url}/a.h5", options)
    fsspec.url_to_fs(url, **options)[0].rm_file(fsspec.url_to_fs(f"{url}/a.h5", **options)[1])
    assert copies.copies(f"{url}/a.h5", options) == first
    assert Path(first[f"{url}/a.h5"]).read_bytes() == (tmp_path / "a.h5").read_bytes()
    assert Path(copies._folder().name) in Path(first[f"{url}/a.h5"]).parents


def test_an_error_names_the_url_and_no_copy(tmp_path, bucket):
    url, options = bucket
    write_hdf5(tmp_path / "a.h5")
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    upload(tmp_path, url, options)
    with pytest.raises(SourceError, match=rf"^{url}/a\.h5 holds 2 arrays; choose one with `array`: "):
        open_source(Source(path=f"{url}/a.h5", options=options))
    with pytest.raises(SourceError, match=rf"^{url}/b\.tif cannot be read \(TiffFileError") as caught:
        open_source(Source(path=f"{url}/b.tif", options=options))
    assert copies._folder().name not in str(caught.value)


def test_a_store_with_broken_metadata_is_named(tmp_path, bucket):
    url, options = bucket
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    upload(tmp_path, url, options)
    with pytest.raises(SourceError, match=rf"^{url}/a\.zarr cannot be read \(\w+: "):
        open_source(Source(path=f"{url}/a.zarr", options=options))


def test_files_that_do_not_fit_are_refused_before_they_are_fetched(tmp_path, bucket, monkeypatch):
    url, options = bucket
    np.save(tmp_path / "a.npy", IMAGE)
    upload(tmp_path, url, options)
    full = copies.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: full)
    with pytest.raises(SourceError, match=rf"{re.escape(url)}/a\.npy has 1\.21e-05 GB and .* only 1e-06 GB of room; set TMPDIR"):
        open_source(Source(path=f"{url}/a.npy", options=options, axes="channel y x"))
    assert f"{url}/a.npy" not in copies._stored()
