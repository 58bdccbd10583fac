import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import yaml

from behindthenoise import __version__, config
from behindthenoise.cli import main
from behindthenoise.config import parse
from behindthenoise.stages import STAGES, module_of, specification

VERBS = ["schema", "validate", *STAGES]
# The calibration by itself, on other people's arrays; `calibrate` is a stage where it has a specification.
ALONE = {
    "calibrate": ("lower", "median", "upper", "truth", "spread", "mask", "tokens", "axes", "coverage", "guarantee", "out"),
    "apply": ("calibration", "lower", "median", "upper", "spread", "tokens", "out"),
    "levels": ("calibration", "out"),
}
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
        main([verb, "--help", *(["--spec"] if verb in STAGES else [])])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert f"usage: btn {verb}" in shown
    if verb in STAGES:
        assert STAGES[verb].help in shown
        assert all(f"--{option}" in shown for option in (*STAGES[verb].paths, *STAGES[verb].lists, "spec"))


@pytest.mark.parametrize("verb", ALONE)
def test_every_verb_of_the_calibration_by_itself_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert f"usage: btn {verb}" in shown
    assert all(f"--{option} " in shown for option in ALONE[verb])
    assert "--pairs" not in shown


def test_the_list_of_verbs_is_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert all(stage.help in shown for name, stage in STAGES.items() if name != "plan")
    assert all(f" {verb} " in shown for verb in (*ALONE, "plan", "status", "verify"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_exactly_the_options_of_its_function(stage, capsys):
    # argparse would exit for an option too many or too few; what is refused here is what comes after the options
    assert main([stage, *options_of(stage), "--spec", "nonsense"]) == 2
    assert f"--spec of '{stage}' is not a specification" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_no_option_may_be_left_out(stage, capsys):
    options = [*options_of(stage), "--spec", "nonsense"]
    # without a specification, `calibrate` and `plan` are other commands
    for index in range(0, len(options) - 2 * (stage in (*ALONE, "plan")), 2):
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


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("2,1", 2), ("", None), ("all", None), ("0", None)])
def test_dask_takes_as_many_threads_as_a_job_has(monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setenv("DASK_NUM_WORKERS", "")  # so that it is as it was afterwards
    monkeypatch.delenv("DASK_NUM_WORKERS")
    found = []
    monkeypatch.setattr("behindthenoise.run.plan.run", lambda *_, **__: found.append(dask.config.collect_env().get("num_workers")))
    places = ["--volume", "input.zarr", "--store", "quantiles.zarr", "--graphs", "graph.json"]
    assert main(["plan", *places, "--spec", specification(parse(GOOD), "plan")]) == 0
    assert found == [threads]


SAYS_THREADS = """
import sys
from behindthenoise import cli
real = cli.importlib.import_module
def importing(name, *package):
    module = real(name, *package)
    if name == "behindthenoise.run.average":
        module.run = lambda *_, **__: print(sys.modules["dask"].config.get("num_workers", None))
    return module
cli.importlib.import_module = importing
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_verb_whose_module_imports_dask_has_its_threads(tmp_path):
    words = ["average", "--store", "a.zarr", "--manifest", "a.json", "--members", "b.zarr", "--spec"]
    words.append(specification(parse(GOOD), "average"))
    (tmp_path / "a.json").write_text("{}")
    environment = {key: value for key, value in os.environ.items() if key != "DASK_NUM_WORKERS"} | {"OMP_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", SAYS_THREADS, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3\n"


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """Options that name arrays of ten images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    median, error = random.normal(size=(2, 10, 16, 16)).astype(np.float32)
    options = {}
    for name, values in {"lower": median - 1, "median": median, "upper": median + 1, "truth": median + error}.items():
        np.save(f"{name}.npy", values)
        options[f"--{name}"] = f"{name}.npy"
    return {**options, "--axes": "image y x", "--out": "calibration"}


def command(verb, options):
    return [verb, *(text for pair in options.items() for text in pair)]


def test_arrays_are_calibrated_without_a_workflow(arrays, capsys):
    assert main([*command("calibrate", arrays), "--support", "-9", "null", "--coverage", "0.8", "--guarantee", "crc"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("At least 80 % of the pixels of a channel are expected inside their interval in new images")
    assert shown.endswith("written: calibration\n")
    predictions = {name: arrays[name] for name in ("--lower", "--median", "--upper")}
    assert main(command("apply", {"--calibration": "calibration", **predictions, "--out": "intervals"})) == 0
    lower, upper, truth = np.load("intervals/lower.npy"), np.load("intervals/upper.npy"), np.load("truth.npy")
    assert 0.8 <= ((lower <= truth) & (truth <= upper)).mean() < 0.9
    assert main(["levels", "--calibration", "calibration"]) == 0
    assert main(["levels", "--calibration", "calibration", "--out", "other.csv"]) == 0
    assert Path("calibration/levels.csv").read_text() == Path("other.csv").read_text()
    assert capsys.readouterr().out == "written: intervals\nwritten: calibration/levels.csv\nwritten: other.csv\n"


def test_warnings_of_a_calibration_are_shown(arrays, capsys):
    assert main([*command("calibrate", arrays), "--guarantee", "pooled"]) == 0
    assert "warning: Guarantee 'pooled' counts every pixel as independent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--truth": "absent.npy"}, "absent.npy does not exist"),
        ({"--coverage": "1.5"}, "--coverage is 1.5: must be less than 1"),
        ({"--coverage": "much"}, "--coverage is 'much': must be a valid number"),
        ({"--score": "best"}, "--score is 'best': must be 'auto', 'cqr'"),
        ({"--axes": "a b c"}, "--axes is 'a b c'"),
        ({"--coverage": "0.95", "--guarantee": "crc"}, "it takes at least 19"),
        ({"--score": "cqr-r", "--floor": "0"}, "floor 0 of score 'cqr-r'"),
        ({"--block": "1"}, "--block is 1: must be greater than or equal to 4, or must be 'auto'"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_in_one_line(arrays, changes, message, capsys):
    assert main(command("calibrate", {**arrays, **changes})) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("btn calibrate: error: ") and message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("calibration").exists()


@pytest.mark.parametrize("verb", ["apply", "levels"])
def test_a_calibration_that_is_not_there_is_refused(arrays, verb, capsys):
    needed = {"apply": {name: arrays[name] for name in ("--lower", "--median", "--upper", "--out")}, "levels": {}}[verb]
    assert main(command(verb, {"--calibration": "absent", **needed})) == 2
    assert f"btn {verb}: error: --calibration absent holds no certificate.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "out", "message"),
    [
        ("calibrate", "file/below", "folder file/below cannot be written (Not a directory); name another --out"),
        ("apply", "file/below", "folder file/below cannot be written (Not a directory); name another --out"),
        ("apply", "file", "--out file is a file; name a folder, which may be new"),
        ("levels", "file/levels.csv", "folder file cannot be written (File exists); name another --out"),
        ("levels", "calibration", "--out calibration is a folder, or a file that cannot be written; name another file"),
    ],
)
def test_where_nothing_can_be_written_is_said_in_one_line(arrays, verb, out, message, capsys):
    assert main(command("calibrate", arrays)) == 0
    Path("file").touch()
    predictions = {name: arrays[name] for name in ("--lower", "--median", "--upper")}
    options = {
        "calibrate": arrays,
        "apply": {"--calibration": "calibration", **predictions},
        "levels": {"--calibration": "calibration"},
    }
    capsys.readouterr()
    assert main(command(verb, {**options[verb], "--out": out})) == 2
    assert capsys.readouterr().err == f"btn {verb}: error: {message}\n"


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


def test_who_interrupts_a_verb_gets_one_line_and_the_status_of_shells(tmp_path):
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    # a shell may have started the tests with SIGINT ignored, which children inherit
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from behindthenoise.cli import main; sys.exit(main(['validate', {str(pipe)!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pipe.open("w"):  # waits until the verb reads
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.decode(), err.decode()) == (130, "", "btn validate: interrupted\n")
