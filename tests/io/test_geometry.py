"""Where a source lies and how large its voxels are: by the config, else by the file, else unknown."""

from dataclasses import replace

import pytest

from behindthenoise.config import Selection
from behindthenoise.errors import SourceError, StoreError
from behindthenoise.io import units
from behindthenoise.io.geometry import Axes, Geometry, parse_axes, placed, positions, read_geometry, write_geometry

NAMED = Axes(("z", "y", "x"), ("Fe",), "counts").measured()
FLAT = Axes(("y", "x"), ("Fe",), "counts")
FILE = {"spacing": {"z": 2.0, "y": 0.5, "x": 0.5}, "position": {"z": 10.0, "y": 0.0, "x": -4.0}, "unit": "micrometer"}


def test_the_file_tells_size_and_place_of_its_voxels_and_a_crop_begins_later():
    found = placed(NAMED, FILE, Selection(crop={"x": (6, 10)}), {})
    assert (found.spacing, found.unit, found.origin) == ((2.0, 0.5, 0.5), "micrometer", (10.0, 0.0, -1.0))


def test_the_config_has_the_last_word():
    found = placed(FLAT.measured(unit="millimeter"), FILE, Selection(origin={"x": 7}), {"y": 3.0, "x": 3.0})
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
        placed(FLAT.measured(), {"origin": "a file"}, selection, spacing)


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
    fine = FLAT.measured((0.2, 0.2), "micrometer")
    assert not FLAT.measured((200.0, 201.0), "nm").differs(fine)
    assert FLAT.measured((200.0, 210.0), "nm").differs(fine)
    assert FLAT.measured((0.2, 0.2), "pixel").differs(fine)


@pytest.mark.parametrize("told", [{}, {"spacing": {"y": 0.5, "x": 0.5}, "unit": "micrometer", "position": {"x": 5.0}}])
def test_a_size_that_lacks_an_axis_is_none(told):
    found = placed(NAMED, told, Selection(), {})
    assert (found.spacing, found.unit, found.origin) == ((1.0, 1.0, 1.0), "pixel", (0.0, 0.0, 0.0))


def test_a_volume_without_a_scale_of_its_own_has_that_of_the_pairs():
    pairs = Geometry(("y", "x"), ("Fe",), "counts", (0.5, 0.25), "micrometer", (100.0, 200.0))
    found = placed(pairs.measured(pairs.spacing, pairs.unit), {}, Selection(crop={"y": (4, 8)}), {})
    assert (found.spacing, found.unit, found.origin) == ((0.5, 0.25), "micrometer", (2.0, 0.0))


def test_a_geometry_comes_back_from_its_file(tmp_path):
    geometry = Geometry(("z", "y", "x"), ("Fe", "Ni"), "counts", (2.0, 0.1 + 0.2, 1e-9), "micrometer", (-4.0, 1e7, 0.0))
    write_geometry(tmp_path / "geometry.json", geometry)
    assert read_geometry(tmp_path / "geometry.json") == geometry


def test_places_of_planes_keep_the_digits_of_stage_coordinates():
    geometry = Geometry(("z", "y", "x"), (), "", (0.5, 1.0, 1.0), "micrometer", (1234567.0, 0.0, 0.0))
    assert (geometry.place_of([3]), geometry.place_of([])) == (["z = 1234568.5 micrometer"], [])


def test_a_geometry_that_is_not_whole_is_refused(tmp_path):
    (tmp_path / "geometry.json").write_text('{"space": ["y", "x"]}')
    with pytest.raises(StoreError, match=r"geometry\.json holds no geometry; delete it and run the workflow again"):
        read_geometry(tmp_path / "geometry.json")


@pytest.mark.parametrize("unit", ["um", "micron", "micrometre", "micrometres", "micrometers", "micrometer"])
def test_one_unit_has_many_names(unit):
    assert (units.named(unit), units.ratio(unit, "nm"), units.ratio("furlong", unit)) == ("micrometer", pytest.approx(1000), None)


def test_axes_come_back_from_plain_data_and_without_sizes(tmp_path):
    geometry = Geometry(("y", "x"), ("Fe", "Ni"), "counts", (2.0, 3.0), "micrometer")
    assert parse_axes(geometry.as_data(), tmp_path) == Axes(("y", "x"), ("Fe", "Ni"), "counts")
    with pytest.raises(StoreError, match="has no axes; delete its folder and run the workflow again"):
        parse_axes({"space": ["y", "x"]}, tmp_path)


def test_positions_are_those_of_the_middle_of_voxels():
    found = positions(Geometry(("y", "x"), (), "", (2.0, 0.5), "micrometer", (10.0, -1.0)), (2, 3))
    assert {name: values.tolist() for name, values in found.items()} == {"y": [10.0, 12.0], "x": [-1.0, -0.5, 0.0]}
