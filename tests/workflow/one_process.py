"""
Runs verbs of the command line one after another, each in a fork of one process that has imported everything.

It makes what a run of the workflow makes, sooner and without Snakemake: `python one_process.py < commands.json`, where the file
holds lists of arguments.
"""

import importlib
import json
import multiprocessing
import sys

from behindthenoise import cli
from behindthenoise.stages import STAGES, module_of


def run(command):
    sys.exit(cli.main(command))


for stage in STAGES:
    importlib.import_module(f"behindthenoise.{module_of(stage)}")
for command in json.load(sys.stdin):
    process = multiprocessing.get_context("fork").Process(target=run, args=(command,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{' '.join(command[:3])} ended with {process.exitcode}")
