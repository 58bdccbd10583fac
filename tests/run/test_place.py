"""Who is believed about the size and place of a volume's voxels."""

import pytest
from pydantic import ValidationError

from behindthenoise.config import PairsConfig, VolumeConfig
from behindthenoise.io.geometry import Axes
from behindthenoise.run import place

AXES = Axes(("y", "x"), ("value",), "counts")
SOURCES = {"noisy": {"path": "noisy.npy", "axes": "scan y x"}, "clean": {"path": "clean.npy", "axes": "y x"}}
FILE = {"spacing": {"y": 7.0, "x": 7.0}, "unit": "nanometer", "position": {"y": 70.0, "x": 0.0}}
HALVES = {"y": 0.5, "x": 0.5}


def of_volume(*, pairs=None, pairs_told=None, told=None, **volume):
    like = PairsConfig.model_validate({**SOURCES, "unit": "micrometer", **(pairs or {})})
    trained = place.of_pairs(like, AXES, pairs_told or {})
    config = VolumeConfig.model_validate({"noisy": {"path": "map.npy", "axes": "y x"}, **volume})
    return place.of_volume(config, like, trained, told or {})


@pytest.mark.parametrize(
    ("given", "spacing", "unit"),
    [
        ({"spacing": {"y": 2, "x": 3}, "pairs": {"spacing": HALVES}, "told": FILE}, (2, 3), "micrometer"),
        ({"pairs": {"spacing": HALVES}, "told": FILE}, (0.5, 0.5), "micrometer"),
        ({"told": FILE, "pairs_told": {"clean": {"spacing": HALVES, "unit": "micrometer"}}}, (7, 7), "nanometer"),
        ({"pairs_told": {"clean": {"spacing": HALVES, "unit": "micrometer"}}}, (0.5, 0.5), "micrometer"),
        ({}, (1, 1), "micrometer"),
    ],
    ids=["its own in the config", "that of pairs in the config", "its file", "the files of pairs", "nobody"],
)
def test_sizes_are_those_of_the_volume_then_of_the_pairs_and_the_config_is_believed_before_a_file(given, spacing, unit):
    found = of_volume(**given)
    assert (found.spacing, found.unit) == (spacing, unit)


def test_a_unit_is_a_word():
    assert PairsConfig.model_validate({**SOURCES, "unit": " um "}).unit == "um"
    for empty in ("", " "):
        with pytest.raises(ValidationError, match="unit"):
            PairsConfig.model_validate({**SOURCES, "unit": empty})


def test_a_volume_does_not_lie_where_the_pairs_do():
    elsewhere = {"clean": {"spacing": HALVES, "unit": "micrometer", "position": {"y": 9, "x": 9}}}
    assert of_volume(pairs={"spacing": HALVES, "origin": {"y": 30, "x": 40}}).origin == (0, 0)
    assert of_volume(pairs_told=elsewhere).origin == (0, 0)


def test_the_place_that_a_file_tells_is_brought_to_the_unit_of_the_config():
    assert of_volume(pairs={"spacing": HALVES}, told=FILE).origin == pytest.approx((0.07, 0))


def test_a_place_in_a_unit_that_is_none_of_the_config_is_not_believed_and_that_is_said(capsys):
    found = of_volume(pairs={"spacing": HALVES, "unit": "furlong"}, told=FILE)
    assert found.origin == (0, 0)
    place.tell_disbelief(found, {**FILE, "origin": "map.tif"}, "volume map")
    said = capsys.readouterr().err
    assert "voxels of volume map are taken to be 0.5 x 0.5 furlong, those of map.tif are 7 x 7 nanometer" in said
    assert "the place that map.tif tells is in nanometer, which is not so many furlong: not believed" in said


def test_voxels_of_generated_pairs_measure_one():
    trained = place.of_pairs(None, AXES, {})
    assert (trained.spacing, trained.unit, trained.origin) == ((1, 1), "pixel", (0, 0))
