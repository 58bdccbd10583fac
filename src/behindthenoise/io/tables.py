"""Tables as CSV files: rows of plain values under one header."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = float | int | str
NAMES = "channel"


def write(path: Path, rows: Sequence[Mapping[str, Value]]) -> None:
    """Write rows that share their keys; no rows give an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read(path: Path) -> list[dict[str, Value]]:
    """Rows of a table; what looks like a number is one, but for the names of channels."""
    with path.open(newline="") as file:
        return [{key: text if key == NAMES else _parsed(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _parsed(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
