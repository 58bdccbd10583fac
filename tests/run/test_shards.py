"""Shards are written whole, once, and again only where something is missing, damaged or of other networks."""

import numpy as np
import pytest
import zarr

from behindthenoise.core.tiling import tiles
from behindthenoise.errors import StoreError
from behindthenoise.io import stores, writers
from behindthenoise.io.geometry import Axes
from behindthenoise.io.record import read_json, write_json
from behindthenoise.io.volumes import RAW, Volume, create_quantiles
from behindthenoise.run import shards as module
from behindthenoise.run.shards import Shards, expect_complete
from behindthenoise.run.shares import Share

SHAPE, SHARD = (40, 50), (32, 32)


def values_of(shard, seed=0):
    """Results of a shard, in the order of `RAW`: a channel, and two components."""
    sizes = [part.stop - part.start for part in shard.core]
    random = np.random.default_rng([seed, *(part.start for part in shard.core)])
    leading = zip(((3, 1), (1,), (2,)), RAW.values(), strict=True)
    return [random.normal(size=(*lead, *sizes)).astype(dtype) for lead, dtype in leading]


@pytest.fixture
def store(tmp_path):
    axes = Axes(("y", "x"), ("Fe",), "counts")
    mask = zarr.create_array(store={}, shape=SHAPE, dtype=bool)
    create_quantiles(tmp_path / "volume" / "q.zarr", Volume(mask, mask, axes), (16, 16), SHARD, 2)
    return tmp_path / "volume" / "q.zarr"


@pytest.fixture
def written(store, tmp_path):
    """The store that two jobs have filled, and their manifests."""
    shards, paths = Shards.open(store, SHAPE, key="networks"), []
    for job in range(2):
        owned = shards.owned(Share(job, 2))
        for shard in owned:
            shards.write(shard, values_of(shard))
        paths.append(tmp_path / f"{job}.json")
        write_json(paths[-1], {"instance": shards.layout.instance, "shards": shards.digests(owned)})
    return store, paths


def files_of(store, name):
    return sorted(file for file in (store / name / "c").rglob("*") if file.is_file())


def test_all_shards_have_one_owner_and_a_file_in_each_array(written):
    store, _ = written
    shards = Shards.open(store, SHAPE, key="networks")
    assert [shard for job in range(3) for shard in shards.owned(Share(job, 3))] == shards.every == tiles(SHAPE, SHARD, 0)
    assert shards.count() == 4
    for name in RAW:
        assert len(files_of(store, name)) == 4
    for shard in shards.every:
        for name, values in zip(RAW, values_of(shard), strict=True):
            np.testing.assert_array_equal(shards.group[name][(..., *shard.core)], values)


def test_a_finished_shard_is_not_computed_again(written):
    shards = Shards.open(written[0], SHAPE, key="networks")
    assert all(shards.has(shard) for shard in shards.every)


def test_shards_of_other_networks_or_of_another_store_are(written, store):
    assert not any(map(Shards.open(store, SHAPE, key="others").has, tiles(SHAPE, SHARD, 0)))
    group = zarr.open_group(store, mode="r+")
    group.attrs["instance"] = "another"
    assert not any(map(Shards.open(store, SHAPE, key="networks").has, tiles(SHAPE, SHARD, 0)))


def test_a_store_that_is_laid_out_anew_knows_of_no_shards(written):
    store, _ = written
    module.forget(store)
    shards = Shards.open(store, SHAPE, key="networks")
    assert shards.count() == 0
    assert not any(map(shards.has, shards.every))


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("harm", ["lost", "cut", "flipped"])
def test_a_damaged_file_is_found_named_and_mended(written, name, harm):
    store, paths = written
    file = files_of(store, name)[-1]
    content = bytearray(file.read_bytes())
    if harm == "lost":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[10] ^= 4
        file.write_bytes(content)
    with pytest.raises(StoreError, match=r"the shard at 32,32 of .* is lost or damaged: .* delete .*1\.json and run"):
        expect_complete(Shards.open(store, SHAPE), paths)
    shards = Shards.open(store, SHAPE, key="networks")
    assert [module.name_of(shard) for shard in shards.every if not shards.has(shard)] == ["32,32"]
    shards.write(shards.every[-1], values_of(shards.every[-1]))
    expect_complete(Shards.open(store, SHAPE), paths)


def test_a_store_that_holds_what_its_jobs_wrote_is_complete(written):
    store, paths = written
    expect_complete(Shards.open(store, SHAPE), paths)


def test_a_shard_that_no_job_wrote_is_named(written):
    store, paths = written
    with pytest.raises(StoreError, match=r"the shard at 32,0 of .* was never written"):
        expect_complete(Shards.open(store, SHAPE), paths[:1])


def test_shards_of_an_earlier_store_do_not_count(written):
    store, paths = written
    for path in paths:
        write_json(path, {**read_json(path), "instance": "another"})
    with pytest.raises(StoreError, match="was never written"):
        expect_complete(Shards.open(store, SHAPE), paths)


@pytest.mark.parametrize("region", [(slice(0, 16), slice(0, 32)), (slice(16, 40), slice(0, 32)), (slice(0, 40), slice(0, 50))])
def test_part_of_a_file_or_more_than_one_is_not_written(written, region):
    """Two writers that share a file lose what one of them wrote."""
    array = zarr.open_group(written[0], mode="r+")["spread"]
    before = array[...]
    with pytest.raises(ValueError, match="is not one whole file of array spread"):
        writers.write_file(
            array, stores.whole(array, region), np.zeros((1, *[part.stop - part.start for part in region]), np.float32)
        )
    np.testing.assert_array_equal(array[...], before)
