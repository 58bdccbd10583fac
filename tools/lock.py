"""
Lock files written from the environment that runs this.

`requirements.lock` holds the exact versions of everything that the package needs, `requirements-dev.lock` adds what its
checks and tests need, `envs/behindthenoise.yaml` gives conda the same versions of what the package itself imports.
Packages in the environment that nobody asks for are left out.
"""

import argparse
import platform
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.metadata import requires as requirements_of
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# Exact versions of {what}, written by `make lock` (tools/lock.py)
# from the environment that the tests run in: Python {python} on {system}. Do not edit.
# Without hashes, because the file of one torch version differs from platform to platform: on Linux the index gives the
# CUDA build, which brings its own libraries, elsewhere the CPU build. See docs/decisions/0003-lock-without-hashes.md.
"""

ENV_HEADER = """\
# What the jobs need, for `snakemake --sdm conda`; written by `make lock` (tools/lock.py), do not edit.
# The versions are those of requirements.lock. Snakemake runs outside, the package itself comes through PYTHONPATH.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
"""

# Names on conda-forge where they differ; the -core and -base packages come without dashboards and windows.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "dask": "dask-core"}
PIP_ONLY = {"qlty", "tensorstore", "xxhash"}
OUTSIDE_CONDA = {"snakemake", "pygments"}


def closure(roots: Iterable[str]) -> dict[str, str]:
    """
    Installed versions of the requirements and of everything that they require in turn, by normalised name.

    Raises
    ------
    PackageNotFoundError
        If one of them is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(root), "") for root in roots]
    while waiting:
        requirement, extra_of_parent = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra_of_parent}):
            continue
        name = canonicalize_name(requirement.name)
        # A local label such as +cpu names a build, not a version: the lock is for every platform.
        found[name] = version(name).partition("+")[0]
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(Requirement(line), extra) for line in requirements_of(name) or ()]
    return found


def write(path: Path, pins: dict[str, str], *, what: str, include: str | None = None) -> None:
    """Write one lock file, sorted by name."""
    lines = [HEADER.format(what=what, python=platform.python_version(), system=platform.system())]
    lines += [f"-r {include}\n"] if include else []
    lines += [f"{name}=={pins[name]}\n" for name in sorted(pins)]
    path.write_text("".join(lines))
    print(f"{path.name}: {len(pins)} packages")


def write_conda(path: Path, pins: dict[str, str]) -> None:
    """Write the conda environment of the jobs."""
    names = sorted(set(pins) - OUTSIDE_CONDA)
    lines = [ENV_HEADER]
    lines += [f"  - {CONDA_NAMES.get(name, name)}=={pins[name]}\n" for name in names if name not in PIP_ONLY]
    lines += ["  - pip\n", "  - pip:\n"]
    lines += [f"      - {name}=={pins[name]}\n" for name in names if name in PIP_ONLY]
    path.write_text("".join(lines))
    print(f"{path.name}: {len(names)} packages")


def main() -> int:
    """Write the lock files and the conda environment into the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="where pyproject.toml is")
    root: Path = parser.parse_args().root
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    try:
        runtime = closure([*project["dependencies"]])
        everything = closure([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    except PackageNotFoundError as missing:
        print(f"{missing.name} is required but not installed; run `make lock`, which installs it first", file=sys.stderr)
        return 2
    tools = {name: pin for name, pin in everything.items() if name not in runtime}
    write(root / "requirements.lock", runtime, what="what Behind the Noise runs on")
    write(root / "requirements-dev.lock", tools, what="what its checks and tests need", include="requirements.lock")
    direct = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    write_conda(root / "envs" / "behindthenoise.yaml", {name: runtime[name] for name in direct})
    return 0


if __name__ == "__main__":
    sys.exit(main())
