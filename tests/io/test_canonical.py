"""Where a source lies and how large its voxels are: by the config, else by the file, else unknown."""

from dataclasses import replace

import pytest

from behindthenoise.config import Selection
from behindthenoise.errors import SourceError
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


def test_an_axis_that_the_config_leaves_out_begins_where_the_file_says():
    assert placed(NAMED, FILE, Selection(origin={"x": 5}, crop={"y": (2, 4)}), {}).origin == (10.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("selection", "spacing", "message"),
    [
        (Selection(origin={"z": 1}), {}, "origin of z does not fit a file; its axes are y x"),
        (Selection(), {"z": 1.0, "y": 1.0, "x": 1.0}, "spacing of z does not fit a file; its axes are y x"),
        (Selection(), {"y": 1.0}, "spacing gives y; it must give every axis: y x"),
    ],
)
def test_axes_that_do_not_fit_are_refused(selection, spacing, message):
    with pytest.raises(SourceError, match=message):
        placed(Geometry(("y", "x"), (), "pixel", (), ""), {"origin": "a file"}, selection, spacing)


def test_a_position_in_another_unit_is_converted():
    found = placed(NAMED, FILE, Selection(), {"z": 0.002, "y": 0.001, "x": 0.001})
    assert (found.unit, found.origin) == ("pixel", (0.0, 0.0, 0.0))
    found = placed(replace(NAMED, unit="mm"), FILE, Selection(), {"z": 0.002, "y": 0.001, "x": 0.001})
    assert (found.unit, found.origin) == ("millimeter", pytest.approx((0.01, 0.0, -0.004)))


def test_what_a_volume_does_not_tell_is_as_in_the_pairs():
    told = {"spacing": {"y": 700.0, "x": 700.0}, "unit": "nanometer"}
    found = placed(replace(NAMED, spacing=(2.5, 0.5, 0.5), unit="micrometer"), told, Selection(), {})
    assert (found.spacing, found.unit) == (pytest.approx((2500.0, 700.0, 700.0)), "nanometer")


def test_voxels_differ_by_size_and_not_by_the_unit_they_are_told_in():
    fine = Geometry(("y", "x"), (0.2, 0.2), "micrometer", (), "")
    assert not Geometry(("y", "x"), (200.0, 201.0), "nm", (), "").differs(fine)
    assert Geometry(("y", "x"), (200.0, 210.0), "nm", (), "").differs(fine)
    assert Geometry(("y", "x"), (0.2, 0.2), "pixel", (), "").differs(fine)


@pytest.mark.parametrize("told", [{}, {"spacing": {"y": 0.5, "x": 0.5}, "unit": "micrometer", "position": {"x": 5.0}}])
def test_a_size_that_lacks_an_axis_is_none(told):
    found = placed(NAMED, told, Selection(), {})
    assert (found.spacing, found.unit, found.origin) == ((1.0, 1.0, 1.0), "pixel", (0.0, 0.0, 0.0))


def test_a_volume_without_a_scale_of_its_own_has_that_of_the_pairs():
    pairs = Geometry(("y", "x"), (0.5, 0.25), "micrometer", ("Fe",), "counts", (100.0, 200.0))
    found = placed(Geometry(pairs.space, pairs.spacing, pairs.unit, pairs.channels, ""), {}, Selection(crop={"y": (4, 8)}), {})
    assert (found.spacing, found.unit, found.origin) == ((0.5, 0.25), "micrometer", (2.0, 0.0))
