"""Sweeps on a data set of seconds: what they train, what they leave alone, and how they end."""

import csv
import json
from collections import Counter

import pytest

pytestmark = pytest.mark.workflow


@pytest.fixture
def changed(swept, tmp_path):
    return swept.copy(tmp_path / "run")


def test_a_sweep_ends_in_a_row_for_each_network_and_a_figure(swept):
    with (swept.results / "sweep/table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["point"], row["depth"], row["member"]) for row in rows] == [("depth-3", "3", "0"), ("depth-4", "4", "0")]
    for row in rows:
        folder = swept.results / "sweep" / row["point"] / "000"
        assert {path.name for path in folder.iterdir()} >= {"graph.json", "weights.safetensors", "history.csv", "train.json"}
        manifest = json.loads((folder / "train.json").read_text())
        assert float(row["validation_correlation"]) == manifest["validation_correlation"]
        assert int(row["radius"]) == manifest["radius"]
        assert float(row["seconds"]) > 0
    assert (swept.results / "sweep/sweep.svg").read_text().count("network.depth") == 1
    assert (swept.results / "sweep/sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_line_of_a_sweep_says_where_its_figure_is(swept):
    assert f"The figure of the sweep is {swept.results}/sweep/sweep.svg\n" in swept.said
    assert "The report is" not in swept.said


def test_a_setting_as_configured_trains_the_ensembles_own_member(swept):
    """So all settings share its seeds, and with them the validation units."""
    point, other, member = (
        json.loads((swept.results / folder / "train.json").read_text())
        for folder in ("sweep/depth-4/000", "sweep/depth-3/000", "members/000")
    )
    assert point["weights"] == member["weights"] != other["weights"]
    assert point["seed"] == other["seed"] == member["seed"]


def test_a_finished_sweep_has_nothing_left_to_do(swept):
    assert swept.plan("sweep") == Counter()


def test_one_value_more_trains_that_one_alone(changed):
    changed.configure(sweep={"network": {"depth": [3, 4, 2]}, "repeats": 1})
    assert changed.plan("sweep") == Counter(sweep_wire=1, sweep_train=1, sweep=1)
    changed.configure(sweep={"network": {"depth": [3, 4]}, "repeats": 2})
    assert changed.plan("sweep") == Counter(sweep_wire=2, sweep_train=2, sweep=1)


def test_what_the_swept_networks_do_not_read_trains_nothing(changed):
    changed.configure(sweep={"network": {"depth": [3, 4]}, "repeats": 1}, calibration={"coverage": 0.8}, tokens={"count": 4})
    assert changed.plan("sweep") == Counter()


def test_a_swept_setting_is_checked_as_it_is_swept(changed):
    changed.configure(sweep={"training": {"batch": [100_000]}, "repeats": 1})
    assert changed.run("sweep").returncode != 0
    log = changed.folder / "logs/tiny/sweep/batch-100000/000/train.log"
    assert "a training step on 100000 patches" in log.read_text()


def test_a_sweep_is_no_part_of_a_run(changed):
    assert not {rule for rule in changed.plan() if rule.startswith("sweep")}


def test_a_network_that_cannot_be_drawn_says_why(changed):
    changed.configure(sweep={"network": {"parameters_max": [10]}, "repeats": 1})
    assert changed.run("sweep").returncode != 0
    said = (changed.folder / "logs/tiny/sweep/parameters_max-10/000/wire.log").read_text()
    assert "none of 200 networks drawn has at most network.parameters_max 10 parameters" in said
    assert "Traceback" not in said


def test_a_sweep_of_nothing_says_what_to_write(fresh):
    done = fresh.run("--dry-run", "sweep")
    assert done.returncode != 0
    assert "the config has nothing to sweep; name values in its section sweep" in done.stdout + done.stderr


def test_a_sweep_beyond_the_gap_of_the_split_ends_before_any_job(fresh):
    fresh.configure(sweep={"network": {"radius_max": [3, 6]}})
    done = fresh.run("--dry-run", "sweep")
    assert done.returncode != 0
    assert "setting radius_max-6 of sweep has a network.radius_max above the config's own 5" in done.stdout + done.stderr


def test_a_sweep_may_be_asked_for_on_the_command_line(fresh):
    values = "sweep={network: {depth: [3, 4]}, training: {learning_rate: [1e-3, 1e-2]}, mode: one}"
    text = fresh.finish("--dry-run", "sweep", "--config", values)
    # all as configured, three values that differ from it
    assert text.count("\nrule sweep_train:") == 3 * 3
