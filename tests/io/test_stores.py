import threading
from itertools import product

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from behindthenoise.errors import StoreError
from behindthenoise.io import datasets, stores, writers


def memory_array(values, chunks):
    array = zarr.create_array({}, shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=stores.COMPRESSORS)
    array[:] = values
    return array


def stored(path, values, chunks):
    group = stores.create_group(path, {})
    dims = "zyx"[-values.ndim :]
    array = stores.create_array(group, "values", values.shape, dtype=str(values.dtype), chunks=chunks, dims=dims)
    array[:] = values
    return array


def chunk_files(path):
    return [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"store .*absent\.zarr cannot be opened .*; delete its folder and run the workflow again"):
        stores.open_group(tmp_path / "absent.zarr")


def test_a_store_with_damaged_metadata_is_named(tmp_path):
    stores.create_group(tmp_path / "damaged.zarr", {})
    (tmp_path / "damaged.zarr" / "zarr.json").write_text("{ not json")
    with pytest.raises(StoreError, match=r"damaged\.zarr cannot be opened"):
        stores.open_group(tmp_path / "damaged.zarr")


@pytest.mark.parametrize("name", ["absent", "group"])
def test_a_missing_array_is_named(tmp_path, name):
    group = stores.create_group(tmp_path / "some.zarr", {})
    group.create_group("group")
    with pytest.raises(StoreError, match=rf"some\.zarr has no array '{name}'; delete its folder"):
        stores.get_array(stores.open_group(tmp_path / "some.zarr"), name)


def test_a_new_store_has_nothing_of_the_old_one(tmp_path):
    stored(tmp_path / "some.zarr", np.ones((4, 4), np.float32), (2, 2))
    stores.create_group(tmp_path / "some.zarr", {"key": 1})
    group = stores.open_group(tmp_path / "some.zarr")
    assert (list(group), group.attrs.asdict(), chunk_files(tmp_path)) == ([], {"key": 1}, [])


@pytest.mark.parametrize(("dtype", "expected"), [("float32", np.nan), ("float64", np.nan), ("uint8", 0), ("bool", 0)])
def test_a_voxel_that_was_never_written_is_nan_or_zero(tmp_path, dtype, expected):
    group = stores.create_group(tmp_path / "some.zarr", {})
    array = stores.create_array(group, "values", (5, 6), dtype=dtype, chunks=(2, 3), dims=("y", "x"))
    array[:2, :3] = 1
    written = np.zeros((5, 6), bool)
    written[:2, :3] = True
    np.testing.assert_array_equal(array[:], np.where(written, 1, expected).astype(dtype))


def test_chunks_are_no_larger_than_the_array_and_dimensions_are_named(tmp_path):
    group = stores.create_group(tmp_path / "some.zarr", {})
    stores.create_array(group, "values", (3, 300), dtype="float32", chunks=(256, 256), dims=("y", "x"))
    array = stores.get_array(stores.open_group(tmp_path / "some.zarr"), "values")
    assert (array.chunks, array.metadata.dimension_names) == ((3, 256), ("y", "x"))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_chunk_of_nothing_but_the_fill_value_is_written_too(tmp_path, value):
    # a missing file would be read as fill value, so only a file that is there can be told from one that was lost
    stored(tmp_path / "some.zarr", np.full((4, 4), value, np.float32), (2, 2))
    assert len(chunk_files(tmp_path)) == 4


@pytest.mark.parametrize("place", [0, 20, -6, -1])
def test_a_flipped_bit_in_a_chunk_is_an_error_on_reading(tmp_path, place, random_image):
    array = stored(tmp_path / "some.zarr", random_image, (16, 16))
    file = sorted(chunk_files(tmp_path))[0]
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        array[:]
    with pytest.raises((ValueError, RuntimeError)):
        stores.digest(array)


def test_a_chunk_that_was_cut_short_is_an_error_on_reading(tmp_path, random_image):
    array = stored(tmp_path / "some.zarr", random_image, (16, 16))
    file = sorted(chunk_files(tmp_path))[0]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises((ValueError, RuntimeError)):
        array[:]


@pytest.fixture
def random_image():
    return np.random.default_rng(0).random((32, 16)).astype(np.float32)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2**31), st.data())
@settings(deadline=None, max_examples=15)
def test_one_changed_voxel_changes_the_digest(shape, seed, data):
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    changed = values.copy()
    changed[tuple(data.draw(st.integers(0, size - 1)) for size in shape)] += 1
    digests = [stores.digest(memory_array(part, chunks)) for part in (values, values.copy(), changed)]
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_does_not_depend_on_compression_but_on_chunks_type_and_place():
    values = np.arange(36, dtype=np.int32).reshape(6, 6)
    plain = zarr.create_array({}, shape=(6, 6), chunks=(3, 2), dtype="int32", compressors=None)
    plain[:] = values
    digest = stores.digest(memory_array(values, (3, 2)))
    assert digest == stores.digest(plain)
    assert digest != stores.digest(memory_array(values, (2, 3)))
    assert digest != stores.digest(memory_array(values.astype(np.uint32), (3, 2)))
    assert digest != stores.digest(memory_array(values.reshape(4, 9), (3, 2)))
    zeros = memory_array(np.zeros((6, 6)), (3, 2))
    regions = [(slice(start, start + 3), slice(0, 6)) for start in (0, 3)]
    assert stores.digest(zeros, regions[0]) != stores.digest(zeros, regions[1])


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.data())
@settings(deadline=None, max_examples=15)
def test_the_digest_of_a_region_sees_all_of_it_and_nothing_else(shape, data):
    chunks = tuple(data.draw(st.integers(2, 5)) for _ in shape)
    edges = [sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))) for size in shape]
    region = tuple(slice(*edge) for edge in edges)
    values = np.zeros(shape)
    expected = stores.digest(memory_array(values, chunks), region)
    for voxel in product(*map(range, shape)):
        changed = values.copy()
        changed[voxel] = 1
        inside = all(part.start <= place < part.stop for part, place in zip(region, voxel, strict=True))
        assert (stores.digest(memory_array(changed, chunks), region) != expected) == inside


def test_every_creation_of_a_store_has_a_name_of_its_own():
    assert len({stores.new_instance() for _ in range(100)}) == 100


@pytest.mark.parametrize("space", [("y", "x"), ("z", "y", "x")], ids=["2d", "3d"])
def test_a_dataset_comes_back_as_it_was(tmp_path, space):
    random = np.random.default_rng(3)
    shape = (70, 5, 300)[-len(space) :]
    dataset = xr.Dataset(
        {
            "noisy": (("image", "channel", *space), random.random((2, 2, *shape), dtype=np.float32)),
            "mask": (("image", *space), random.random((2, *shape)) < 0.5),
        },
        {
            "channel": ("channel", np.array(["Fe", "Ni"], dtype=object)),
            **{name: (name, 0.5 * np.arange(size), {"units": "um"}) for name, size in zip(space, shape, strict=True)},
        },
        {"geometry": {"unit": "um"}},
    )
    digests = datasets.write_dataset(tmp_path / "pairs.zarr", dataset, space)
    found = xr.open_zarr(tmp_path / "pairs.zarr", consolidated=False)
    xr.testing.assert_identical(found.load(), dataset)
    assert {name: variable.dtype for name, variable in found.data_vars.items()} == {"noisy": np.float32, "mask": bool}
    group = stores.open_group(tmp_path / "pairs.zarr")
    assert digests == {name: stores.digest(stores.get_array(group, name)) for name in ("mask", "noisy")}
    edge = {2: 256, 3: 64}[len(space)]
    assert stores.get_array(group, "noisy").chunks == (1, 1, *(min(edge, size) for size in shape))


def test_writing_a_dataset_twice_leaves_the_second(tmp_path):
    for size in (40, 20):
        values = np.full((size, size), size, np.float32)
        datasets.write_dataset(tmp_path / "pairs.zarr", xr.Dataset({"noisy": (("y", "x"), values)}), ("y", "x"))
    found = xr.open_zarr(tmp_path / "pairs.zarr", consolidated=False)
    np.testing.assert_array_equal(found["noisy"], values)


def test_a_dataset_is_protected_against_damage(tmp_path, random_image):
    datasets.write_dataset(tmp_path / "pairs.zarr", xr.Dataset({"noisy": (("y", "x"), random_image)}), ("y", "x"))
    (file,) = chunk_files(tmp_path / "pairs.zarr" / "noisy")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        xr.open_zarr(tmp_path / "pairs.zarr", consolidated=False).load()


def test_an_array_without_one_of_its_files_is_refused(tmp_path):
    group = stores.create_group(tmp_path / "a.zarr", {})
    array = stores.create_array(group, "values", (6, 10), dtype="float32", chunks=(4, 4), dims=("y", "x"))
    array[...] = np.nan
    np.testing.assert_array_equal(stores.whole_array(group, "values")[...], array[...])
    (tmp_path / "a.zarr/values/c/1/2").unlink()
    with pytest.raises(StoreError, match=r"1 of the 6 files of .*a\.zarr/values are lost"):
        stores.whole_array(group, "values")


def test_the_digest_of_metadata_sees_attributes_and_no_values(tmp_path):
    group = stores.create_group(tmp_path / "a.zarr", {"spacing": 1})
    array = stores.create_array(group, "values", (6,), dtype="uint8", chunks=(4,), dims=("x",))
    before = stores.metadata_digest(tmp_path / "a.zarr")
    array[...] = 3
    assert stores.metadata_digest(tmp_path / "a.zarr") == before
    group.attrs["spacing"] = 2
    assert stores.metadata_digest(tmp_path / "a.zarr") != before


def test_files_are_written_by_as_many_threads_as_are_given_and_each_has_one_for_its_products(tmp_path):
    """A file's piece waits for a second one, so that both threads are at work; a third would be seen."""
    group = stores.create_group(tmp_path / "a.zarr", {})
    target = stores.create_array(group, "a", (8, 4), dtype="f4", chunks=stores.Cut((1, 4), (1, 4)), dims=("y", "x"))
    together, threads, products = threading.Barrier(2, timeout=30), set(), set()

    def work(piece):
        together.wait()
        threads.add(threading.get_ident())
        products.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return piece + 1

    source = da.zeros((8, 4), chunks=(1, 4), dtype="f4").map_blocks(work, meta=np.zeros((0, 0), "f4"))
    with dask.config.set(num_workers=2):
        datasets.fill([source], [target])
    assert len(threads) == 2
    assert products == {1}
    np.testing.assert_array_equal(target[...], 1)


@pytest.mark.parametrize("space", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32", "bool"])
def test_the_writer_writes_what_zarr_reads_in_every_type(tmp_path, space, dtype):
    shape, cut = (2, *[10, 7, 9][:space]), stores.Cut((2, *[3] * space), (2, *[6] * space))
    array = stores.create_array(
        stores.create_group(tmp_path / "s", {}), "a", shape, dtype=dtype, chunks=cut, dims="cyxz"[: space + 1]
    )
    values = np.random.default_rng(3).normal(scale=50, size=shape).astype(dtype)
    values[:, :3, :3] = array.fill_value
    for region in stores.blocks(array):
        digest = writers.write_file(array, region, values[region])
        assert digest == stores.digest(array, region)
    np.testing.assert_array_equal(array[...], values)
    written = {path.name for path in stores.folder_of(array).rglob("*") if path.is_file()}
    assert written == {"zarr.json", "0", "1"}


def test_the_writer_uses_as_many_threads_as_dask(tmp_path, monkeypatch):
    array = stores.create_array(stores.create_group(tmp_path / "s", {}), "a", (4, 4), dtype="bool", chunks=(2, 2), dims="yx")
    monkeypatch.setenv("DASK_NUM_WORKERS", "3")
    found = writers.Writer.of(array).stored.spec(retain_context=True).to_json()["context"]
    assert {found[name]["limit"] for name in ("data_copy_concurrency", "file_io_concurrency")} == {3}


def test_what_cannot_be_written_is_named(tmp_path):
    array = stores.create_array(stores.create_group(tmp_path / "s", {}), "a", (4, 4), dtype="int32", chunks=(2, 2), dims="yx")
    (tmp_path / "s" / "a" / "c").write_text("a file where a folder must be")
    with pytest.raises(OSError, match=f"{tmp_path}/s/a cannot be written"):
        writers.Writer.of(array)[:2, :2] = np.ones((2, 2), np.int32)
    (tmp_path / "s" / "a" / "zarr.json").unlink()
    with pytest.raises(OSError, match=f"{tmp_path}/s/a cannot be written"):
        writers.Writer.of(array)


def test_a_backslash_in_a_path_is_refused(tmp_path):
    array = stores.create_array(stores.create_group(tmp_path / "a\\b", {}), "a", (4, 4), dtype="int32", chunks=(2, 2), dims="yx")
    with pytest.raises(OSError, match="rename the folder"):
        writers.Writer.of(array)


@pytest.mark.parametrize("name", ["a b", "50%", "#1?", "é:|$'", "sub/../c"])
def test_stores_lie_in_folders_of_any_name(tmp_path, name):
    (tmp_path / "sub").mkdir()
    array = stores.create_array(stores.create_group(tmp_path / name, {}), "a", (4, 4), dtype="int32", chunks=(2, 2), dims="yx")
    datasets.fill([da.ones((4, 4), dtype=np.int32)], [array])
    assert (array[...] == 1).all()


@pytest.mark.parametrize("values", [np.ones((2, 2)), np.ones((1, 2), np.int32), np.ones(2, np.int32)])
def test_values_of_another_type_or_shape_are_refused(tmp_path, values):
    array = stores.create_array(stores.create_group(tmp_path / "s", {}), "a", (4, 4), dtype="int32", chunks=(2, 2), dims="yx")
    with pytest.raises(ValueError, match=r"is no int32 \(2, 2\)"):
        writers.Writer.of(array)[:2, :2] = values


def test_what_a_killed_writer_has_left_is_removed_and_other_files_stay(tmp_path):
    array = stores.create_array(stores.create_group(tmp_path / "s", {}), "a", (40, 2), dtype="int32", chunks=(2, 2), dims="yx")
    folder = stores.folder_of(array) / "c" / "1"
    folder.mkdir(parents=True)
    for name in ("0_0123456789abcdef.__lock", "10_0123456789abcdef.__lock"):
        (folder / name).write_bytes(b"half")
    writers.write_file(array, (slice(2, 4), slice(0, 2)), np.ones((2, 2), np.int32))
    assert {path.name for path in folder.iterdir()} == {"0", "10_0123456789abcdef.__lock"}
