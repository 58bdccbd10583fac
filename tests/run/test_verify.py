"""What `verify` says of results that it cannot judge; damage is tried in the workflow's tests."""

import json

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
