"""
What a job's result depends on: its part of the config, and the code that computes it.

Snakemake compares this text with that of the last run. Comments, docstrings and formatting do not enter, nor do modules that only
carry settings to the code. Not seen: imports at run time, other packages' versions (they are recorded beside each result).
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "behindthenoise"
ROOT = Path(__file__).parent
# what these hold reaches a stage as values in its specification, or not at all
CARRIERS = {"config", "errors", "stages", "provenance", "cli"}


def fingerprint(module: str) -> str:
    """
    Digest of the code of a module of this package, of all that it imports from the package, and of templates beside them.

    Parameters
    ----------
    module
        Dotted name within the package, e.g. `run.train`.
    """
    names = sorted(_closure(module))
    templates = sorted({path for name in names for path in _path(name).parent.glob("*.j2")})
    text = "".join(f"{name}\n{_code(name)}\n" for name in names) + "".join(path.read_text() for path in templates)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _closure(module: str) -> set[str]:
    """Names of the modules that a module is made of."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] in CARRIERS:
            continue
        found.add(name)
        waiting += _imports(name)
    return found


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text())


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of this package that a module names in its import statements."""
    names: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == PACKAGE:
            base = node.module.removeprefix(PACKAGE).lstrip(".")
            names += [name for alias in node.names if (name := f"{base}.{alias.name}".lstrip(".")) and _path(name).exists()]
            names += [base] if base else []
        elif isinstance(node, ast.Import):
            names += [alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names if alias.name.startswith(f"{PACKAGE}.")]
    return tuple(names)


@cache
def _code(module: str) -> str:
    """The code of a module without comments, docstrings and formatting."""
    tree = _tree(module)  # what is taken away here holds no import
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)
