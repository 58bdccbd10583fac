import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from behindthenoise import __version__, config
from behindthenoise.cli import main
from behindthenoise.config import parse
from behindthenoise.stages import STAGES, module_of, specification

VERBS = ["schema", "validate", *STAGES]
GOOD = {"dataset": "some", "synthetic": {}, "network": {"depth": 3}}


def options_of(stage):
    """A value for each option that the function of a stage takes."""
    run = importlib.import_module(f"behindthenoise.{module_of(stage)}").run
    values = {int: "0", float: "1.5", str: "text", Path: "file", list[Path]: "file"}
    taken = {name: values[parameter.annotation] for name, parameter in inspect.signature(run).parameters.items() if name != "spec"}
    return [text for name, value in taken.items() for text in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert f"usage: btn {verb}" in shown
    if verb in STAGES:
        assert STAGES[verb].help in shown
        assert all(f"--{option}" in shown for option in (*STAGES[verb].paths, *STAGES[verb].lists, "spec"))


def test_the_list_of_verbs_is_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert all(stage.help in shown for stage in STAGES.values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_exactly_the_options_of_its_function(stage, capsys):
    # argparse would exit for an option too many or too few; what is refused here is what comes after the options
    assert main([stage, *options_of(stage), "--spec", "nonsense"]) == 2
    assert f"--spec of '{stage}' is not a specification" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_no_option_may_be_left_out(stage, capsys):
    options = [*options_of(stage), "--spec", "nonsense"]
    for index in range(0, len(options), 2):
        with pytest.raises(SystemExit) as stopped:
            main([stage, *options[:index], *options[index + 2 :]])
        assert stopped.value.code == 2
        assert f"the following arguments are required: {options[index]}" in capsys.readouterr().err


def test_an_error_of_the_user_is_one_line_without_a_traceback(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**GOOD, "netwrok": {}}))
    assert main(["validate", str(tmp_path / "bad.yaml")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("btn validate: error: ")
    assert "unknown key 'netwrok'; allowed here: " in shown.err
    assert shown.err.count("\n") == 1


def test_an_error_inside_a_stage_is_told_in_the_same_way(tmp_path, capsys):
    spec = specification(parse(GOOD), "average")
    assert (
        main(["average", "--members", "absent.zarr", "--store", "a", "--manifest", str(tmp_path / "b.json"), "--spec", spec]) == 2
    )
    assert "btn average: error: store absent.zarr cannot be opened" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "neither a manifest nor a record"


def test_a_stage_does_its_work_and_records_it(tmp_path, capsys):
    spec = specification(parse(GOOD), "wire")
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps({"shape": [64, 64], "channels": ["Si", "Fe"]}))
    graphs = []
    for member in ("0", "0", "1"):
        path = tmp_path / f"{len(graphs)}.json"
        assert main(["wire", "--pairs", str(pairs), "--graph", str(path), "--member", member, "--spec", spec]) == 0
        graphs.append(path.read_text())
    assert graphs[0] == graphs[1] != graphs[2]
    assert (json.loads(graphs[0])["ndim"], json.loads(graphs[0])["in_channels"]) == (2, 2)
    assert "wire: done in" in capsys.readouterr().err


def test_a_valid_configuration_is_printed_with_its_defaults(config_file, capsys):
    assert main(["validate", str(config_file)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == parse(GOOD).model_dump(mode="json")
    assert printed["training"]["steps"] == 2000


def test_the_schema_is_printed(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(config.schema()))


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"btn {__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["bake"], ["validate"]], ids=["nothing", "unknown verb", "no file"])
def test_a_command_that_makes_no_sense_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: btn" in capsys.readouterr().err


def test_the_program_exits_with_the_status(tmp_path):
    command = [sys.executable, "-m", "behindthenoise", "validate", str(tmp_path / "absent.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("btn validate: error: config file ")
    assert "Traceback" not in done.stderr
