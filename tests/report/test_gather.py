from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from behindthenoise.io.geometry import Geometry
from behindthenoise.report.content import Content
from behindthenoise.run import gather
from behindthenoise.run.evaluate import TABLES

GUARANTEES = ("pac", "crc")


def signed(kind: str, sides: int, **grounds: float) -> dict[str, Any]:
    """A certificate of two channels with two classes of groups, as `calibrate` writes it; thresholds tell the places apart."""
    places = [(name, members, side) for name in ("Si", "Fe") for members in ([0], [1, 2]) for side in range(sides)]
    return {
        "statement": "It holds.",
        "assumptions": ["a"],
        "checked": ["c"],
        "warnings": ["w"],
        "merged": ["m"],
        "guarantee": "pac",
        "value_unit": "counts",
        "score": [{"kind": kind, "floor": 0.1, "spread_weight": 0.0}] * 2,
        "basis": {"grouped_by": ["token"]},
        "channels": [
            {
                "channel": name,
                "groups": [f"token {member + 1}" for member in members],
                "side": side,
                "threshold": float(index),
                "units": 7,
                "pixels": 70,
                "rank": 65,
                **grounds,
            }
            for index, (name, members, side) in enumerate(places)
        ],
        "other_guarantees": [
            {
                "guarantee": guarantee,
                "channel": name,
                "side": side,
                "groups": members,
                "threshold": None if guarantee == "crc" and index == 1 else index + 10.0 * GUARANTEES.index(guarantee),
            }
            for guarantee in GUARANTEES
            for index, (name, members, side) in enumerate(places)
        ],
    }


def test_every_table_of_the_evaluation_has_a_place_in_the_content():
    assert set(gather.EVALUATED) == set(TABLES)
    assert len(set(gather.EVALUATED.values())) == len(TABLES)
    assert set(gather.EVALUATED.values()) <= {field.name for field in fields(Content)} - {"tokens"}


@pytest.mark.parametrize(
    ("kind", "sides", "words", "unit"),
    [
        ("cqr", 1, ["both"], "counts"),
        ("asymmetric", 2, ["below", "above"], "counts"),
        ("cqr-m", 1, ["both"], "widths"),
    ],
)
def test_sides_are_told_in_words_and_thresholds_in_the_unit_of_the_score(kind, sides, words, unit):
    found = gather.promised(signed(kind, sides))
    assert [row["side"] for row in found["thresholds"][:sides]] == words
    assert found["threshold_unit"] == unit
    assert [row["groups"] for row in found["thresholds"][::sides]] == ["token 1", "token 2; token 3"] * 2


def test_thresholds_of_other_guarantees_stand_at_the_channel_groups_and_side_they_are_for():
    found = gather.promised(signed("asymmetric", 2))
    place = ("channel", "groups", "side")
    assert [[row[key] for key in place] for row in found["alternatives"]] == [
        [row[key] for key in place] for row in found["thresholds"]
    ]
    assert [row["pac"] for row in found["alternatives"]] == [float(index) for index in range(8)]
    crc = [row["crc"] for row in found["alternatives"]]
    assert crc[0] == 10 and crc[1] != crc[1] and crc[2:] == [float(index) for index in range(12, 18)]


def test_a_certificate_with_rows_missing_is_refused():
    broken = signed("cqr", 1)
    broken["other_guarantees"].pop()
    with pytest.raises(ValueError, match="shorter"):
        gather.promised(broken)


@pytest.mark.parametrize("name", ["effective_samples", "blocks"])
def test_effective_samples_and_blocks_are_told_where_the_guarantee_knows_them(name):
    assert [row[name] for row in gather.promised(signed("cqr", 1, **{name: 12.5}))["thresholds"]] == [12.5] * 4
    assert np.isnan([row[name] for row in gather.promised(signed("cqr", 1))["thresholds"]]).all()


def test_what_must_be_known_before_use_is_passed_on():
    found = gather.promised(signed("cqr", 1))
    assert [found[key] for key in ("sentence", "warnings", "merged", "checked", "grouped_by")] == [
        "It holds.",
        ["w"],
        ["m"],
        ["c"],
        ["token"],
    ]


def test_a_plane_is_told_by_where_it_lies():
    geometry = Geometry(("z", "y", "x"), ("Fe",), "counts", (2.5, 1.0, 1.0), "micrometer", (100.0, 0.0, 0.0))
    assert gather.position_of(geometry, (2,), (4, 7, 9)) == ", z = 105 micrometer (slice 3 of 4)"
    assert gather.position_of(geometry, (), (7, 9)) == ""


def test_voxels_are_compared_with_those_of_the_pairs_and_of_the_file():
    trained, own = (Geometry(("y", "x"), (), "", (step, step), "micrometer") for step in (0.5, 0.3))
    told = {"spacing": {"y": 300.0, "x": 300.0}, "unit": "nanometer", "origin": "fast.tif"}
    assert gather.unlike(trained, trained, []) == gather.unlike(own, own, [told]) == ""
    assert gather.unlike(own, trained, [told]) == "0.3 x 0.3 micrometer, those of the training pairs 0.5 x 0.5 micrometer"
    assert gather.unlike(trained, trained, [told]) == "0.5 x 0.5 micrometer, by fast.tif 300 x 300 nanometer"
    assert gather.unlike(trained, trained, [told, told]) == gather.unlike(trained, trained, [told])
