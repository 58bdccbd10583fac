"""From counted scores to the thresholds of every group, and back from thresholds to intervals."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import selection
from behindthenoise.core.calibration.dependence import SMALLEST_EDGE
from behindthenoise.core.calibration.groups import Groups, Merging, merge
from behindthenoise.core.calibration.guarantees import GUARANTEES, Found, Request
from behindthenoise.core.calibration.histogram import Histogram, merged
from behindthenoise.core.calibration.scores import Kind, Score, apply, rearrange
from behindthenoise.core.calibration.selection import Chunks
from behindthenoise.core.calibration.survey import Dependence, union_effect
from behindthenoise.core.calibration.units import blocks_with
from behindthenoise.core.calibration.units import kind_of as unit_kind
from behindthenoise.errors import CalibrationError
from behindthenoise.words import counted

# A group worth fewer independent pixels than this shares the threshold of its neighbour.
FEWEST_EFFECTIVE = 30
# So many units can carry whatever can be asked for.
ENOUGH_UNITS = 4096

Support = tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class Calibration:
    """
    All it takes to turn quantiles into intervals that hold.

    Attributes
    ----------
    scores
        Kind and constants of the score of every channel.
    groups
        How voxels are grouped, by channel.
    thresholds
        Of every channel; those of groups that were merged are alike.
    """

    scores: tuple[Score, ...]
    groups: tuple[Groups, ...]
    thresholds: tuple[Float32[np.ndarray, " side _"], ...]

    def interval(
        self,
        channel: int,
        quantiles: Float32[np.ndarray, " 3 *shape"],
        token: np.ndarray,
        spread: Float32[np.ndarray, " *shape"],
        support: Support,
    ) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
        """Ends of the calibrated interval of one channel; `token` may be anything where groups do not ask for it."""
        score = self.scores[channel]
        group = self.groups[channel].ids(rearrange(*quantiles)[1], token)
        return apply(score, quantiles, self.thresholds[channel][:, group], support, spread)


def kind_of(asked: str, value_unit: str) -> Kind:
    """Kind of score: the one asked for; `auto` takes both sides apart for counts, whose errors are skewed."""
    if asked != "auto":
        return asked  # type: ignore[return-value]  # the configuration has checked that it is a kind
    return "asymmetric" if value_unit == "counts" else "cqr"


def request(
    config: CalibrationConfig,
    sides: int,
    groups: int = 1,
    effective: float | None = None,
    blocks: float = inf,
    unit: str = "unit",
) -> Request:
    """
    What one side of one group has to promise, so that all sides and groups together keep the promise of the configuration.

    Parameters
    ----------
    sides
        Each side takes its share of the misses, and of the probability to fail.
    groups
        Each group takes its share of the probability to fail: all of them hold at once (union bound).
    effective
        Independent pixels that a field is worth; None takes the variance between units.
    blocks
        Blocks of the field in which that was measured; see `guarantees.Request`.
    unit
        What a unit is, for messages: image or block.
    """
    failure, share = config.allowed_failure / (sides * groups), config.allowed_shortfall / sides
    return Request(config.miscoverage / sides, failure, share, effective, blocks, unit=unit, sides=sides)


def expect_enough(config: CalibrationConfig, value_unit: str, chosen: Iterable[Bool[np.ndarray, " *space"]], scans: int) -> str:
    """
    Number and kind of the units of the calibration data, if so many could carry the guarantee at best: when they all look alike.

    Parameters
    ----------
    value_unit
        Of the truth: it decides the kind of score, where that is left open.
    chosen
        For every image, which of its voxels calibrate.
    scans
        Scans of each image.

    Raises
    ------
    CalibrationError
        Says how many units it takes.
    """
    edge = SMALLEST_EDGE if config.block == "auto" else config.block
    images = blocks = pixels = 0
    for voxels in chosen:
        images, blocks, pixels = images + bool(voxels.any()), blocks + blocks_with(voxels, edge), pixels + scans * int(voxels.sum())
    if not images:
        raise CalibrationError("no voxel calibrates; give the calibration a part of the data")
    kind = unit_kind(images, config.unit)
    count = images if kind == "image" else blocks
    sides = Score(kind_of(config.score, value_unit), floor=1.0).sides
    effective = inf if kind == "block" and config.unit == "auto" else None
    expect_feasible(config, sides, count, pixels, effective, kind)
    return counted(count, kind)


def expect_feasible(
    config: CalibrationConfig, sides: int, units: int, pixels: int, effective: float | None, unit: str = "unit"
) -> None:
    """
    Nothing, if so many units could carry the guarantee at best: when all of them look alike and there is one group.

    Parameters
    ----------
    pixels
        Calibration pixels of all units.
    effective, unit
        As in `request`.

    Raises
    ------
    CalibrationError
        Says how many units it takes.
    """
    if units > ENOUGH_UNITS:
        return
    values = np.arange(100, dtype=np.float32)
    alike = Histogram.of(np.tile(values, units), np.repeat(np.arange(units), values.size))
    alike = replace(alike, counts=alike.counts * -(-pixels // (units * values.size)))
    GUARANTEES[config.guarantee](alike, request(config, sides, effective=effective, unit=unit))


@dataclass(frozen=True, eq=False)
class Counted:
    """
    Counted scores of one channel.

    Attributes
    ----------
    sides
        For each side of the score the histogram of every group that occurs.
    names, places
        Of all groups: in words, and a point for each.
    dependence
        How strongly misses depend on each other, by side and group; where it was not measured, the variance between units counts.
    unit
        What a unit is, for messages: image or block.
    """

    sides: tuple[Mapping[int, Histogram], ...]
    names: Sequence[str]
    places: Float64[np.ndarray, " group d"]
    dependence: Dependence
    unit: str = "unit"
    _joined: dict[tuple[int, tuple[int, ...]], Histogram] = field(default_factory=dict, repr=False)

    @property
    def pixels(self) -> Int64[np.ndarray, " group"]:
        """Scores of each group."""
        return np.array([self.sides[0][group].total if group in self.sides[0] else 0 for group in range(len(self.names))], np.int64)

    def together(self, side: int, members: Sequence[int]) -> Histogram:
        """Scores of several groups as one."""
        key = (side, tuple(members))
        if key not in self._joined:
            self._joined[key] = merged([self.sides[side][group] for group in members if group in self.sides[side]])
        return self._joined[key]

    def whole(self) -> list[Histogram]:
        """Scores of all groups as one, for each side."""
        return [self.together(side, range(len(self.names))) for side in range(len(self.sides))]

    def find(self, config: CalibrationConfig, side: int, members: Sequence[int], classes: int) -> Found:
        """
        What the guarantee says of some groups taken together.

        Raises
        ------
        CalibrationError
            If they cannot carry it.
        """
        return GUARANTEES[config.guarantee](self.together(side, members), self.asked(config, side, members, classes))

    def by_class(self, config: CalibrationConfig, merging: Merging) -> Iterator[tuple[int, tuple[int, ...], float | None]]:
        """Side, groups and threshold of every class of groups; None where the guarantee cannot be given."""
        for members in merging.members:
            for side in range(len(self.sides)):
                try:
                    found: float | None = self.find(config, side, members, len(merging.members)).threshold
                except CalibrationError:
                    found = None
                yield side, members, found

    def asked(self, config: CalibrationConfig, side: int, members: Sequence[int], classes: int) -> Request:
        """What some groups have to promise where so many classes of them share the probability to fail."""
        sides = len(self.sides)
        return request(config, sides, classes, *self.worth(side, members, float(config.miscoverage / sides)), self.unit)

    def worth(self, side: int, members: Sequence[int], miss: float) -> tuple[float | None, float]:
        """
        Independent pixels that several groups are worth together, and blocks in which that was measured.

        None and infinitely many where the variance between units says it.
        """
        if not self.dependence[side].is_known:
            return None, inf
        effects, blocks = np.transpose([self.dependence[side, group].at(miss) for group in range(len(self.names))])
        # where a group is too rare to be measured, the strongest dependence of the others stands for it
        effects[np.isnan(effects)], blocks[np.isnan(blocks)] = np.nanmax(effects), np.nanmin(blocks)
        present = [group for group in members if group in self.sides[side]]
        counts = [self.sides[side][group].total for group in present]
        effect = union_effect(effects[present].tolist(), counts)
        return sum(counts) / effect, float(np.average(blocks[present], weights=counts))


@dataclass(frozen=True, eq=False)
class Chosen:
    """
    Thresholds of one channel.

    Attributes
    ----------
    thresholds
        One for each side and group.
    merging
        Which groups share theirs.
    records
        For each class of groups and each side, the grounds of its threshold, for the certificate.
    """

    thresholds: Float32[np.ndarray, " side group"]
    merging: Merging
    records: list[dict[str, object]]


def choose(
    config: CalibrationConfig, counted: Counted, merging: Merging, chunks: Callable[[int, Sequence[int]], Chunks] | None = None
) -> Chosen:
    """
    Thresholds of every group of one channel.

    Parameters
    ----------
    merging
        Which groups share a threshold; `merging_of` finds it.
    chunks
        For a side and some groups, the scores themselves, to be read again where buckets hold several values; None takes the
        buckets' upper ends, which are valid and a little wide.

    Raises
    ------
    CalibrationError
        If a class of groups cannot carry the guarantee; the message says how many units it takes.
    """
    sides, classes = len(counted.sides), merging.members
    found = np.empty((sides, len(counted.names)), np.float32)
    records: list[dict[str, object]] = []
    for members in classes:
        for side in range(sides):
            chosen = counted.find(config, side, members, len(classes))
            if chunks is not None:
                asked = counted.asked(config, side, members, len(classes))
                guarantee = partial(_given, GUARANTEES[config.guarantee], asked)
                chosen = selection.exact(counted.together(side, members), guarantee, chunks(side, members))[0]
            found[side, list(members)] = chosen.threshold
            names = [counted.names[group] for group in members if counted.pixels[group]]
            records.append({"groups": names, "side": side, "threshold": chosen.threshold, **chosen.record})
    return Chosen(found, merging, records)


def merging_of(config: CalibrationConfig, counted: Counted) -> Merging:
    """Classes of groups that are large enough for the guarantee, which they share."""

    def is_large(members: tuple[int, ...], classes: int) -> bool:
        try:
            records = [counted.find(config, side, members, classes).record for side in range(len(counted.sides))]
        except CalibrationError:
            return False
        return all(float(str(record.get("effective_samples", FEWEST_EFFECTIVE))) >= FEWEST_EFFECTIVE for record in records)

    return merge(counted.names, counted.places, counted.pixels, is_large)


def _given(guarantee: Callable[[Histogram, Request], Found], asked: Request, histogram: Histogram) -> Found:
    return guarantee(histogram, asked)
