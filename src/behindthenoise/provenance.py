"""
What a job's result depends on: its part of the config, and the code that computes it.

Snakemake compares this text with that of the last run. Comments, docstrings and formatting do not enter, nor do modules that only
carry settings to the code. Not seen: imports at run time, other packages' versions (they are recorded beside each result).
"""

import ast
import hashlib
import importlib.util
import json
import os
import sys
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

PACKAGE = "behindthenoise"
ROOT = Path(__file__).parent
# What these hold reaches a stage as values in its specification, or not at all; only what the config computes from its values, in
# public methods and functions, counts by itself.
CONFIG = "config"
CARRIERS = {CONFIG, "errors", "stages", "provenance", "cli"}
# of the files that a glance compares: all of what is small, some of what is large
GROUP_FILES = ("zarr.json", ".zattrs", ".zmetadata")  # of Zarr 3 and 2
BLOCKS, BLOCK_BYTES = 64, 4096
MOST_REMEMBERED = 2000  # sources; a package that is edited leaves many


class Facts(NamedTuple):
    """What counts of a module: a digest of its code without comments, docstrings and formatting, and what it imports of us."""

    code: str
    imports: list[str]


@cache
def fingerprint(module: str) -> str:
    """
    Digest of the code of a module of this package, of all that it imports from the package, and of templates beside them.

    Parameters
    ----------
    module
        Dotted name within the package, e.g. `run.train`.
    """
    known = _remembered()
    before = len(known)
    names = sorted(_closure(module))
    templates = sorted(path for folder in {_path(name).parent for name in names} for path in folder.glob("*.j2"))
    computed = _computed({imported for name in names for imported in _facts(name).imports if imported.startswith(f"{CONFIG}.")})
    if len(known) > before:
        _remember(known)
    parts = [*(f"{name} {_facts(name).code}\n" for name in names), *computed, *(path.read_text() for path in templates)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def glance(paths: Sequence[str]) -> str:
    """
    What tells files from others without reading them all: their number and sizes, and a digest of blocks spread evenly over them.

    Snakemake compares times, which say nothing about a file that was moved here and is older than the results.
    """
    ends = list(accumulate(os.path.getsize(path) for path in paths))
    size = ends[-1] if ends else 0
    digest, blocks = hashlib.sha256(json.dumps(ends).encode()), max(BLOCKS, 2 * len(paths))  # two in each slice of a stack
    for block in range(blocks):
        start = block * max(size - BLOCK_BYTES, 0) // (blocks - 1)
        index = bisect(ends, start)
        if index < len(paths):
            with open(paths[index], "rb") as file:
                file.seek(start - ends[index - 1] if index else start)
                digest.update(file.read(BLOCK_BYTES))
    return f"{len(paths)} files, {size} bytes, {digest.hexdigest()[:16]}"


def glance_at_folder(path: str, array: str | None) -> list[int]:
    """
    What tells a Zarr store from others: number, size and newest change (ns) of its files, whose contents may be terabytes.

    Of one array in a store, its files, those of its coordinates, which are called like its axes and may name the channels, and what
    the groups that it lies in say, as OME-Zarr says sizes of voxels there.
    """
    inside = os.path.join(path, array or "")
    folders = [inside, *(_coordinates(inside) if array else [])]
    files = [os.path.join(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names]
    steps = Path(array).parts if array else ()
    groups = [os.path.join(path, *steps[:depth]) for depth in range(len(steps))]
    files += [file for group in groups for name in GROUP_FILES if os.path.exists(file := os.path.join(group, name))]
    found = [os.stat(file) for file in files]
    return [len(found), sum(file.st_size for file in found), max((file.st_mtime_ns for file in found), default=0)]


def _coordinates(array: str) -> list[str]:
    """Folders of the coordinates of an array of Zarr 3 or 2."""
    axes: list[str | None] = []
    for name, key in {"zarr.json": "dimension_names", ".zattrs": "_ARRAY_DIMENSIONS"}.items():
        path = Path(array, name)
        if path.exists():
            axes += json.loads(path.read_text()).get(key) or []
    return [os.path.join(os.path.dirname(os.path.normpath(array)), axis) for axis in axes if axis]


def _closure(module: str) -> set[str]:
    """Names of the modules that a module is made of."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] in CARRIERS:
            continue
        found.add(name)
        waiting += [imported for imported in _facts(name).imports if _path(imported).exists()]
    return found


def _computed(imported: set[str]) -> list[str]:
    """What the classes and functions that are imported from the config compute, and those that they are made of."""
    known, waiting = _definitions(), [name.rpartition(".")[2] for name in imported]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found.add(name)
            waiting += known[name].imports
    return [f"{CONFIG}.{name} {known[name].code}\n" for name in sorted(found) if known[name].code]


@cache
def _definitions() -> dict[str, Facts]:
    """
    Facts of the classes, functions and constants of the config: the code of what they compute, and the names that they use.

    Of a class, its public methods are its code; fields and validators are not, as what they make of a value stands in
    specifications.
    """
    return {name: facts for path in sorted((ROOT / CONFIG).glob("*.py")) for name, facts in _defined_in(path.read_bytes()).items()}


def _defined_in(source: bytes) -> dict[str, Facts]:
    known = _remembered()
    key = f"{hashlib.sha256(source).hexdigest()} definitions"
    if key not in known:
        body = ast.parse(source).body
        analysed = {node.name: _definition(node) for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        analysed |= {
            node.targets[0].id: _constant(node)
            for node in body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        analysed |= {
            node.target.id: _constant(node)
            for node in body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        known.update({f"{key} {name}": facts for name, facts in analysed.items()})
        known[key] = Facts("", sorted(analysed))
    return {name: known[f"{key} {name}"] for name in known[key].imports}


def _definition(node: ast.ClassDef | ast.FunctionDef) -> Facts:
    functions = [node] if isinstance(node, ast.FunctionDef) else [part for part in node.body if isinstance(part, ast.FunctionDef)]
    public = [function for function in functions if function is node or not function.name.startswith("_")]
    for function in public:
        if ast.get_docstring(function, clean=False) is not None:
            function.body = function.body[1:]
    fields = (
        [] if isinstance(node, ast.FunctionDef) else [*node.bases, *(part for part in node.body if isinstance(part, ast.AnnAssign))]
    )
    used = {name.id for part in (*public, *fields) for name in ast.walk(part) if isinstance(name, ast.Name)}
    code = "".join(ast.dump(function) for function in public)
    return Facts(hashlib.sha256(code.encode()).hexdigest() if code else "", sorted(used))


def _constant(node: ast.Assign | ast.AnnAssign) -> Facts:
    used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return Facts(hashlib.sha256(ast.dump(node).encode()).hexdigest(), sorted(used))


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _facts(module: str) -> Facts:
    """Facts of a module; those of sources that were read before are remembered, as analysing them all takes a second."""
    source = _path(module).read_bytes()
    key = hashlib.sha256(source).hexdigest()
    known = _remembered()
    if key not in known:
        known[key] = _analysed(source)
    return known[key]


def _analysed(source: bytes) -> Facts:
    tree = ast.parse(source)
    imports: list[str] = []
    for node in (tree, *_statements(tree.body)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == PACKAGE:
            base = node.module.removeprefix(PACKAGE).lstrip(".")
            # what is named may be a module, or something inside one
            imports += [f"{base}.{alias.name}".lstrip(".") for alias in node.names] + [base] * bool(base)
        elif isinstance(node, ast.Import):
            imports += [alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names if alias.name.startswith(f"{PACKAGE}.")]
    return Facts(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements, also inside others; expressions hold none, and are most of a tree."""
    for statement in body:
        yield statement
        for part in (statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(part, field, []))


def _memory() -> Path:
    """Where facts are remembered: where Python keeps its own analysis of modules, apart for each of its versions."""
    return Path(importlib.util.cache_from_source(str(ROOT / "fingerprints.py"))).with_suffix(".json")


@cache
def _remembered() -> dict[str, Facts]:
    """Facts by digests of sources."""
    try:
        known = {key: Facts(code, list(imports)) for key, (code, imports) in json.loads(_memory().read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # nothing, or nothing usable: all is found again
        return {}
    return known if len(known) < MOST_REMEMBERED else {}


def _remember(known: dict[str, Facts]) -> None:
    """Keep facts for the next start, where Python may keep things."""
    if sys.dont_write_bytecode:
        return
    partial = _memory().with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):  # a folder that cannot be written costs time alone
        partial.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps(known))
        os.replace(partial, _memory())
