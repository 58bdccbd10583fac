"""What the files around the code promise each other."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from behindthenoise.config import schema

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYPI_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "dask-core": "dask"}


def pins(*lock_files: str) -> dict[str, str]:
    lines = [line for name in lock_files for line in (ROOT / name).read_text().splitlines()]
    found = [line.split("==") for line in lines if line and not line.startswith(("#", "-r "))]
    assert all(len(pin) == 2 for pin in found), "a lock file holds nothing but name==version"
    return {canonicalize_name(name): pinned for name, pinned in found}


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def check_ranges(lines: list[str], locked: dict[str, str]) -> None:
    for requirement in requirements(lines):
        pinned = locked.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is in pyproject.toml and not in the lock; run `make lock`"
        assert pinned in requirement.specifier, f"{requirement.name} is locked at {pinned}, pyproject.toml says {requirement}"


def test_the_lock_has_every_dependency_inside_its_range():
    check_ranges(PROJECT["dependencies"], pins("requirements.lock"))


def test_the_development_lock_has_every_tool_inside_its_range():
    check_ranges(PROJECT["optional-dependencies"]["dev"], pins("requirements.lock", "requirements-dev.lock"))


def test_the_development_lock_adds_to_the_lock_and_repeats_nothing():
    assert "-r requirements.lock" in (ROOT / "requirements-dev.lock").read_text().splitlines()
    assert not pins("requirements.lock").keys() & pins("requirements-dev.lock").keys()


def test_the_conda_environment_has_the_versions_of_the_lock():
    locked = pins("requirements.lock")
    environment = yaml.safe_load((ROOT / "envs" / "behindthenoise.yaml").read_text())
    entries = environment["dependencies"]
    by_pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    pinned = dict(entry.split("==") for entry in [*entries, *by_pip] if isinstance(entry, str) and "==" in entry)
    found = {PYPI_NAMES.get(name, name): version for name, version in pinned.items()}
    direct = {canonicalize_name(requirement.name) for requirement in requirements(PROJECT["dependencies"])}
    assert found == {name: locked[name] for name in direct - {"snakemake", "pygments"}}


def test_the_schema_for_editors_is_that_of_the_config():
    stored = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    assert stored == json.loads(json.dumps(schema())), "the config has changed; run `make fix`"


@pytest.mark.parametrize(
    "module",
    [
        "behindthenoise.config",
        "behindthenoise.stages",
        "behindthenoise.provenance",
        "behindthenoise.run.ledger",
        "behindthenoise.run.status",
    ],
)
def test_what_the_snakefile_imports_loads_nothing_heavy(module):
    heavy = {"torch", "numpy", "scipy", "zarr", "dask", "xarray", "sklearn", "matplotlib"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


def committed() -> list[Path]:
    # Files that are new and not ignored count too: the next commit would have them.
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("git does not know this folder, so there is no list of its files")
    return [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]


# Web addresses such as https://example.org/home/ are none: a path begins where no word or dot stands before it.
@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w.~-])/(?:work|root|home|Users)/",
        r"\b(?:pypi\.org|pythonhosted\.org|anaconda\.(?:org|com)|--(?:extra-)?index-url)",
    ],
    ids=["path", "registry"],
)
def test_no_file_knows_the_machine_it_was_written_on(pattern):
    forbidden = re.compile(pattern)
    places = [
        f"{path.relative_to(ROOT)}:{number}: {found.group()}"
        for path in committed()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), start=1)
        if (found := forbidden.search(line))
    ]
    assert not places, "\n".join(places)
