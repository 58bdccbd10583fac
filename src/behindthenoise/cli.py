"""The command `btn`: one verb for each step of the workflow, and the calibration by itself for other people's arrays."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from behindthenoise import __version__, config
from behindthenoise.errors import BehindTheNoiseError
from behindthenoise.stages import STAGES, Spec, Stage, module_of

# Arrays of somebody else's network, and what each one is.
PREDICTED = {
    "lower": "predicted lower quantile: an NPY file or the folder of a Zarr array",
    "median": "predicted median",
    "upper": "predicted upper quantile",
}
KNOWN = {"truth": "what was predicted, in the same units"}
OPTIONAL = {
    "spread": "standard deviation of an ensemble's medians, for the score ensemble",
    "tokens": "group of every voxel, from 1, known without the truth: each has a threshold of its own",
}
MASK = {"mask": "0 where a voxel does not calibrate; all others must be numbers"}
# Keys of the configuration's section `calibration` that are options here.
SETTINGS = ("coverage", "score", "guarantee", "failure", "shortfall", "unit", "block", "support")
CALIBRATE = (
    "Calibrate the intervals of any network, by arrays of its predictions and of the truth (docs/other_networks.md). With --spec "
    "this is the workflow's step, which takes other options."
)
PLAN = "print what the volumes of a configuration will cost: tiles, memory, storage, time"
APPLY = "calibrated intervals of new predictions, by thresholds of `btn calibrate`"
LEVELS = "thresholds of every guarantee at every level, from the counted scores of `btn calibrate`"
INTERRUPTED = 130  # what shells give to a program that SIGINT has ended
FLOOR = "cqr-r, cqr-m, ensemble: least width to divide by; without it, a thousandth of the median predicted width"
WEIGHT = "ensemble: weight of the spread beside the predicted width; choose it on training data. Default: 1."
AXES = "'y x', 'z y x', 'image y x' or 'image z y x'; may be left out where the number of axes says it"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one verb.

    Returns
    -------
    int
        0 for success, 1 where `verify` finds damage, 2 where the user can mend what went wrong, 130 where the user has interrupted
        it; the message is on standard error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = vars(_parser(in_workflow=any(word.split("=")[0] == "--spec" for word in given)).parse_args(given))
    verb = options.pop("verb")
    try:
        return _run(verb, options)
    except BrokenPipeError:  # whoever read it has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (BehindTheNoiseError, OSError) as problem:  # OSError: a full disk, a folder that cannot be written
        print(f"btn {verb}: error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"btn {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(verb: str, options: dict[str, Any]) -> int:
    """Do what a verb says; 0, or 1 where `verify` finds damage."""
    if verb == "schema":
        print(json.dumps(config.schema(), indent=2))
    elif verb == "validate":
        print(config.load(options["config"]).model_dump_json(indent=2))
    elif verb == "draw":
        _draw(**options)
    elif "spec" in options:
        _run_stage(verb, options)
    elif verb == "plan":
        print(importlib.import_module("behindthenoise.run.forecast").plan(options["config"]))
    elif verb == "status":
        print(importlib.import_module("behindthenoise.run.status").status(options["config"]))
    elif verb == "verify":
        return _verify(options["results"])
    else:
        _run_alone(verb, options)
    return 0


def _draw(graph: Path, picture: Path | None) -> None:
    """Picture of an architecture beside its file, or where it is wanted, and its numbers on standard output."""
    wiring = importlib.import_module("behindthenoise.report.wiring")
    architecture, target = wiring.read(graph), picture or graph.with_suffix(".svg")
    wiring.write(architecture, target)
    for name, value in {**wiring.facts(architecture), "picture": target}.items():
        print(f"{name}: {value}")


def _verify(results: Path) -> int:
    """Whether everything in a folder of results is as it was written; 1 if it is not."""
    module = importlib.import_module("behindthenoise.run.verify")
    count, damages = module.verify(results)
    for damage in damages:
        print(damage.words)
    print(module.advice(damages) if damages else f"{results}: {count} arrays and files, all as they were written")
    return 1 if damages else 0


def _run_stage(verb: str, options: dict[str, str | Path | list[Path]]) -> None:
    """Import the verb's module, which may be heavy, and run it under the record of its time and memory."""
    spec = Spec.parse(str(options.pop("spec")), verb)
    _tell_threads()  # before the verb's module, which may import dask, that reads it once
    module = importlib.import_module(f"behindthenoise.{module_of(verb)}")
    record, io = (importlib.import_module(f"behindthenoise.io.{name}") for name in ("record", "exclusive"))
    makes = STAGES[verb].makes
    alone = io.exclusive(options[makes[0]]) if makes else nullcontext()
    with alone, record.recorded(verb, options, makes) as further:
        further.extend(module.run(spec, **options) or [])


def _tell_threads() -> None:
    """
    Tell dask, and our writers, how many threads they may use, by the variable in which Snakemake and schedulers say it to a job.

    Without it, they take every one of the machine, and memory for each.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdecimal() and int(given):
        os.environ.setdefault("DASK_NUM_WORKERS", given)


def _run_alone(verb: str, options: dict[str, Any]) -> None:
    """Calibration of other people's arrays; what it promises, or where its results are, on standard output."""
    module = importlib.import_module("behindthenoise.run.other_networks")
    out = options.pop("out")
    paths = {name: options.pop(name) for name in (*PREDICTED, *KNOWN, *OPTIONAL, *MASK) if name in options}
    if verb == "levels":
        out = out or options["calibration"] / "levels.csv"
        module.levels(options["calibration"], out)
    elif verb == "apply":
        module.apply(options["calibration"], paths, out)
    else:
        settings = {name: value for name in SETTINGS if (value := options.pop(name)) is not None}
        certificate = module.calibrate(paths, module.Options(module.settings(settings), **options), out)
        print(certificate["statement"])
        for warning in certificate["warnings"]:
            print(f"warning: {warning}")
    print(f"written: {out}")


def _parser(*, in_workflow: bool) -> argparse.ArgumentParser:
    """Parser of all verbs; `calibrate` and `plan` are steps of the workflow only where they get a specification."""
    parser = argparse.ArgumentParser(prog="btn", description=__doc__)
    parser.add_argument("--version", action="version", version=f"btn {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("schema", help="print the JSON schema of the configuration file")
    validate = verbs.add_parser("validate", help="check a configuration file and print it with all defaults")
    validate.add_argument("config", type=Path)
    draw = verbs.add_parser("draw", help="print the size of a network and draw a picture of its wiring")
    draw.add_argument("graph", type=Path, help="a member's graph.json")
    draw.add_argument("--picture", type=Path, metavar="PATH", help="svg, png or pdf; without it, an SVG beside the graph")
    for name, stage in STAGES.items():
        if name == "calibrate" and not in_workflow:
            _add_calibrate(verbs.add_parser(name, help=stage.help, description=CALIBRATE))
        elif name == "plan" and not in_workflow:
            verbs.add_parser(name, help=PLAN, description=PLAN).add_argument("config", type=Path)
        else:
            _add_stage(verbs.add_parser(name, help=stage.help, description=stage.help), name, stage)
    status = verbs.add_parser("status", help="say how far a run is: jobs, disk, seconds, memory, what is left")
    status.add_argument("config", type=Path, help="its configuration, in the folder where Snakemake runs")
    verify = verbs.add_parser("verify", help="say what is lost or damaged in a folder of results")
    verify.add_argument("results", type=Path, help="e.g. results/blobs")
    _add_apply(verbs.add_parser("apply", help=APPLY, description=APPLY))
    _add_levels(verbs.add_parser("levels", help=LEVELS, description=LEVELS))
    return parser


def _add_arrays(parser: argparse.ArgumentParser, arrays: dict[str, str], *, required: bool) -> None:
    for name, meaning in arrays.items():
        parser.add_argument(f"--{name}", type=Path, required=required, metavar="PATH", help=meaning)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_arrays(parser, {**PREDICTED, **KNOWN}, required=True)
    _add_arrays(parser, {**OPTIONAL, **MASK}, required=False)
    parser.add_argument("--axes", metavar="NAMES", help=AXES)
    for name in SETTINGS:
        field = config.CalibrationConfig.model_fields[name]
        about = f"{field.description} Default: {'null null' if name == 'support' else field.default}.".replace("%", "%%")
        if name == "support":
            parser.add_argument("--support", nargs=2, type=_end, metavar=("LOW", "HIGH"), help=about)
        else:
            parser.add_argument(f"--{name}", type=_scalar, metavar="VALUE", help=about)
    parser.add_argument("--floor", type=float, metavar="WIDTH", help=FLOOR)
    parser.add_argument("--spread-weight", type=float, default=1.0, metavar="VALUE", help=WEIGHT)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for thresholds, scores and certificate")


def _add_apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibration", type=Path, required=True, metavar="FOLDER", help="what `btn calibrate` has written")
    _add_arrays(parser, PREDICTED, required=True)
    _add_arrays(parser, OPTIONAL, required=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the arrays lower and upper")


def _add_levels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibration", type=Path, required=True, metavar="FOLDER", help="what `btn calibrate` has written")
    parser.add_argument("--out", type=Path, metavar="PATH", help="a CSV file; without it, levels.csv in that folder")


def _scalar(text: str) -> float | int | str:
    """A number where it is one; the configuration says which settings are."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _end(text: str) -> float | int | str | None:
    """An end of the support; `null` where there is none."""
    return None if text == "null" else _scalar(text)


def _add_stage(parser: argparse.ArgumentParser, name: str, stage: Stage) -> None:
    for option in stage.paths:
        parser.add_argument(f"--{option}", type=Path, required=True, metavar="PATH")
    for option in stage.lists:
        parser.add_argument(f"--{option}", type=Path, required=True, nargs="*", metavar="PATH")
    if name in ("score", "infer"):
        parser.add_argument("--share", required=True, metavar="I-of-N", help="which share of the work, e.g. 1-of-4")
    if name == "train":
        parser.add_argument("--memory-gb", required=True, type=float, metavar="GB", help="memory for the pairs and patches")
        parser.add_argument("--members-per-gpu", required=True, type=int, metavar="N", help="trainings that may share one GPU")
    if name in ("wire", "train"):
        parser.add_argument("--member", required=True, type=int, metavar="I", help="number of the member, from 0")
    if name in ("fetch", "place"):
        parser.add_argument("--name", required=True, metavar="VOLUME", help="the volume's name in the configuration")
    parser.add_argument("--spec", required=True, metavar="JSON", help="the stage's specification, as the workflow writes it")


if __name__ == "__main__":
    sys.exit(main())
