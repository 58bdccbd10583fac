"""The folder that `btn calibrate` writes: what is in it, and whether it is still what was written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from zipfile import BadZipFile
from zlib import error as ZlibError

from behindthenoise import __version__
from behindthenoise.config import CalibrationConfig
from behindthenoise.errors import BehindTheNoiseError, ConfigError, SourceError
from behindthenoise.io.record import file_digest, read_json
from behindthenoise.run.other_networks.checks import settings

# What thresholds and levels are read from; the certificate has their digests.
COUNTS, THRESHOLDS, CERTIFICATE = "scores.npz", "thresholds.json", "certificate.json"

# What libraries raise when a file is not what it should be.
DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, EOFError, BadZipFile, ZlibError)

Paths = Mapping[str, Path | None]


@dataclass(frozen=True)
class Certified:
    """
    What a certificate tells those who use its thresholds.

    Attributes
    ----------
    config
        The promise.
    unseen
        Tokens that never occurred; they share the threshold of others.
    """

    config: CalibrationConfig
    unseen: tuple[int, ...]


def certificate_of(folder: Path) -> Certified:
    """
    What the certificate says in a folder that `calibrate` has written, and that holds what it wrote then.

    Raises
    ------
    SourceError
        If the folder is none, or a file in it is damaged or of another calibration.
    """
    if missing := [name for name in (CERTIFICATE, THRESHOLDS, COUNTS) if not (folder / name).exists()]:
        raise SourceError(f"--calibration {folder} holds no {missing[0]}; give the --out of `btn calibrate`")
    with reading(folder / CERTIFICATE):
        certificate = read_json(folder / CERTIFICATE)
    if "spec" in certificate:
        raise SourceError(
            f"--calibration {folder} belongs to the workflow, which applies it itself; give the --out of `btn calibrate`"
        )
    with reading(folder / CERTIFICATE):
        made = Certified(settings(certificate["settings"]), tuple(map(int, certificate["unseen_tokens"])))
        digests = {name: str(certificate["files"][name]) for name in (THRESHOLDS, COUNTS)}
    for name, digest in digests.items():
        with reading(folder / name):
            found = file_digest(folder / name)
        if found != digest:
            raise SourceError(
                f"{folder / name} is not what {folder / CERTIFICATE} was written for: it is damaged, was changed, or comes from "
                "another calibration; run `btn calibrate` again"
            )
    return made


def expect_no_file(out: Path) -> None:
    """
    Nothing, if a folder can have this name.

    Raises
    ------
    ConfigError
        If a file has it.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder, which may be new")


def expect_writable(out: Path) -> None:
    """
    Nothing, if a folder is there, or can be made, and takes files.

    Raises
    ------
    ConfigError
        Says why it does not.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as problem:
        raise ConfigError(f"folder {out} cannot be written ({problem.strerror}); name another --out") from problem


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """
    Answers for whatever goes wrong while a file of a calibration is read.

    Raises
    ------
    SourceError
        Names the file and what was wrong.
    """
    try:
        yield
    except (BehindTheNoiseError, *DAMAGE) as problem:
        reason = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem.__cause__ or problem)
        raise SourceError(
            f"{path} is damaged, or was written by another version than {__version__} ({reason}); run `btn calibrate` again"
        ) from problem
