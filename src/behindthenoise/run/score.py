"""Verb `score`: held-out quantiles and truth → scores of a share of the calibration voxels, counted by unit and group."""

from pathlib import Path
from typing import Literal

import numpy as np

from behindthenoise.core.calibration.histogram import Histogram, Tally
from behindthenoise.core.calibration.units import Units
from behindthenoise.core.split import CALIBRATION
from behindthenoise.io.record import log
from behindthenoise.run import scored, shares
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.scored import Cell, Rows, Scored, Tallies
from behindthenoise.run.shares import Share
from behindthenoise.stages import Spec

# Scores that are kept one by one; beyond, they are counted in buckets, and thresholds are made exact by reading again.
LOSSLESS = 1 << 24


def run(spec: Spec, *, pairs: Path, heldout: Path, labels: Path, rules: Path, scores: Path, share: str) -> None:
    """Write the counted scores of one share, which add up to those of all voxels."""
    source, fixed = HeldOut.open(pairs, heldout, labels), scored.read(rules)
    histograms, noisy = count(source, fixed, shares.parse(share))
    log(f"score: {sum(histogram.total for histogram in noisy)} voxels and channels in share {share}")
    scored.write(scores, fixed.with_counts(histograms, noisy))


def count(source: HeldOut, fixed: Scored, share: Share) -> tuple[dict[Cell, Histogram], tuple[Histogram, ...]]:
    """Scores of every channel, side and group, and those of the noisy scan as its own prediction, by unit."""
    # of every voxel and channel, a score for each side and the error of the noisy scan; all shares count alike
    total = source.voxels(int(CALIBRATION)) * sum(score.sides + 1 for score in fixed.scores)
    bits: Literal[16, 32] = 32 if total <= LOSSLESS else 16
    units = Units.of(fixed.unit_kind, fixed.unit_edge, source.boxes(int(CALIBRATION)))
    tallies, noisy = Tallies(bits), [Tally(bits) for _ in fixed.scores]
    for piece in source.pieces(int(CALIBRATION), share=share):
        unit = units.ids(piece.image, piece.position)
        for channel, tally in enumerate(noisy):
            tally.update(np.abs(piece.noisy[channel] - piece.truth[channel]), unit)
            tallies.update(channel, Rows(*scored.score_piece(fixed.scores, fixed.groups, piece, channel), unit))
    return tallies.histograms(), tuple(tally.histogram() for tally in noisy)
