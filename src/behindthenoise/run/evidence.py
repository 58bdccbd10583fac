"""How often evidence is wrong: held-out voxels of one channel against a limit, and the units that it is counted in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from behindthenoise.core import discovery
from behindthenoise.core.calibration import survey
from behindthenoise.core.calibration.histogram import Tally
from behindthenoise.core.calibration.thresholds import Calibration, Support
from behindthenoise.core.calibration.units import Box, Units
from behindthenoise.core.discovery import Limit, Table, Unit
from behindthenoise.core.split import CALIBRATION, TEST
from behindthenoise.run.finish import calibrated
from behindthenoise.run.heldout import HeldOut, Piece
from behindthenoise.run.score import LOSSLESS
from behindthenoise.run.scored import Scored


@dataclass(frozen=True)
class Grounds:
    """What a unit is, its edges in a volume, and how many units calibrate."""

    unit: Unit
    edges: tuple[int, ...]
    count: int


@dataclass(frozen=True, eq=False)
class HeldOutChannel:
    """
    Held-out voxels of one channel, with intervals as finished volumes have them.

    Attributes
    ----------
    source
        The voxels.
    rules
        What their units are.
    calibration
        Of the channel alone.
    channel
        Its number.
    support
        Least and largest possible value.
    error
        Relative error that finished volumes are rounded to.
    """

    source: HeldOut
    rules: Scored
    calibration: Calibration
    channel: int
    support: Support
    error: float

    def evidence(self, limit: Limit, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Evidence of each voxel of a piece, and whether its true value is beyond the limit."""
        one = slice(self.channel, self.channel + 1)
        lower, median, upper, _ = calibrated(
            piece.quantiles[:, one],
            piece.spread[one],
            piece.token,
            calibration=self.calibration,
            support=self.support,
            error=self.error,
        )
        return limit.evidence(lower, median, upper), limit.is_met(piece.truth[self.channel])

    def table(self, limit: Limit, grounds: Grounds) -> Table:
        """False voxels of the calibration data by evidence."""
        voxels = self.source.voxels(int(CALIBRATION))
        tally, candidates = Tally(32 if voxels <= LOSSLESS else 16), 0
        for piece in self.source.pieces(int(CALIBRATION)):
            evidence, is_true = self.evidence(limit, piece)
            wrong = evidence[(evidence > 0) & ~is_true]
            tally.update(wrong, np.zeros(wrong.size, np.int64))
            candidates += int((evidence > 0).sum())
        return Table.of(
            tally.histogram(), (voxels, candidates if grounds.unit == "sample" else None), grounds.count, self.source.scans
        )

    def grounds(self, limit: Limit, shape: tuple[int, ...]) -> Grounds:
        """What units are and how many of them calibrate: as for the intervals, but that a field is worth what false voxels say."""
        boxes, kind = self.source.boxes(int(CALIBRATION)), self.rules.unit_kind
        if kind == "block" and self.rules.dependence.is_known:
            maps = [self.false_map(limit, image, window) for image, window in self.windows()]
            # scans of one field share its truth; a volume is one scan
            alone = [(evidence[np.newaxis], valid) for scans, valid in maps for evidence in scans]
            count = int(self.source.voxels(int(CALIBRATION)) / discovery.effect(maps))
            return Grounds("sample", discovery.cube(discovery.effect(alone), shape), max(1, count))
        units = Units.of(kind, self.rules.unit_edge, boxes)
        seen = np.empty(0, np.int64)
        for piece in self.source.pieces(int(CALIBRATION)):
            seen = np.union1d(seen, units.ids(piece.image, piece.position))
        # a unit of the volume is as large as a block, or as the box around an image's calibration voxels
        extents = np.median([[part.stop - part.start for part in box] for box in boxes if box is not None], axis=0)
        edges = [self.rules.unit_edge] * len(shape) if kind == "block" else extents.astype(int).tolist()
        return Grounds(kind, tuple(map(min, edges, shape)), seen.size)

    def windows(self) -> Iterator[tuple[int, Box]]:
        """A part of each field that fits into memory, as `survey` looks at it."""
        present = [(image, box) for image, box in enumerate(self.source.boxes(int(CALIBRATION))) if box is not None]
        for image, box in present:
            largest = survey.room(len(present), self.source.scans)
            yield image, survey.fullest(np.asarray(self.source.role[image]) == CALIBRATION, box, largest)

    def false_map(self, limit: Limit, image: int, window: Box) -> tuple[np.ndarray, np.ndarray]:
        """Evidence of the false voxels in a part of one field, 0 elsewhere, in every scan; and which voxels calibrate."""
        start = np.array([part.start for part in window])[:, None]
        found = np.zeros((self.source.scans, *(part.stop - part.start for part in window)), np.float32)
        for piece in self.source.pieces(int(CALIBRATION), (image, window)):
            evidence, is_true = self.evidence(limit, piece)
            found[(piece.scan, *(piece.position - start))] = np.where(is_true, 0, np.maximum(evidence, 0))
        where: tuple[int | slice, ...] = (image, *window)
        return found, np.asarray(self.source.role[where]) == CALIBRATION

    def tested(self, limit: Limit, is_marked: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """What the same choice is worth on test voxels, where the truth is known, beside that by the median alone."""
        counts = np.zeros(5, np.int64)
        for piece in self.source.pieces(int(TEST)):
            evidence, is_true = self.evidence(limit, piece)
            marked, candidates = is_marked(evidence), evidence > 0
            counts += [part.sum() for part in (is_true, marked, marked & ~is_true, candidates, candidates & ~is_true)]
        true, found, wrong, above, wrong_above = counts.tolist()
        return {
            "true": true,
            "marked": found,
            "false": wrong,
            "false_share": wrong / found if found else None,
            "found_share": (found - wrong) / true if true else None,
            "false_share_of_median": wrong_above / above if above else None,
        }
