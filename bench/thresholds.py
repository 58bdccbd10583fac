"""
Exact thresholds: the bits, the time and the memory of `behindthenoise.core.calibration` against NumPy and MAPIE.

Without an option, the score at the split-conformal rank for 90 % coverage among scores in memory: by `histogram.Tally` and
`selection.exact` (two readings, counts by unit), and by NumPy, with equal bits.
With `--stream`, scores that are generated chunk by chunk, so that nothing but counts is held: time and peak memory.
With `--mapie`, the thresholds of conformalised quantile regression from quantiles and truth: ours, and those of MAPIE's
`ConformalizedQuantileRegressor` by `conformalize` and by `predict_interval` of one row; in float32 they must be equal.

Times are CPU time of one thread, the median of some turns and in brackets the least and the largest; the rivals run in turn, in one
process.

    python bench/thresholds.py --size 1e8
    python bench/thresholds.py --size 1e9 --stream

    python3.11 -m venv .venv-mapie
    .venv-mapie/bin/pip install -r bench/requirements-mapie.txt
    .venv-mapie/bin/python bench/thresholds.py --size 1e7 --mapie
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from behindthenoise.core.calibration import scores as kinds
from behindthenoise.core.calibration.histogram import Histogram, Tally
from behindthenoise.core.calibration.ranks import split_rank
from behindthenoise.core.calibration.selection import Chunks, exact

MISCOVERAGE = Fraction(1, 10)
UNITS = 10
CHUNK = 1 << 20


@dataclass(frozen=True)
class Choice:
    """A threshold, and the bucket that it is the upper end of."""

    threshold: float
    touched: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=lambda text: int(float(text)), default=10**8, help="scores (default: 1e8)")
    parser.add_argument("--turns", type=int, default=5, help="of each rival (default: 5)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--stream", action="store_true", help="generate the scores while they are counted; report peak memory")
    modes.add_argument("--mapie", action="store_true", help="compare with MAPIE")
    arguments = parser.parse_args()
    # Once a large array was freed, glibc keeps the memory of smaller ones for the next: as in any process that has been at work.
    np.empty(31 << 20, np.uint8)
    print(f"{arguments.size:.3g} scores of {UNITS} units, NumPy {np.__version__}")
    if arguments.stream:
        stream(arguments.size)
    elif arguments.mapie:
        against_mapie(arguments.size, arguments.turns)
    else:
        in_memory(arguments.size, arguments.turns)


def in_memory(size: int, turns: int) -> None:
    """Ours against NumPy's, on scores that lie in memory."""
    drawn = np.concatenate([generated(*bounds) for bounds in chunked(size)])
    rank = expect_rank(size, MISCOVERAGE)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, stop in chunked(size):
            yield drawn[start:stop], unit_ids(start, stop, size)

    check_ranks(drawn, chunks, [1, 2, size // 2, rank - 1, rank, rank + 1, size - 1, size])
    rivals = {
        "ours": lambda: found_exactly(chunks, rank),
        "ours, first reading": lambda: upper_end(chunks, rank),
        "np.partition": lambda: float(np.partition(drawn, rank - 1)[rank - 1]),
        "np.quantile": lambda: float(np.quantile(drawn, float(1 - MISCOVERAGE), method="inverted_cdf")),
    }
    found, times = timed(rivals, turns)
    print(f"threshold {found['ours']!r} at rank {rank}; upper end of its bucket {found['ours, first reading']!r}")
    report(times, size, ["np.partition", "np.quantile"])


def check_ranks(drawn: np.ndarray, chunks: Chunks, ranks: list[int]) -> None:
    """Stop unless the scores of these ranks are those of a partition."""
    ordered = np.partition(drawn, [rank - 1 for rank in ranks])
    coarse = counted(chunks)
    for rank in ranks:
        expect_equal(ordered[rank - 1], exact(coarse, partial(at_rank, rank=rank), chunks)[0].threshold)
    print(f"ours has the bits of np.partition at ranks {', '.join(map(str, ranks))}")


def stream(size: int) -> None:
    """Time and memory with scores that are generated anew at every reading."""
    before = resident("VmRSS")
    print(f"{before:.1f} MB resident after the imports")
    rank = expect_rank(size, MISCOVERAGE)
    clock = Clock()

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, stop in chunked(size):
            with clock:
                part = generated(start, stop), unit_ids(start, stop, size)
            yield part

    start = time.process_time()
    found = found_exactly(chunks, rank)
    counting, peak = time.process_time() - start - clock.seconds, resident("VmHWM")
    print(
        f"threshold {found!r} at rank {rank}: {counting / size * 1e9:.2f} ns/score, beside {clock.seconds / size * 1e9:.2f} to "
        f"generate them; peak {peak:.1f} MB, {peak - before:.1f} MB above the imports"
    )


class Clock:
    """CPU seconds spent inside it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time()


def against_mapie(size: int, turns: int) -> None:
    """Ours against MAPIE's, from quantiles and truth to thresholds."""
    pixels = Pixels.drawn(size)
    for kind in ("cqr", "asymmetric"):
        rivals = {"ours": partial(pixels.by_ours, kind), "MAPIE": partial(pixels.by_mapie, kind)}
        found, times = timed(rivals, turns)
        for thresholds in zip(*found.values(), strict=True):
            expect_equal(*thresholds)
        print(f"{kind}: thresholds {', '.join(map(str, found['ours']))}, in float32 those of MAPIE")
        report(times, size, ["MAPIE"])


@dataclass(frozen=True)
class Pixels:
    """Three quantiles and the truth of pixels that lie in memory."""

    quantiles: np.ndarray
    truth: np.ndarray

    @staticmethod
    def drawn(size: int) -> "Pixels":
        random = np.random.default_rng(0)
        truth = random.standard_normal(size, dtype=np.float32)
        median = truth + random.standard_normal(size, dtype=np.float32)
        half = random.random(size, dtype=np.float32) + np.float32(0.5)
        return Pixels(np.stack([median - half, median, median + half]), truth)

    def by_ours(self, kind: kinds.Kind) -> list[float]:
        size, sides = self.truth.size, kinds.Score(kind).sides
        rank = expect_rank(size, MISCOVERAGE / sides)
        return [found_exactly(self.chunks(kind, side), rank) for side in range(sides)]

    def by_mapie(self, kind: kinds.Kind) -> list[float]:
        """As the interval of a row of zeros shows them."""
        from mapie.regression import ConformalizedQuantileRegressor  # noqa: PLC0415

        theirs = ConformalizedQuantileRegressor([Column(0), Column(2), Column(1)], float(1 - MISCOVERAGE), prefit=True)
        theirs.conformalize(self.quantiles.T, self.truth)
        _, interval = theirs.predict_interval(np.zeros((1, 3)), symmetric_correction=kind == "cqr")
        return [float(-interval[0, 0, 0]), float(interval[0, 1, 0])][: kinds.Score(kind).sides]

    def scores(self, kind: kinds.Kind, side: int, start: int, stop: int) -> np.ndarray:
        return kinds.scores(kinds.Score(kind), self.quantiles[:, start:stop], self.truth[start:stop])[side]

    def chunks(self, kind: kinds.Kind, side: int) -> Chunks:
        """The scores, computed anew whenever they are read."""

        def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for start, stop in chunked(self.truth.size):
                yield self.scores(kind, side, start, stop), unit_ids(start, stop, self.truth.size)

        return read


class Column:
    """A fitted regressor that predicts what stands in a column."""

    def __init__(self, column: int) -> None:
        self.column = column
        self.fitted_ = True

    def fit(self, *_: object) -> "Column":
        return self

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, self.column]


def found_exactly(chunks: Chunks, rank: int) -> float:
    """By two readings: counts of leading bits, then of the trailing ones where the rank falls."""
    return exact(counted(chunks), partial(at_rank, rank=rank), chunks)[0].threshold


def upper_end(chunks: Chunks, rank: int) -> float:
    """By the first of the two readings: valid, and a little wide."""
    return at_rank(counted(chunks), rank).threshold


def counted(chunks: Chunks) -> Histogram:
    tally = Tally()
    for scores, units in chunks():
        tally.update(scores, units)
    return tally.histogram()


def at_rank(histogram: Histogram, rank: int) -> Choice:
    bucket = histogram.bucket_of_rank(rank)
    return Choice(histogram.value(bucket), (bucket,))


def chunked(size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of the chunks of so many scores."""
    return ((start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def generated(start: int, stop: int) -> np.ndarray:
    """Scores of the chunk that begins at `start`: how far normal errors lie outside an interval of half-width 1.4."""
    scores = np.random.default_rng(start).standard_normal(stop - start, dtype=np.float32)
    np.abs(scores, out=scores)
    scores -= np.float32(1.4)
    return scores


def unit_ids(start: int, stop: int, size: int) -> np.ndarray:
    """Units follow each other, like the images that scores come from."""
    return np.full(stop - start, start * UNITS // size, np.int16)


def expect_rank(size: int, miscoverage: Fraction) -> int:
    rank = split_rank(size, miscoverage)
    if rank is None:
        raise SystemExit(f"{size} scores are too few")
    return rank


def expect_equal(*thresholds: float) -> None:
    """Stop unless all have the same bits."""
    if len({np.float32(threshold).tobytes() for threshold in thresholds}) > 1:
        raise SystemExit(f"thresholds differ: {thresholds}")


def timed(rivals: dict[str, Callable[[], Any]], turns: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What each finds, and its seconds of CPU time in each turn, rising."""
    found: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(turns):
        for name, rival in rivals.items():
            start = time.process_time()
            found[name] = rival()
            seconds[name].append(time.process_time() - start)
    return found, {name: sorted(taken) for name, taken in seconds.items()}


def report(times: dict[str, list[float]], size: int, others: list[str]) -> None:
    """Nanoseconds for each score, and how many times as long the others take."""
    print(f"{'':>22} {'ns/score':>9} {'least, most':>18}" + "".join(f" {other:>14} takes" for other in others))
    for name, taken in times.items():
        least, median, most = (seconds / size * 1e9 for seconds in (taken[0], statistics.median(taken), taken[-1]))
        ratios = "".join(f" {statistics.median(times[other]) / statistics.median(taken):18.2f} x" for other in others)
        print(f"{name:>22} {median:9.2f} {f'({least:.2f}, {most:.2f})':>18}{ratios}")


def resident(field: str) -> float:
    """MB of memory that the process holds now (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


if __name__ == "__main__":
    main()
