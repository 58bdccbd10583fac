"""Tokens on disk: plain numbers, nothing that could run code."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from behindthenoise.core.colours import FalseColours
from behindthenoise.core.tokens import TokenModel, TokenTree
from behindthenoise.io.npz import read_npz, write_npz

FAMILIAR, COLOURS = "familiar_", "colours_"
PLAIN = FalseColours(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0))  # an embedding whose components all are hidden


def write(path: Path, model: TokenModel, familiar: TokenModel | None = None, colours: FalseColours = PLAIN) -> None:
    """
    Write tokens with the tree that they come from.

    Parameters
    ----------
    familiar
        Tokens of the training voxels alone, which novelty is measured from, where others took part in the fit of the tokens.
    colours
        How the embedding is shown.
    """
    shown = {f"{COLOURS}{name}": values for name, values in vars(colours).items()}
    write_npz(path, {**_arrays(model), **({} if familiar is None else _arrays(familiar, FAMILIAR)), **shown})


def read(path: Path) -> TokenModel:
    """Read tokens."""
    return _model(read_npz(path))


def read_familiar(path: Path) -> TokenModel | None:
    """Read the tokens of training voxels alone; None where all tokens are that."""
    content = read_npz(path)
    return _model(content, FAMILIAR) if f"{FAMILIAR}count" in content else None


def read_colours(path: Path) -> FalseColours:
    """Read how the embedding is shown."""
    content = read_npz(path)
    return FalseColours(**{field.name: content[f"{COLOURS}{field.name}"] for field in fields(FalseColours)})


def _arrays(model: TokenModel, prefix: str = "") -> dict[str, Any]:
    reference = {f"reference_{token}": distances for token, distances in enumerate(model.reference, start=1)}
    return {f"{prefix}{name}": values for name, values in {"count": model.count, **vars(model.tree), **reference}.items()}


def _model(content: Mapping[str, Any], prefix: str = "") -> TokenModel:
    tree = TokenTree(**{field.name: content[f"{prefix}{field.name}"] for field in fields(TokenTree)})
    count = int(content[f"{prefix}count"])
    return TokenModel(tree, count, tuple(content[f"{prefix}reference_{token}"] for token in range(1, count + 1)))
