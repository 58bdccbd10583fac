"""Regions in the real workflow: other limits run no network, and a channel that is not there ends before any training."""

import json
from collections import Counter

import pytest
import xarray as xr

from behindthenoise.run.verify import verify

pytestmark = pytest.mark.workflow

REGIONS = {
    "bright": {"channel": "channel 0", "above": 1.5, "level": 0.4, "smallest": 1},
    "unsure": {"channel": "channel 0", "widest": 0.05, "smallest": 1},
}
REPORT = {"gather": 1, "report": 1}


def test_other_limits_run_no_network_and_only_their_own_list(changed):
    changed.configure(regions=REGIONS)
    assert changed.plan() == Counter({"regions": 4, "overlay": 4, **REPORT})
    changed.finish()
    assert changed.plan() == Counter()
    bright = {**REGIONS["bright"], "above": 1.7}
    changed.configure(regions={**REGIONS, "bright": bright})
    assert changed.plan() == Counter({"regions": 2, "overlay": 2, **REPORT})

    for volume in ("field", "wide"):
        folder = changed.results / "volumes" / volume / "regions"
        for name in REGIONS:
            assert {path.suffix for path in folder.glob(f"{name}.*")} == {".json", ".csv", ".geojson", ".npz", ".png", ".zarr"}
            facts = json.loads((folder / f"{name}.json").read_text())
            maps = xr.open_zarr(folder / f"{name}.zarr", consolidated=False)
            assert int((maps["region"] > 0).sum()) == facts["marked"]
            assert maps["x"].attrs["units"] == "pixel"
        # the slow scan has no gaps, so every voxel has a level
        assert bool(xr.open_zarr(folder / "bright.zarr", consolidated=False)["level"].notnull().all())

    assert not verify(changed.results)[1]
    next((changed.results / "volumes/wide/regions/unsure.zarr/region").rglob("c/*/*")).write_bytes(b"")
    assert [damage.output.name for damage in verify(changed.results)[1]] == ["unsure.json"]


def test_a_channel_that_is_not_there_ends_before_any_training(fresh):
    fresh.configure(regions={"iron": {"channel": "Fe", "above": 0.25}})
    done = fresh.run()
    logs = "".join(path.read_text() for path in fresh.folder.glob("logs/**/*.log"))
    assert done.returncode != 0 and not list(fresh.results.glob("members/*/weights.safetensors"))
    assert "regions.iron.channel is 'Fe'; the pairs have 'channel 0'" in logs
