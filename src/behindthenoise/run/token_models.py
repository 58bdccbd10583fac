"""Tokens on disk: plain numbers, nothing that could run code."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from behindthenoise.core.tokens import TokenModel, TokenTree


def write(path: Path, model: TokenModel) -> None:
    """Write tokens with the tree that they come from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    reference = {f"reference_{token}": distances for token, distances in enumerate(model.reference, start=1)}
    content: dict[str, Any] = {"count": model.count, **vars(model.tree), **reference}
    np.savez(path, **content)


def read(path: Path) -> TokenModel:
    """Read tokens."""
    with np.load(path) as content:
        tree = TokenTree(**{field.name: content[field.name] for field in fields(TokenTree)})
        count = int(content["count"])
        return TokenModel(tree, count, tuple(content[f"reference_{token}"] for token in range(1, count + 1)))
