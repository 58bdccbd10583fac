"""The checked configuration, the names that rules share, and the command that every rule calls."""

import glob
import json
import os
import re
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

# Of this file, and not of the workflow that may use it as a module.
PROJECT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
SOURCE = PROJECT / "src"
sys.path.insert(0, str(SOURCE))

import behindthenoise
from behindthenoise import config as settings
from behindthenoise import remote
from behindthenoise.errors import BehindTheNoiseError, ConfigError
from behindthenoise.io.lease import gpus_here
from behindthenoise.provenance import glance, glance_at_folder
from behindthenoise.run import ledger
from behindthenoise.stages import specification


def as_written(value):
    """A value from the command line as YAML means it: --config 'ensemble={size: 3}' hands every scalar over as text."""
    if isinstance(value, dict):
        return {key: as_written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_written(inner) for inner in value]
    return yaml.safe_load(value) if isinstance(value, str) else value


def checked(configfiles, overrides):
    """The configuration of a workflow of its own."""
    for path in configfiles:
        settings.expect_each_key_once(path)
    update_config(config, as_written(dict(overrides)))
    # a job on another machine need not ask every URL once more whether it is there
    return settings.parse(
        config, origin=", ".join(map(str, configfiles)) or "config", check_files=workflow.is_main_process
    )


# As a module, options of the command line are meant for the workflow that uses it, and its rules may make our sources.
MODULE = not workflow.modifier.is_main_snakefile()
try:
    CONFIG = (
        settings.parse(config, origin=f"config of the module {__name__}", check_files=False)
        if MODULE
        else checked(workflow.configfiles, workflow.config_settings.config)
    )
except ConfigError as problem:
    raise WorkflowError(str(problem)) from None

IMPORTED = Path(behindthenoise.__file__).parents[1]
if IMPORTED.resolve() != SOURCE.resolve():
    raise WorkflowError(
        f"behindthenoise comes from {IMPORTED}, but {SOURCE} is to run; in one workflow all modules must be of one clone on disk"
    )

# of rules that pass over whole stores, file by file; the memory of a file for each
PASS_THREADS = 4
# Jobs with networks ask for a GPU each: as many at once as there are here, unless somebody has said how many.
if workflow.is_main_process and workflow.local_exec and not MODULE and "gpu" not in workflow.global_resources:
    GPUS = gpus_here(os.environ)
    if GPUS:
        workflow.register_resource("gpu", GPUS * CONFIG.training.members_per_gpu)

RESOURCES = yaml.safe_load((PROJECT / "workflow" / "resources.yaml").read_text())
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
PLACES = f"export PYTHONPATH='{SOURCE}'; " + (
    ""
    if workflow.deployment_settings.deployment_method
    else f"export PATH='{os.path.dirname(sys.executable)}':\"$PATH\"; "
)
# There is one prefix for the rules of all modules: what others have set before stays.
BEFORE = (shell._process_prefix or "set -euo pipefail; ").replace(PLACES, "")
shell.prefix((BEFORE + PLACES).replace("{", "{{").replace("}", "}}"))


def spec(stage, **wildcards):
    """What makes a stage run again, as text: its part of the config and a fingerprint of its code."""
    return specification(CONFIG, stage, **wildcards)


def memory_mb(gigabytes):
    """
    Memory that a job asks a scheduler for: what it may use, and two GB for Python and its libraries; as much more after
    each failure.
    """
    return lambda wildcards, attempt: attempt * int(1000 * (gigabytes + 2))


def needs(rule):
    """What a rule asks a scheduler for, in MB and minutes; as much more after each failure."""
    return {
        name: lambda wildcards, attempt, number=number: attempt * number for name, number in RESOURCES[rule].items()
    }


def of_members(name):
    """A file of every member."""
    return expand(f"{R}/members/{{member}}/{name}", member=MEMBERS)


def placed(paths):
    """
    A store or folder, or several, for the parameters of a rule, which declares their metadata or a manifest alone.

    Snakemake puts the `prefix` of a module before inputs and outputs; this puts it before these.
    """
    if isinstance(paths, list):
        found = [str(workflow.modifier.modify_path(path)) for path in paths]
        return lambda wildcards: found
    found = str(workflow.modifier.modify_path(paths))
    return lambda wildcards: found.format_map(dict(wildcards.items()))


def uncompared(parameter):
    """A parameter that runs nothing again, as Snakemake does not compare what depends on `output`."""
    return lambda wildcards, output: parameter(wildcards)


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


def volume_sources(wildcards):
    """Sources of one volume; none where it is generated or is the training field."""
    volume = CONFIG.volumes.get(wildcards.volume)
    return [volume.noisy, volume.mask] if volume else []


def source_state(sources):
    """
    A glance at source files, as Snakemake looks at their times alone. Of source folders, as Zarr stores are, number, size
    and newest change of their files: a folder's metadata file stays as it is when the data are written anew. Of URLs, size
    and check sum or time.

    Nothing in a module: another rule may make them, and Snakemake compares when.
    """
    state = []
    for source in filter(None, sources):
        if remote.is_url(source.path):
            state += remote.found(source.path, source.options)
            continue
        files = [] if MODULE else source.files()
        state.append(glance(list(filter(os.path.isfile, files))))
        state += [glance_at_folder(path, source.array) for path in filter(os.path.isdir, files)]
    return json.dumps(state)


def source_files(sources):
    """
    Files that stand for sources; for a Zarr store, its metadata. None for URLs, which `source_state` looks at.

    In a module each source stands for itself, whether it is there or another rule makes it, and at its own place, without the
    module's prefix.
    """
    found = []
    for source in filter(None, sources):
        if remote.is_url(source.path):
            continue
        if MODULE:
            if not source.files() and glob.has_magic(source.path):
                raise WorkflowError(
                    f"no file fits {source.path!r}, and a module cannot wait for a pattern; name a file, or the folder of the files"
                )
            found += list(map(local, source.files() if glob.has_magic(source.path) else [source.path]))
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
    if not os.path.isdir(str(workflow.modifier.modify_path(R))):
        return []
    found = [str(file) for group in files for file in ([group] if isinstance(group, str) else group)]
    # as outputs of rules they have a module's prefix already
    return [local(file) for file in found if not os.path.exists(file)]
