"""Work that several jobs share."""

import re
from pathlib import Path
from typing import NamedTuple

from behindthenoise.errors import ConfigError


class Share(NamedTuple):
    """One of several equal shares; `job` is from 0."""

    job: int
    jobs: int


ALL = Share(0, 1)


def forget_others(manifest: Path, share: Share) -> None:
    """
    Delete manifests of another number of shares beside one.

    What they tell of a store that is now filled in other shares may become untrue, and Snakemake would believe them if their
    number came back.
    """
    for path in manifest.parent.glob("*-of-*.json"):
        found = re.fullmatch(r"\d+-of-(\d+)(\.run)?\.json", path.name)
        if found and int(found[1]) != share.jobs:
            path.unlink(missing_ok=True)


def parse(text: str) -> Share:
    """
    A share as Snakemake writes it, `I-of-N`, from 1.

    Raises
    ------
    ConfigError
        If the text is not like that.
    """
    found = re.fullmatch(r"(\d+)-of-(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--share is {text!r}; it must be like 2-of-8, the first number between 1 and the second")
    return Share(int(found[1]) - 1, int(found[2]))
