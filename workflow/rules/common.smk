"""The checked configuration, the names that rules share, and the command that every rule calls."""

import json
import os
import re
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

SOURCE = Path(workflow.basedir) / "src"
sys.path.insert(0, str(SOURCE))

from behindthenoise import config as settings
from behindthenoise import remote
from behindthenoise.errors import BehindTheNoiseError, ConfigError
from behindthenoise.provenance import glance
from behindthenoise.run import ledger
from behindthenoise.stages import specification


def as_written(value):
    """A value from the command line as YAML means it: --config 'ensemble={size: 3}' hands every scalar over as text."""
    if isinstance(value, dict):
        return {key: as_written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_written(inner) for inner in value]
    return yaml.safe_load(value) if isinstance(value, str) else value


update_config(config, as_written(dict(workflow.config_settings.config)))

try:
    for path in workflow.configfiles:
        settings.expect_each_key_once(path)
    CONFIG = settings.parse(
        config,
        origin=", ".join(map(str, workflow.configfiles)) or "config",
        # a job on another machine need not ask every URL once more whether it is there
        check_files=workflow.is_main_process,
    )
except ConfigError as problem:
    raise WorkflowError(str(problem)) from None

R = f"results/{CONFIG.dataset}"
LOGS = f"logs/{CONFIG.dataset}"
BENCHMARKS = f"benchmarks/{CONFIG.dataset}"
MEMBERS = [f"{member:03d}" for member in range(CONFIG.ensemble.size)]
VOLUMES = ["field", *CONFIG.volumes]
POINTS = {
    name: CONFIG.model_copy(update={"network": point.network, "training": point.training})
    for name, point in CONFIG.sweep_points().items()
}


wildcard_constraints:
    member=r"\d+",
    volume="|".join(map(re.escape, VOLUMES)),
    point="|".join(map(re.escape, POINTS)) or "(?!)",
    target="|".join(map(re.escape, CONFIG.regions)) or "(?!)",
    scatteritem=r"\d+-of-\d+",


PAIRS = [CONFIG.pairs.noisy, CONFIG.pairs.clean, CONFIG.pairs.mask] if CONFIG.pairs else []


# The code that is fingerprinted is the code that runs, also in a conda environment, which holds other packages only;
# without conda, the programs beside this Python are found although the environment is not activated.
shell.prefix(
    "set -euo pipefail; "
    f"export PYTHONPATH='{SOURCE}'; "
    + (
        ""
        if workflow.deployment_settings.deployment_method
        else f"export PATH='{os.path.dirname(sys.executable)}':\"$PATH\"; "
    )
)


def spec(stage, **wildcards):
    """What makes a stage run again, as text: its part of the config and a fingerprint of its code."""
    return specification(CONFIG, stage, **wildcards)


def memory_mb(gigabytes):
    """
    Memory that a job asks a scheduler for: what it may use, and two GB for Python and its libraries; as much more after
    each failure.
    """
    return lambda wildcards, attempt: attempt * int(1000 * (gigabytes + 2))


def of_members(name):
    """A file of every member."""
    return expand(f"{R}/members/{{member}}/{name}", member=MEMBERS)


def of_point(stage):
    """What makes a stage of one point run again."""
    return lambda wildcards: specification(POINTS[wildcards.point], stage)


def of_sweep(wildcards):
    """Records of all networks of the sweep."""
    if not POINTS:
        raise WorkflowError(
            "the config has nothing to sweep; name values in its section sweep, e.g. sweep: {network: {depth: [5, 10, 20]}}"
        )
    repeats = [f"{member:03d}" for member in range(CONFIG.sweep.repeats)]
    return expand(f"{R}/sweep/{{point}}/{{member}}/train.json", point=POINTS, member=repeats)


def source_state(sources):
    """
    A glance at source files, as Snakemake looks at their times alone. Of source folders, as Zarr stores are, number, size
    and newest change of their files: a folder's metadata file stays as it is when the data are written anew. Of URLs, size
    and check sum or time.
    """
    state = []
    for source in filter(None, sources):
        if remote.is_url(source.path):
            state += remote.found(source.path, source.options)
            continue
        state.append(glance(list(filter(os.path.isfile, source.files()))))
        for path in filter(os.path.isdir, source.files()):
            inside = os.path.join(path, source.array or "")
            found = [os.stat(os.path.join(folder, name)) for folder, _, names in os.walk(inside) for name in names]
            state.append(
                [len(found), sum(file.st_size for file in found), max((file.st_mtime_ns for file in found), default=0)]
            )
    return json.dumps(state)


def source_files(sources):
    """Files that stand for sources; for a Zarr store, its metadata. None for URLs, which `source_state` looks at."""
    found = []
    for source in filter(None, sources):
        if remote.is_url(source.path):
            continue
        for path in source.files():
            inside = [
                os.path.join(path, array, name)
                for array in {"", source.array or ""}
                for name in ("zarr.json", ".zarray", ".zgroup")
            ]
            found += [file for file in inside if os.path.exists(file)] if os.path.isdir(path) else [path]
    return found


def deleted(files):
    """
    Of all that results are made of, what is not there: Snakemake by itself does not miss what no job needs that runs.
    Nothing before the first run, in which everything is made anyway.
    """
    found = [str(file) for group in files for file in ([group] if isinstance(group, str) else group)]
    return [file for file in found if not os.path.exists(file)] if os.path.isdir(R) else []
