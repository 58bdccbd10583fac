"""Where a source lies and how large its voxels are: by the config, else by the file, else unknown."""

import pytest

from behindthenoise.config import Selection
from behindthenoise.io.canonical import placed
from behindthenoise.io.geometry import Geometry

NAMED = Geometry(("z", "y", "x"), (), "pixel", ("Fe",), "counts")
FILE = {"spacing": {"z": 2.0, "y": 0.5, "x": 0.5}, "position": {"z": 10.0, "y": 0.0, "x": -4.0}, "unit": "micrometer"}


def test_the_file_tells_size_and_place_of_its_voxels_and_a_crop_begins_later():
    found = placed(NAMED, FILE, Selection(crop={"x": (6, 10)}), {})
    assert (found.spacing, found.unit, found.origin) == ((2.0, 0.5, 0.5), "micrometer", (10.0, 0.0, -1.0))


def test_the_config_has_the_last_word():
    found = placed(Geometry(("y", "x"), (), "millimeter", (), ""), FILE, Selection(origin={"x": 7}), {"y": 3.0, "x": 3.0})
    assert (found.spacing, found.unit, found.origin) == ((3.0, 3.0), "millimeter", (0.0, 7.0))


@pytest.mark.parametrize("told", [{}, {"spacing": {"y": 0.5, "x": 0.5}, "unit": "micrometer", "position": {"x": 5.0}}])
def test_a_size_that_lacks_an_axis_is_none(told):
    found = placed(NAMED, told, Selection(), {})
    assert (found.spacing, found.unit, found.origin) == ((1.0, 1.0, 1.0), "pixel", (0.0, 0.0, 0.0))


def test_a_volume_without_a_scale_of_its_own_has_that_of_the_pairs():
    pairs = Geometry(("y", "x"), (0.5, 0.25), "micrometer", ("Fe",), "counts", (100.0, 200.0))
    found = placed(Geometry(pairs.space, pairs.spacing, pairs.unit, pairs.channels, ""), {}, Selection(crop={"y": (4, 8)}), {})
    assert (found.spacing, found.unit, found.origin) == ((0.5, 0.25), "micrometer", (2.0, 0.0))
