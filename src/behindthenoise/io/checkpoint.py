"""Unfinished work on disk: one file of plain numbers, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

VERSION = "2"


def write_checkpoint(path: Path, key: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """
    Keep tensors and plain data under a key; a file of this name is never half written, also when the power fails.

    Parameters
    ----------
    key
        What the work depends on; `read_checkpoint` finds nothing under another one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(values, partial, metadata={"version": VERSION, "key": key, "facts": json.dumps(facts)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def read_checkpoint(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """
    What was kept under this key; None where there is nothing, or something unreadable or of other work.

    A checkpoint only saves time, so one that cannot be used is no error.
    """
    try:
        with safe_open(path, framework="pt") as file:
            kept = file.metadata() or {}
            if kept.get("version") != VERSION or kept.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(kept["facts"])  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
