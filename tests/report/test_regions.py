import json

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.contour import QuadContourSet

from behindthenoise.report import regions
from behindthenoise.stages import Spec

FACTS = {
    "asked": {"channel": "Fe", "level": 0.1},
    "words": "Fe above 0.25 counts",
    "promise": "Of the area ...",
    "remark": "",
    "marked": 120,
    "voxels": 2000,
    "regions": 12,
    "plane": {
        "axes": ["y", "x"],
        "origin": [0.0, 0.0],
        "spacing": [0.5, 2.0],
        "unit": "micrometer",
        "value_unit": "counts",
        "where": [],
    },
}


def field():
    numbers = np.zeros((40, 50), np.uint32)
    for number in range(1, 13):
        numbers[3 * number : 3 * number + 2, 4 * number - 3 : 4 * number] = number
    return np.random.default_rng(0).random((40, 50)).astype(np.float32), numbers


def test_outlines_lie_around_the_marked_pixels_in_units_of_length():
    median, numbers = field()
    only = np.where(numbers == 5, numbers, 0).astype(np.uint32)
    axes = regions.overlay(FACTS, median, only).axes[0]
    (lines, _) = (part for part in axes.collections if isinstance(part, QuadContourSet) and not isinstance(part, QuadMesh))
    corners = np.concatenate([path.vertices for path in lines.get_paths()])
    rows, columns = np.nonzero(only)
    assert corners.min(axis=0).tolist() == pytest.approx([(columns.min() - 0.5) * 2.0, (rows.min() - 0.5) * 0.5])
    assert corners.max(axis=0).tolist() == pytest.approx([(columns.max() + 0.5) * 2.0, (rows.max() + 0.5) * 0.5])
    assert axes.get_xlim() == (-1.0, 99.0) and axes.get_ylim() == (19.75, -0.25)


def test_the_first_ten_regions_are_numbered_where_they_are():
    axes = regions.overlay(FACTS, *field()).axes[0]
    texts = {text.get_text(): text.xy for text in axes.texts}
    assert list(texts) == [str(number) for number in range(1, 11)]
    assert texts["5"] == (17 * 2.0, 15 * 0.5)


def test_numbers_at_the_edge_of_the_picture_stay_inside_it():
    numbers = np.zeros((40, 50), np.uint32)
    numbers[0, 25] = 1
    numbers[20, 0] = 2
    first, second = regions.overlay(FACTS, field()[0], numbers).axes[0].texts
    assert first.get_verticalalignment() == "top" and second.get_verticalalignment() == "bottom"
    assert second.xy[0] > 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Fe above 0.25 counts: 6 % of the area, 12 regions\nat most 10 % of the marked area false, in expectation"),
        ({"remark": "Nothing ..."}, "Fe above 0.25 counts\nnothing can be marked at a level of 10 %"),
    ],
)
def test_the_heading_says_what_is_promised(changes, expected):
    assert regions.heading({**FACTS, **changes}) == expected


def test_the_widest_intervals_promise_nothing():
    facts = {key: value for key, value in FACTS.items() if key not in ("promise", "remark")}
    assert regions.heading(facts) == "Fe above 0.25 counts\n6 % of the area, 12 regions"


def test_a_field_without_regions_or_data_is_drawn(tmp_path):
    (tmp_path / "some.json").write_text(json.dumps(FACTS))
    np.savez(tmp_path / "some.npz", median=np.full((30, 40), np.nan, np.float32), regions=np.zeros((30, 40), np.uint32))
    regions.run(Spec("", {}), regions=tmp_path / "some.json", view=tmp_path / "some.npz", picture=tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 5000


def test_the_heading_says_which_plane_is_shown_in_short_units():
    shown = {**FACTS, "plane": {**FACTS["plane"], "where": ["z = 12.5 micrometer"]}}
    assert ", z = 12.5 \N{MICRO SIGN}m: " in regions.heading(shown)
