"""What `verify` says of results that it cannot judge; damage is tried in the workflow's tests."""

import hashlib
import json
from pathlib import Path

import pytest

from behindthenoise.errors import StoreError
from behindthenoise.run import verify


def test_digests_of_another_version_are_no_damage(tmp_path):
    (tmp_path / "pairs.zarr").mkdir()
    (tmp_path / "pairs.json").write_text(json.dumps({"digests": {"noisy": 64 * "a"}}))
    with pytest.raises(
        StoreError, match="was written by another version of this project, with other digests; run the workflow again"
    ):
        verify.verify(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(StoreError, match="has no results"):
        verify.verify(tmp_path)


def test_a_record_that_another_version_has_left_under_another_name_is_of_the_past(tmp_path):
    for path in ("pairs.zarr", "calibration"):
        (tmp_path / path).mkdir()
    (tmp_path / "calibration/rules.npz").write_text("new")
    for name, content in (("rules.run.json", "old"), ("rules.npz.run.json", "new")):
        digest = hashlib.sha256(content.encode()).hexdigest()
        (tmp_path / "calibration" / name).write_text(json.dumps({"verb": "survey", "files": {"rules.npz": digest}}))
    assert verify.verify(tmp_path) == (1, [])
    (tmp_path / "calibration/rules.npz").write_text("damaged")
    assert [damage.words.rpartition(" is ")[2] for damage in verify.verify(tmp_path)[1]] == ["not what was written"]


def test_published_copies_are_found_from_within_the_results(tmp_path, monkeypatch):
    for path in ("results/some/pairs.zarr/zarr.json", "copies/field.ome.zarr/zarr.json"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("{}")
    manifest = tmp_path / "results/some/volumes/field/publish.json"
    manifest.parent.mkdir(parents=True)
    sent = {"volume": "field", "path": "copies/field.ome.zarr", "options": {}, "files": {"zarr.json": {"bytes": 2}}}
    manifest.write_text(json.dumps(sent))
    for folder, results in ((tmp_path, "results/some"), (tmp_path / "results", "some"), (tmp_path / "results/some", ".")):
        monkeypatch.chdir(folder)
        assert verify.verify(Path(results)) == (1, [])
    (tmp_path / "copies/field.ome.zarr/zarr.json").write_text("{}\n")
    assert len(verify.verify(Path("."))[1]) == 1
