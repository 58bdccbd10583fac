"""Finished volumes open with xarray as the README says."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from behindthenoise.core.pyramid import shapes_of_levels
from behindthenoise.io import datasets, finished, stores
from behindthenoise.io.geometry import Geometry

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.filterwarnings("error")
def test_xarray_opens_level_zero_and_the_tokens_by_the_call_in_the_readme(tmp_path):
    shape = (300, 280)
    geometry = Geometry(("y", "x"), ("Fe",), "counts", (0.5, 0.5), "micrometer")
    values = np.random.default_rng(0).random((4, *shape)).astype(np.float32)
    mask = xr.DataArray(np.ones(shape, bool), dims=("y", "x"))
    datasets.write_input(tmp_path / "input.zarr", xr.DataArray(values[:1], dims=("channel", "y", "x")), mask, geometry, {})
    levels = shapes_of_levels(shape)
    group = finished.create_ome(
        tmp_path / "a.ome.zarr", geometry, levels, [finished.LabelImage("tokens", ((255, 0, 0, 255),) * 3, ({},) * 3)]
    )
    stores.get_array(group, "0")[:] = values
    stores.get_array(group, "labels/tokens/0")[:] = values[0] > 0.5
    (call,) = re.findall(r"`(xarray\.open_zarr\(.*?\)\[\"0\"\])`", README)
    paths = (str(tmp_path / "a.ome.zarr") + part for part in ("", "/labels/tokens"))
    opened, tokens = (eval(call, {"xarray": xr, "path": path}) for path in paths)
    assert (opened.dims, tokens.dims) == (("c", "y", "x"), ("y", "x"))
    np.testing.assert_array_equal(opened.values, values)
    np.testing.assert_array_equal(tokens.values, values[0] > 0.5)
