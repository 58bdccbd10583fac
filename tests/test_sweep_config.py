import re

import pytest

from behindthenoise.config import UNSWEPT, NetworkConfig, SweepConfig, TrainingConfig, parse, schema, setting
from behindthenoise.errors import ConfigError
from behindthenoise.stages import specification

GOOD = {"dataset": "some", "synthetic": {}}


def points(**sweep):
    return parse({**GOOD, "sweep": sweep}).sweep_points()


def test_a_grid_has_every_combination_in_order():
    found = points(network={"depth": [5, 10], "width": [2, [2, 4]]}, training={"learning_rate": ["1e-3"]})
    assert {name: (point.network.depth, point.network.width, point.training.learning_rate) for name, point in found.items()} == {
        "depth-5_width-2_learning_rate-0.001": (5, (2,), 0.001),
        "depth-5_width-2-4_learning_rate-0.001": (5, (2, 4), 0.001),
        "depth-10_width-2_learning_rate-0.001": (10, (2,), 0.001),
        "depth-10_width-2-4_learning_rate-0.001": (10, (2, 4), 0.001),
    }
    assert next(iter(found)) == "depth-5_width-2_learning_rate-0.001"


def test_one_key_at_a_time_goes_around_the_settings_as_configured_and_has_these_once():
    found = points(network={"depth": [5, 10], "width": [4, 8]}, mode="one")
    assert list(found) == ["base", "depth-5", "width-4"]
    assert found["base"].network == NetworkConfig()
    assert found["width-4"].network == NetworkConfig(width=4)


def test_what_is_not_swept_is_as_configured():
    config = parse({**GOOD, "network": {"depth": 7}, "training": {"steps": 9}, "sweep": {"network": {"width": [2]}}})
    (point,) = config.sweep_points().values()
    assert (point.network, point.training) == (NetworkConfig(depth=7, width=2), TrainingConfig(steps=9))


def test_nothing_to_sweep_is_no_point():
    assert parse(GOOD).sweep_points() == points(mode="one") == {}


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"network": {"depht": [5]}}, r"sweep: network has no key 'depht' to sweep; allowed here: kind, depth, width, "),
        ({"training": {"validation": [0.1]}}, r"training has no key 'validation' to sweep; allowed here: steps, batch, "),
        ({"netwrok": {}}, r"unknown key 'sweep.netwrok'; allowed here: network, training, repeats, mode"),
        ({"network": {"depth": [5, "x"]}}, r"sweep.network: depth is 'x': input should be a valid integer"),
        ({"network": {"depth": 5}}, r"sweep.network.depth is 5"),
        ({"network": {"depth": []}}, r"sweep.network.depth is \[\]"),
        ({"network": {"depth": [5, 5]}}, r"sweep has the setting depth-5 twice; name each value once"),
        ({"network": {"width": [4, [4]]}}, r"sweep has the setting width-4 twice"),
        ({"network": {"degree_min": [6]}}, r"sweep.network: degree_min 6 is larger than degree_max 5"),
        (
            {"network": {"radius_max": [5, 17]}},
            r"setting radius_max-17 of sweep has a network.radius_max above the config's own 16",
        ),
        ({"repeats": 0}, r"sweep.repeats is 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_sweep_that_makes_no_sense_is_refused(sweep, message):
    with pytest.raises(ConfigError, match=message):
        points(**sweep)


def test_values_that_only_fit_together_are_checked_together():
    assert list(points(network={"degree_min": [6], "degree_max": [8]})) == ["degree_min-6_degree_max-8"]


def test_names_are_safe_in_a_path():
    values = {
        "network": {"dilations": [[1, 2], [1, 4]], "parameters_max": [None, 5000], "skip_decay": ["1e-7"], "input_output": [True]},
        "training": {"turns": ["auto", ["y", "x"]], "precision": ["float32"]},
    }
    names = list(points(**values))
    assert len(set(names)) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) for name in names)
    assert names[0] == ("dilations-1-2_parameters_max-null_skip_decay-1e-07_input_output-true_turns-auto_precision-float32")


def test_no_key_stands_in_both_sections():
    """A name of a point, and a column of the table, hold the key alone."""
    assert not set(NetworkConfig.model_fields) & set(TrainingConfig.model_fields)


def test_the_schema_knows_every_key_that_can_be_swept():
    properties = schema()["$defs"]["SweepConfig"]["properties"]
    assert set(properties["network"]["properties"]) == set(NetworkConfig.model_fields)
    assert set(TrainingConfig.model_fields) - set(properties["training"]["properties"]) == set(UNSWEPT)
    assert properties["network"]["properties"]["depth"]["items"] == {"maximum": 500, "minimum": 1, "type": "integer"}
    assert properties["network"]["additionalProperties"] is False


def test_a_sweep_changes_nothing_of_a_run():
    plain, swept = (parse({**GOOD, "sweep": sweep}) for sweep in ({}, {"network": {"depth": [5]}, "repeats": 1}))
    for stage in ("ingest", "wire", "train", "predict", "gather", "report"):
        assert specification(plain, stage) == specification(swept, stage)
    assert specification(plain, "sweep") != specification(swept, "sweep")


def test_a_setting_is_that_of_the_point():
    (point,) = points(network={"depth": [5]}, training={"steps": [3]}).values()
    assert (setting(point, ("network", "depth")), setting(point, ("training", "steps"))) == (5, 3)
    assert SweepConfig(network={"depth": (5,)}, training={"steps": (3,)}).swept() == [("network", "depth"), ("training", "steps")]
