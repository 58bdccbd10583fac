"""Verbs `apply` and `levels`: what a calibration that is on disk is used for."""

from collections.abc import Mapping
from math import inf
from os import W_OK, access
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from behindthenoise.core.calibration import certificate as words
from behindthenoise.core.calibration import scores
from behindthenoise.core.calibration.guarantees import GUARANTEES
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.thresholds import merging_of
from behindthenoise.errors import ConfigError
from behindthenoise.io import tables
from behindthenoise.io.record import log
from behindthenoise.run import scored as counts_on_disk
from behindthenoise.run import thresholds as thresholds_on_disk
from behindthenoise.run.other_networks import checks
from behindthenoise.run.other_networks.arrays import QUANTILES, Arrays, regions, single, writer
from behindthenoise.run.other_networks.calibration import at
from behindthenoise.run.other_networks.folder import (
    CERTIFICATE,
    COUNTS,
    THRESHOLDS,
    Certified,
    Paths,
    certificate_of,
    expect_no_file,
    expect_writable,
    reading,
)

LEVELS = tuple(range(1, 100))  # percent


def apply(folder: Path, paths: Paths, out: Path) -> list[Path]:
    """
    Write the ends of the calibrated intervals of new predictions, stored as these are; returns where.

    Parameters
    ----------
    folder
        What `calibrate` has written.
    paths
        Of the arrays `lower`, `median` and `upper`, and of `spread` and `tokens` where the calibration has them. A voxel whose
        prediction is NaN, or whose token is 0, has no interval: NaN.

    Raises
    ------
    BehindTheNoiseError
        If the calibration is damaged, the arrays do not fit it or each other, or something would be overwritten.
    """
    expect_no_file(out)
    made = certificate_of(folder)
    with reading(folder / THRESHOLDS):
        calibration, _ = thresholds_on_disk.read(folder / THRESHOLDS)
        (score,), (groups,), (thresholds,) = calibration.scores, calibration.groups, calibration.thresholds
    arrays = Arrays.open(paths)
    checks.expect_spread(score.kind, arrays)
    checks.expect_tokens(groups.tokens, arrays)
    found = noticed(arrays, made, thresholds)
    like = arrays.stored["lower"]
    suffix = ".zarr" if arrays.paths["lower"].is_dir() else ".npy"
    targets = [out / f"{name}{suffix}" for name in ("lower", "upper")]
    for target in targets:
        if target.exists():
            raise ConfigError(f"{target} exists, and nothing is overwritten; name another folder with --out, or delete it")
    expect_writable(out)
    for sentence in found:
        log(f"apply: {sentence}")
    partial = [target.with_name(f"{target.name}.partial") for target in targets]
    writers = [writer(path, like) for path in partial]
    for region, block in arrays.blocks():
        for write, ends in zip(writers, _interval(score, thresholds, made.config.support, block), strict=True):
            write(region, ends)
    for path, target in zip(partial, targets, strict=True):
        path.rename(target)
    return targets


def levels(folder: Path, table: Path) -> None:
    """
    Write the thresholds of every guarantee at every level in percent, from the counted scores alone.

    Infinite where the guarantee cannot be given. Where scores were counted in buckets, a threshold is the upper end of its
    bucket: valid, and less than a hundredth too large.

    Raises
    ------
    BehindTheNoiseError
        If the folder is none that `calibrate` has written, or the table cannot be.
    """
    config = certificate_of(folder).config
    if table.is_dir() or (table.exists() and not access(table, W_OK)):
        raise ConfigError(f"--out {table} is a folder, or a file that cannot be written; name another file")
    expect_writable(table.parent)
    with reading(folder / COUNTS):
        counted = counts_on_disk.read(folder / COUNTS).counted(0)
    merging = merging_of(config, counted)
    tables.write(
        table,
        [
            {"guarantee": guarantee, "level": level, **row, "threshold": inf if threshold is None else threshold}
            for guarantee in GUARANTEES
            for level in LEVELS
            for row, threshold in at(config.model_copy(update={"guarantee": guarantee, "coverage": level / 100}), counted, merging)
        ],
    )


def noticed(arrays: Arrays, made: Certified, thresholds: Float32[np.ndarray, " side group"]) -> list[str]:
    """
    What is to be said of new predictions.

    Raises
    ------
    BehindTheNoiseError
        If they hold something that no interval can be computed from.
    """
    found = []
    if rounded := checks.rounded_in(arrays):
        found.append(words.rounded(rounded))
    new = checks.tokens_in(arrays, thresholds.shape[1]) if "tokens" in arrays.stored else set()
    for token in sorted(new.intersection(made.unseen)):
        own = " and ".join(f"{value:.6g}" for value in thresholds[:, token - 1])
        found.append(
            f"warning: token {token} never occurred in the calibration data; it gets the threshold {own} of others (`merged` in "
            f"{CERTIFICATE} names them), and nothing is promised for it"
        )
    return found


def _interval(
    score: Score,
    thresholds: Float32[np.ndarray, " side group"],
    support: tuple[float | None, float | None],
    block: Mapping[str, np.ndarray],
) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
    """Ends of the intervals of a block, computed piece by piece."""
    low, high = (np.empty(block["lower"].shape, np.float32) for _ in range(2))
    # what has no token has no threshold
    table = np.concatenate([np.full((len(thresholds), 1), np.nan, np.float32), thresholds], axis=1)
    for piece in regions(low.shape):
        quantiles = np.stack([single(block[name][piece]) for name in QUANTILES])
        own = table[:, block["tokens"][piece].astype(np.int64)] if "tokens" in block else thresholds[:, 0]
        spread = single(block["spread"][piece]) if "spread" in block else None
        low[piece], high[piece] = scores.apply(score, quantiles, own, support, spread)
    return low, high
