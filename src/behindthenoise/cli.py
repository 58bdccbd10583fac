"""The command `btn`: one verb for each step of the workflow."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from behindthenoise import __version__, config
from behindthenoise.errors import BehindTheNoiseError
from behindthenoise.stages import STAGES, Spec, Stage, module_of


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one verb.

    Returns
    -------
    int
        0 for success, 2 where the user can mend what went wrong; the message is on standard error.
    """
    options = vars(_parser().parse_args(arguments))
    verb = options.pop("verb")
    try:
        if verb == "schema":
            print(json.dumps(config.schema(), indent=2))
        elif verb == "validate":
            print(config.load(options["config"]).model_dump_json(indent=2))
        elif verb == "draw":
            _draw(**options)
        else:
            _run_stage(verb, options)
    except BehindTheNoiseError as problem:
        print(f"btn {verb}: error: {problem}", file=sys.stderr)
        return 2
    return 0


def _draw(graph: Path, picture: Path | None) -> None:
    """Picture of an architecture beside its file, or where it is wanted, and its numbers on standard output."""
    wiring = importlib.import_module("behindthenoise.report.wiring")
    architecture, target = wiring.read(graph), picture or graph.with_suffix(".svg")
    wiring.write(architecture, target)
    for name, value in {**wiring.facts(architecture), "picture": target}.items():
        print(f"{name}: {value}")


def _run_stage(verb: str, options: dict[str, str | Path | list[Path]]) -> None:
    """Import the verb's module, which may be heavy, and run it under the record of its time and memory."""
    spec = Spec.parse(str(options.pop("spec")), verb)
    module = importlib.import_module(f"behindthenoise.{module_of(verb)}")
    record = importlib.import_module("behindthenoise.io.record")
    with record.recorded(verb, options):
        module.run(spec, **options)


def _parser() -> argparse.ArgumentParser:
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
        _add_stage(verbs.add_parser(name, help=stage.help, description=stage.help), name, stage)
    return parser


def _add_stage(parser: argparse.ArgumentParser, name: str, stage: Stage) -> None:
    for option in stage.paths:
        parser.add_argument(f"--{option}", type=Path, required=True, metavar="PATH")
    for option in stage.lists:
        parser.add_argument(f"--{option}", type=Path, required=True, nargs="+", metavar="PATH")
    if name == "infer":
        parser.add_argument("--share", required=True, metavar="I-of-N", help="which share of the tiles, e.g. 1-of-4")
    if name == "train":
        parser.add_argument("--memory-gb", required=True, type=float, metavar="GB", help="memory for the pairs and patches")
    if name in ("wire", "train"):
        parser.add_argument("--member", required=True, type=int, metavar="I", help="number of the member, from 0")
    if name == "fetch":
        parser.add_argument("--name", required=True, metavar="VOLUME", help="the volume's name in the configuration")
    parser.add_argument("--spec", required=True, metavar="JSON", help="the stage's specification, as the workflow writes it")


if __name__ == "__main__":
    sys.exit(main())
