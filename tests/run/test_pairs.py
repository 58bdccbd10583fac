"""The store of the pairs, where what lies there is not what this version writes."""

import numpy as np
import pytest
import zarr

from behindthenoise.core.scale import Scale
from behindthenoise.core.split import Split
from behindthenoise.errors import StoreError
from behindthenoise.io.geometry import Axes
from behindthenoise.run import ingest
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.pairs import Pairs


@pytest.fixture
def path(tmp_path):
    """Pairs of one image of 8 x 8 pixels."""
    split = Split(np.ones((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.int32))
    scale, axes = Scale(*[(1.0,)] * 6), Axes(("y", "x"), ("Fe",), "counts")
    told = {"clean": {"spacing": {"y": 0.5, "x": 0.5}, "unit": "micrometer"}}
    clean = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    pairs = Pairs(clean[:, None] + 1, clean, np.ones((1, 8, 8), bool), split, scale, axes, 3, told)
    ingest.write_pairs(tmp_path / "pairs.zarr", pairs, {})
    return tmp_path / "pairs.zarr"


def test_pairs_are_read_as_they_were_written(path):
    found = store_of_pairs.read(path)
    assert (found.axes.channels, found.gap, found.told["clean"]["unit"]) == (("Fe",), 3, "micrometer")
    np.testing.assert_array_equal(found.noisy[:, 0], found.clean + 1)


@pytest.mark.parametrize("reader", [store_of_pairs.read, store_of_pairs.read_axes])
def test_pairs_without_axes_are_refused(path, reader):
    group = zarr.open_group(path, mode="r+")
    group.attrs.put({key: value for key, value in group.attrs.asdict().items() if key != "axes"})
    with pytest.raises(StoreError, match=r"pairs\.zarr has no axes; delete its folder and run the workflow again"):
        reader(path)
