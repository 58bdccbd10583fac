"""What `score` leaves for `calibrate`: counted scores, how strongly misses depend on each other, and the constants behind them."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.histogram import Histogram, Tally, merged
from behindthenoise.core.calibration.scores import Score, rearrange
from behindthenoise.core.calibration.scores import scores as conformity
from behindthenoise.core.calibration.selection import Chunks
from behindthenoise.core.calibration.survey import Dependence
from behindthenoise.core.calibration.thresholds import Counted
from behindthenoise.core.calibration.units import Kind
from behindthenoise.io.npz import read_npz, write_npz
from behindthenoise.run.heldout import Piece


def score_piece(
    scores: Sequence[Score], groups: Sequence[Groups], piece: Piece, channel: int
) -> tuple[Float32[np.ndarray, " side n"], Int64[np.ndarray, " n"]]:
    """Scores by side, and groups, of a piece's voxels in one channel."""
    quantiles = piece.quantiles[:, channel]
    group = groups[channel].ids(rearrange(*quantiles)[1], piece.token)
    return conformity(scores[channel], quantiles, piece.truth[channel], piece.spread[channel]), group


class Rows(NamedTuple):
    """Some voxels of one channel: their scores for each side, groups and units."""

    scores: Float32[np.ndarray, " side n"]
    group: Int64[np.ndarray, " n"]
    unit: Int64[np.ndarray, " n"]


class Cell(NamedTuple):
    """What has a histogram of its own."""

    channel: int
    side: int
    group: int


@dataclass(frozen=True, eq=False)
class Scored:
    """
    Sufficient statistics of the calibration voxels: every threshold, at any level, follows from them without an image.

    `survey` fixes all but the counts; each job of `score` adds those of its share, and `joined` adds up the shares.

    Attributes
    ----------
    scores
        Kind and constants of every channel.
    groups
        How voxels are grouped, by channel: bins of intensity have the channel's own edges.
    places
        Where the groups lie, for finding neighbours.
    histograms
        Scores by unit, for every channel, side and group that occurs.
    noisy
        Scores of the noisy scan taken as its own prediction, for every channel.
    dependence
        How strongly misses depend on each other, by channel, side and group; not measured where images are the units.
    noisy_dependence
        The same for the noisy scan, by channel.
    unit_kind, unit_edge, radius
        What a unit is, the edge of a block in voxels, and the distance in voxels over which misses are correlated.
    """

    scores: tuple[Score, ...]
    groups: tuple[Groups, ...]
    places: tuple[Float64[np.ndarray, " _ d"], ...]
    histograms: dict[Cell, Histogram]
    noisy: tuple[Histogram, ...]
    dependence: Dependence
    noisy_dependence: Dependence
    unit_kind: Kind
    unit_edge: int
    radius: int

    def with_counts(self, histograms: Mapping[Cell, Histogram], noisy: Sequence[Histogram]) -> "Scored":
        """The same scores, groups and units with these counts."""
        return replace(self, histograms=dict(sorted(histograms.items())), noisy=tuple(noisy))

    def counted(self, channel: int) -> Counted:
        """The counts of one channel."""
        groups = self.groups[channel]
        sides = range(self.scores[channel].sides)
        found = tuple(
            {cell.group: histogram for cell, histogram in self.histograms.items() if (cell.channel, cell.side) == (channel, side)}
            for side in sides
        )
        dependence = self.dependence[channel, :, : groups.count]
        return Counted(found, groups.names, self.places[channel], dependence, self.unit_kind)


class Tallies:
    """
    Scores counted by unit, for every channel, side and group that occurs.

    Parameters
    ----------
    bits
        As of `Tally`: 32 keep every score, 16 count them in buckets.
    """

    def __init__(self, bits: Literal[16, 32]) -> None:
        self._tallies: dict[Cell, Tally] = defaultdict(lambda: Tally(bits))

    def update(self, channel: int, rows: Rows) -> None:
        """Count some voxels of a channel."""
        for group in np.unique(rows.group).tolist():
            chosen = rows.group == group
            for side, scores in enumerate(rows.scores):
                self._tallies[Cell(channel, side, group)].update(scores[chosen], rows.unit[chosen])

    def histograms(self) -> dict[Cell, Histogram]:
        """What was counted, in the order of channels, sides and groups."""
        return {cell: tally.histogram() for cell, tally in sorted(self._tallies.items())}


def again(read: Callable[[], Iterable[Rows]]) -> Callable[[int, Sequence[int]], Chunks]:
    """For a side and some groups of a channel, what reads their scores again; `read` gives all rows of it from the start."""

    def chunks_of(side: int, members: Sequence[int]) -> Chunks:
        def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows in read():
                chosen = np.isin(rows.group, members)
                yield rows.scores[side][chosen], rows.unit[chosen]

        return chunks

    return chunks_of


def joined(parts: Sequence[Scored]) -> Scored:
    """Counts of all shares together, whatever their order."""
    cells = {cell for part in parts for cell in part.histograms}
    histograms = {cell: merged([part.histograms[cell] for part in parts if cell in part.histograms]) for cell in cells}
    return parts[0].with_counts(histograms, [merged(rows) for rows in zip(*(part.noisy for part in parts), strict=True)])


def write(path: Path, scored: Scored) -> None:
    """Store as plain arrays, and a line of JSON for what is none."""
    meta = {
        "scores": [asdict(score) for score in scored.scores],
        "tokens": [groups.tokens for groups in scored.groups],
        "unit": [scored.unit_kind, scored.unit_edge, scored.radius],
    }
    arrays = {"meta": np.array(json.dumps(meta))}
    for name, part in (("dependence", scored.dependence), ("noisy_dependence", scored.noisy_dependence)):
        arrays |= {f"{name}/effects": part.effects, f"{name}/blocks": part.blocks}
    for channel, (groups, places) in enumerate(zip(scored.groups, scored.places, strict=True)):
        arrays[f"places/{channel}"] = places
        if groups.edges is not None:
            arrays[f"edges/{channel}"] = groups.edges
    for cell, histogram in scored.histograms.items():
        arrays |= {f"scores/{cell.channel}/{cell.side}/{cell.group}/{name}": part for name, part in histogram.as_arrays().items()}
    for channel, histogram in enumerate(scored.noisy):
        arrays |= {f"noisy/{channel}/{name}": part for name, part in histogram.as_arrays().items()}
    write_npz(path, arrays)


def read(path: Path) -> Scored:
    """Read what `write` has stored."""
    arrays = read_npz(path)
    meta = json.loads(str(arrays["meta"]))
    channels = range(len(meta["scores"]))
    cells = sorted({Cell(*map(int, name.split("/")[1:4])) for name in arrays if name.startswith("scores/")})
    kind, edge, radius = meta["unit"]
    return Scored(
        tuple(Score(**score) for score in meta["scores"]),
        tuple(Groups(arrays.get(f"edges/{channel}"), meta["tokens"][channel]) for channel in channels),
        tuple(arrays[f"places/{channel}"] for channel in channels),
        {cell: _histogram(arrays, f"scores/{cell.channel}/{cell.side}/{cell.group}") for cell in cells},
        tuple(_histogram(arrays, f"noisy/{channel}") for channel in channels if f"noisy/{channel}/units" in arrays),
        _dependence(arrays, "dependence"),
        _dependence(arrays, "noisy_dependence"),
        kind,
        edge,
        radius,
    )


def _dependence(arrays: dict[str, np.ndarray], name: str) -> Dependence:
    return Dependence(arrays[f"{name}/effects"], arrays[f"{name}/blocks"])


def _histogram(arrays: dict[str, np.ndarray], prefix: str) -> Histogram:
    start = f"{prefix}/"
    return Histogram.from_arrays({name.removeprefix(start): part for name, part in arrays.items() if name.startswith(start)})
