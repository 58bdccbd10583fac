import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest

from behindthenoise.config import Point, parse
from behindthenoise.report import sweep as sweeps
from behindthenoise.stages import Spec, specification

MEASURES = ("validation_correlation", "validation_loss", "seconds")


def configured(**sweep):
    config = parse({"dataset": "some", "synthetic": {}, "network": {"depth": 20, "width": 4}, "sweep": sweep})
    return config, config.sweep_points(), Point(config.network, config.training)


def rows_of(points, repeats=2):
    return [
        {"point": name, "member": member, **dict.fromkeys(MEASURES, 10 * index + member)}
        for index, name in enumerate(points)
        for member in range(repeats)
    ]


def series_of(where, **sweep):
    config, points, own = configured(**sweep)
    return sweeps.series(rows_of(points), points, config.sweep, own, where)


def panels_of(**sweep):
    config, points, own = configured(**sweep)
    rows = rows_of(points)
    figure = sweeps.curves({where: sweeps.series(rows, points, config.sweep, own, where) for where in config.sweep.swept()})
    return [[axes for axes in figure.axes if axes.get_subplotspec().colspan.start == column] for column in range(sweeps.COLUMNS)]


def test_in_a_grid_the_other_settings_tell_series_apart():
    found = series_of(("network", "depth"), network={"depth": [5, 10], "width": [2, [4, 8]]})
    assert [part.label for part in found] == ["width 2", "width 4-8"]
    assert [[row["point"] for row in part.rows] for part in found] == [
        ["depth-5_width-2"] * 2 + ["depth-10_width-2"] * 2,
        ["depth-5_width-4-8"] * 2 + ["depth-10_width-4-8"] * 2,
    ]
    assert found[0].values == [5, 5, 10, 10]


def test_too_many_settings_to_tell_apart_are_one_series_of_all_networks():
    (found,) = series_of(("network", "depth"), network={"depth": [5, 10], "latent": list(range(2, 10))})
    assert len(found.rows) == 2 * 8 * 2


def test_with_one_key_at_a_time_a_panel_holds_its_own_values_and_the_networks_as_configured():
    (found,) = series_of(("network", "depth"), network={"depth": [5, 10], "width": [2, 8]}, mode="one")
    assert [row["point"] for row in found.rows] == ["base", "base", "depth-5", "depth-5", "depth-10", "depth-10"]
    assert found.values == [20, 20, 5, 5, 10, 10]


def test_a_dot_is_a_network_and_the_line_joins_means():
    (top, *_), *_ = panels_of(network={"depth": [10, 5, 30]})
    dots, means = (np.column_stack(line.get_data()) for line in top.lines[:2])
    np.testing.assert_array_equal(dots, [[10, 0], [10, 1], [5, 10], [5, 11], [30, 20], [30, 21]])
    np.testing.assert_array_equal(means, [[5, 10.5], [10, 0.5], [30, 20.5]])


@pytest.mark.parametrize(
    ("values", "labels", "scale"),
    [
        ({"depth": [10, 5]}, ["5", "10"], "linear"),
        ({"depth": [5, 20]}, ["5", "20"], "log"),
        ({"skip_decay": [1.0, 0, 20]}, ["0.0", "1.0", "20.0"], "linear"),
        ({"width": [8, 2]}, ["2", "8"], "log"),
        ({"width": [8, [2, 4]]}, ["8", "2-4"], "linear"),
        ({"kind": ["unet", "smsnet"]}, ["unet", "smsnet"], "linear"),
        ({"parameters_max": [None, 4000]}, ["null", "4000"], "linear"),
        ({"input_output": [True, False]}, ["true", "false"], "linear"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_numbers_stand_at_their_value_and_all_else_in_its_order(values, labels, scale):
    (*_, bottom), *_ = panels_of(network=values)
    assert [text.get_text() for text in bottom.get_xticklabels()] == labels
    assert bottom.get_xscale() == scale
    assert bottom.get_xlabel() == f"network.{next(iter(values))}"


@pytest.mark.parametrize("mode", ["grid", "one"])
def test_no_dot_lies_outside_its_panel_and_time_begins_at_zero(mode):
    # the last panel has the largest values
    columns = panels_of(network={"depth": [10, 20], "width": [2, 4], "latent": [4, 2, 3, 5, 6]}, mode=mode)
    for column in columns:
        for axes in column:
            low, high = axes.get_ylim()
            dots = np.concatenate([line.get_ydata() for line in axes.lines if len(line.get_ydata())])
            assert low < dots.min() and dots.max() < high
    assert columns[0][-1].get_ylim()[0] < 0 < columns[0][-1].get_ylim()[1]


def test_more_keys_than_fit_side_by_side_go_on_below():
    keys = {"depth": [5], "latent": [4], "head": [8], "skip_decay": [1.0], "degree_decay": [1.0]}
    columns = panels_of(network=keys, mode="one")
    assert [len(column) for column in columns] == [6, 3, 3, 3]


def test_the_verb_writes_a_row_for_each_network_and_the_same_figure_every_time(tmp_path):
    config, points, _ = configured(network={"depth": [5, 10]}, training={"turns": ["auto", ["y", "x"]]}, repeats=2)
    records = []
    for index, name in enumerate(points):
        for member in range(2):
            path = tmp_path / name / f"{member:03d}" / "train.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"member": member, **dict.fromkeys(sweeps.MEASURED, index + member / 10), "other": 1}))
            path.with_name("history.csv").write_text("step,time_s\n1,2.5\n2,7.5\n")
            records.append(path)
    spec = Spec.parse(specification(config, "sweep"), "sweep")
    kept = []
    for turn in range(2):
        table, figure = tmp_path / f"{turn}.csv", tmp_path / f"{turn}.svg"
        sweeps.run(spec, records=records, table=table, figure=figure)
        kept.append([path.read_bytes() for path in (table, figure, figure.with_suffix(".png"))])
    assert kept[0] == kept[1]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["point"], row["depth"], row["turns"], row["member"]) for row in rows[:3]] == [
        ("depth-5_turns-auto", "5", "auto", "0"),
        ("depth-5_turns-auto", "5", "auto", "1"),
        ("depth-5_turns-y-x", "5", "y-x", "0"),
    ]
    assert rows[-1]["validation_correlation"] == "3.1" and rows[-1]["seconds"] == "7.5"
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")
