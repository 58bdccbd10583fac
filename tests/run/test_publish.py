"""A published volume is the finished one, however often its copying was cut off, and nothing else is touched."""

import json
import shutil
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

from behindthenoise.cli import main
from behindthenoise.config import parse
from behindthenoise.core.pyramid import shapes_of_levels
from behindthenoise.errors import RemoteError
from behindthenoise.io import datasets, finished, stores
from behindthenoise.io.geometry import Geometry
from behindthenoise.remote import Place
from behindthenoise.run import publish, verify
from behindthenoise.stages import specification

SHAPE = (300, 280)
INDEX = "behindthenoise/zarr.json"


def fill(store: Path, seed: int) -> None:
    geometry = Geometry(("y", "x"), ("Fe",), "counts", (0.5, 0.5), "micrometer")
    random = np.random.default_rng(seed)
    noisy, mask = (
        xr.DataArray(random.random((1, *SHAPE)), dims=("channel", "y", "x")),
        xr.DataArray(np.ones(SHAPE, bool), dims=("y", "x")),
    )
    datasets.write_input(store.with_name("input.zarr"), noisy, mask, geometry, {})
    levels = shapes_of_levels(SHAPE)
    group = finished.create_ome(
        store,
        geometry,
        levels,
        [finished.LabelImage("tokens", ((255, 0, 0, 255),) * 3, ({},) * 3)],
    )
    for level, shape in enumerate(levels):
        stores.get_array(group, str(level))[:] = random.random((4, *shape))
        stores.get_array(group, f"labels/tokens/{level}")[:] = random.integers(1, 4, shape)


@pytest.fixture
def store(tmp_path):
    fill(tmp_path / "large.ome.zarr", 0)
    return tmp_path / "large.ome.zarr"


@pytest.fixture(params=["folder", "memory", "s3"])
def target(request, tmp_path, new_bucket):
    """Where to publish, as the configuration says it."""
    if request.param == "folder":
        return {"path": str(tmp_path / "copies" / "large.ome.zarr")}
    url, options = new_bucket(request.param)
    return {"path": f"{url}/sub/large.ome.zarr", "options": options}


def send(store, target, dataset="some"):
    """The verb, as the workflow calls it."""
    config = {"dataset": dataset, "synthetic": {}, "volumes": {"large": {"synthetic": [64, 64]}}, "publish": {"large": target}}
    spec = specification(parse(config, check_files=False), "publish", volume="large")
    manifest = store.with_name("publish.json")
    return main(["publish", "--store", str(store), "--manifest", str(manifest), "--spec", spec])


def content(target):
    """Every file at the target."""
    system, path = fsspec.url_to_fs(target["path"], **target.get("options", {}))
    system.invalidate_cache()
    return {name.removeprefix(f"{path}/"): system.cat_file(name) for name in system.find(path)}


def put(target, name, data):
    system, path = fsspec.url_to_fs(
        target["path"], **({} if "options" in target else {"auto_mkdir": True}), **target.get("options", {})
    )
    system.pipe_file(f"{path}/{name}", data)


def files(store):
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.fixture
def sent(monkeypatch):
    """Names of the files that are sent from now on."""
    names, original = [], Place.send
    monkeypatch.setattr(Place, "send", lambda self, name, file: (names.append(name), original(self, name, file)))
    return names


def test_the_copy_has_the_files_of_the_volume_and_an_index_of_them(store, target):
    assert send(store, target) == 0
    found = content(target)
    index = json.loads(found.pop(INDEX))["attributes"]["behindthenoise"]
    assert found == files(store)
    assert (index["dataset"], index["volume"], set(index["files"])) == ("some", "large", set(found))
    manifest = json.loads(store.with_name("publish.json").read_text())
    assert (manifest["path"], manifest["volume"]) == (target["path"], "large")
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {name: len(data) for name, data in found.items()}


def test_a_reader_of_zarr_sees_the_same_volume(store, target):
    assert send(store, target) == 0
    options = {"storage_options": target["options"]} if target.get("options") else {}
    there, here = zarr.open_group(target["path"], mode="r", **options), zarr.open_group(store, mode="r")
    assert dict(there.attrs) == dict(here.attrs)
    np.testing.assert_array_equal(there["0"][:], here["0"][:])
    np.testing.assert_array_equal(there["labels/tokens/0"][:], here["labels/tokens/0"][:])


def test_a_second_time_nothing_is_sent(store, target, sent):
    assert send(store, target) == 0
    assert set(sent) == set(files(store))
    sent.clear()
    assert send(store, target) == 0
    assert sent == []


def test_a_volume_that_was_made_again_takes_the_place_of_the_first(store, target, sent):
    assert send(store, target) == 0
    fill(store, 1)
    shutil.rmtree(store / "1")
    sent.clear()
    assert send(store, target) == 0
    found = content(target)
    found.pop(INDEX)
    assert found == files(store)
    assert "zarr.json" in sent
    assert "0/zarr.json" not in sent, "the metadata of level 0 are as they were"


def test_a_copy_that_was_cut_off_is_no_volume_and_goes_on_where_it_was(store, target, sent, monkeypatch, capsys):
    monkeypatch.setattr(publish, "WORKERS", 1)
    monkeypatch.setattr(publish, "SAVE_EVERY_S", 0.0)
    with monkeypatch.context() as patch:
        working = Place.send

        def failing(self, name, file):
            if len(sent) == 4:
                raise RemoteError("the network is gone")
            working(self, name, file)

        patch.setattr(Place, "send", failing)
        assert send(store, target) == 2
    assert "the network is gone" in capsys.readouterr().err
    assert "zarr.json" not in content(target)
    assert not store.with_name("publish.json").exists()
    arrived = set(sent)
    sent.clear()
    assert send(store, target) == 0
    assert len(arrived) == 4
    assert set(sent) == set(files(store)) - arrived
    assert sent[-1] == "zarr.json"


def test_a_copy_that_is_about_to_change_is_no_volume_until_it_is_whole(store, target, monkeypatch):
    assert send(store, target) == 0
    fill(store, 1)

    def failing(self, name, file):
        raise RemoteError("the network is gone")

    monkeypatch.setattr(Place, "send", failing)
    assert send(store, target) == 2
    assert "zarr.json" not in content(target)
    index = json.loads(content(target)[INDEX])["attributes"]["behindthenoise"]["files"]
    assert "0/zarr.json" in index
    assert "0/c/0/0/0" not in index, "the old file may be replaced by half of the new one"


def test_a_file_that_is_not_as_it_was_sent_is_sent_again(store, target, sent):
    assert send(store, target) == 0
    put(target, "0/c/0/0/0", b"short")
    sent.clear()
    assert send(store, target) == 0
    assert sorted(sent) == ["0/c/0/0/0", "zarr.json"]
    assert content(target)["0/c/0/0/0"] == (store / "0/c/0/0/0").read_bytes()


def test_a_file_that_has_changed_but_not_in_size_is_sent_again(store, target, sent):
    assert send(store, target) == 0
    file = store / "0/c/0/0/0"
    file.write_bytes(file.read_bytes()[::-1])
    sent.clear()
    assert send(store, target) == 0
    assert sorted(sent) == ["0/c/0/0/0", "zarr.json"]
    assert content(target)["0/c/0/0/0"] == file.read_bytes()


def test_the_metadata_of_the_root_wait_for_all_other_files(store, target, monkeypatch):
    original = Place.send

    def late(self, name, file):
        if name == "0/c/0/0/0":
            time.sleep(1)
            assert "zarr.json" not in content(target)
        original(self, name, file)

    monkeypatch.setattr(Place, "send", late)
    assert send(store, target) == 0
    assert "zarr.json" in content(target)


def test_a_copy_that_has_lost_a_file_is_found_and_one_that_cannot_be_reached_is_no_whole_one(store, target, tmp_path):
    folder = tmp_path / "results" / "some" / "volumes" / "large"
    folder.mkdir(parents=True)
    assert send(store, target) == 0
    manifest = Path(shutil.copy(store.with_name("publish.json"), folder))
    assert list(verify.damaged_copies([manifest], tmp_path)) == []
    put(target, "0/c/0/0/0", b"short")
    assert list(verify.damaged_copies([manifest], tmp_path)) == [
        verify.Damage(f"{target['path']}: 0/c/0/0/0 is missing, or not as it was published", manifest)
    ]
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**written, "path": "x3://bucket/large.ome.zarr"}))
    (damage,) = verify.damaged_copies([manifest], tmp_path)
    assert damage.words.startswith("whether the published large is whole is unknown: x3://bucket/large.ome.zarr cannot be reached")


def test_an_index_that_was_cut_off_stops_nothing(store, target, sent):
    assert send(store, target) == 0
    put(target, INDEX, content(target)[INDEX][:40])
    sent.clear()
    assert send(store, target) == 0
    assert set(sent) == set(files(store))


def test_what_does_not_belong_to_the_copy_goes_and_what_is_beside_it_stays(store, target):
    assert send(store, target) == 0
    put(target, "9/c/0", b"old level")
    beside = {**target, "path": target["path"].replace("large", "larger")}
    put(beside, "zarr.json", b"mine")
    assert send(store, target) == 0
    assert "9/c/0" not in content(target)
    assert not (Path(target["path"]) / "9").exists()
    assert content(beside) == {"zarr.json": b"mine"}


def test_nothing_else_is_overwritten(store, target, capsys):
    put(target, "zarr.json", b"somebody's")
    assert send(store, target) == 2
    assert (
        "already holds something else (zarr.json), which publishing would overwrite; choose another place"
        in capsys.readouterr().err
    )
    assert content(target) == {"zarr.json": b"somebody's"}


def test_a_copy_of_another_volume_is_not_overwritten(store, target, capsys):
    assert send(store, target, dataset="other") == 0
    before = content(target)
    assert send(store, target) == 2
    assert "holds volume large of dataset other, and not large of some; choose another place" in capsys.readouterr().err
    assert content(target) == before


@pytest.mark.parametrize("where", [".", "0", ".."])
def test_a_volume_is_not_copied_onto_itself(store, where, tmp_path, capsys):
    place = {".": str(store), "0": str(store / "0.zarr"), "..": str(tmp_path.with_suffix(".zarr"))}[where]
    if where == "..":
        store = Path(shutil.move(tmp_path, place)) / store.name
    before = files(store)
    assert send(store, {"path": place}) == 2
    assert "which is in the same place; choose another folder" in capsys.readouterr().err
    assert files(store) == before


def test_a_store_that_is_not_finished_is_not_published(store, target, capsys):
    (store / "zarr.json").unlink()
    assert send(store, target) == 2
    assert "large.ome.zarr has no zarr.json; run the workflow" in capsys.readouterr().err
    assert content(target) == {}
