"""
Verbs `calibrate` (without a specification), `apply` and `levels`: the calibration by itself, on the predictions of any network.

What the workflow finds in its stores, and fixes on training voxels, comes from NPY files, Zarr arrays and options here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, cast

import numpy as np
from jaxtyping import Float32, Float64, Int64

from behindthenoise import __version__
from behindthenoise.config import CalibrationConfig, parse
from behindthenoise.core.calibration import certificate as words
from behindthenoise.core.calibration import scores, shift, survey
from behindthenoise.core.calibration.constants import FLOOR
from behindthenoise.core.calibration.dependence import SMALLEST_EDGE, block_edge
from behindthenoise.core.calibration.groups import Groups, Merging
from behindthenoise.core.calibration.guarantees import GUARANTEES
from behindthenoise.core.calibration.histogram import Tally, merged
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.selection import Chunks
from behindthenoise.core.calibration.thresholds import Calibration, Chosen, Counted, choose, expect_feasible, merging_of
from behindthenoise.core.calibration.thresholds import kind_of as score_kind
from behindthenoise.core.calibration.units import Box, Kind, Units, box_around, kind_of
from behindthenoise.errors import CalibrationError, ConfigError, SourceError
from behindthenoise.io import tables
from behindthenoise.io.record import log, read_json, write_json
from behindthenoise.run import scored as counts_on_disk
from behindthenoise.run import thresholds as thresholds_on_disk
from behindthenoise.run.arrays import QUANTILES, Arrays, Voxels, regions, writer
from behindthenoise.run.scored import Cell, Scored

LEVELS = tuple(range(1, 100))  # percent
SIDES = {1: ("both",), 2: ("below", "above")}
MOST_TOKENS = 255
# Scores that are kept one by one; beyond, they are counted in buckets, and thresholds are made exact by reading again.
LOSSLESS = 1 << 20
BLOCK_MISS = 0.1  # share of misses whose correlation decides how large a block is, whatever coverage is asked for

Paths = Mapping[str, Path | None]


@dataclass(frozen=True)
class Options:
    """
    How arrays are calibrated.

    Attributes
    ----------
    config
        The promise; groups follow from whether there are tokens.
    axes
        One of `arrays.LAYOUTS`, or None.
    floor
        Least width that distances are divided by; None takes a thousandth of the median predicted width.
    spread_weight
        Weight of the members' spread, for the score `ensemble`.
    """

    config: CalibrationConfig
    axes: str | None = None
    floor: float | None = None
    spread_weight: float = 1.0


@dataclass(frozen=True)
class Content:
    """
    What one reading of the arrays finds.

    Attributes
    ----------
    boxes
        For every image, the box around its voxels that are not masked; None where it has none.
    voxels
        Their number.
    range
        Least and largest truth.
    crossed
        Voxels whose quantiles do not rise.
    tokens
        Largest token; None without tokens.
    """

    boxes: list[Box | None]
    voxels: int
    range: tuple[float, float]
    crossed: int
    tokens: int | None


@dataclass(frozen=True, eq=False)
class Rules:
    """
    What is fixed before scores are counted.

    Attributes
    ----------
    score, groups
        Of all voxels.
    places
        Where the groups lie, for finding neighbours.
    assumed
        What the certificate has to say of all that.
    """

    score: Score
    groups: Groups
    places: Float64[np.ndarray, " group d"]
    assumed: tuple[str, ...]


def settings(values: Mapping[str, object]) -> CalibrationConfig:
    """
    A calibration's section of the configuration, checked as in a file.

    Raises
    ------
    ConfigError
        Names each wrong setting with its value and what is allowed.
    """
    return parse({"dataset": "arrays", "synthetic": {}, "calibration": dict(values)}, origin="options").calibration


def calibrate(paths: Paths, options: Options, out: Path) -> dict[str, object]:
    """
    Write `thresholds.json`, `scores.npz` and `certificate.json` into a folder; returns the certificate.

    Parameters
    ----------
    paths
        Of the arrays `lower`, `median`, `upper` and `truth`, and of `spread`, `mask` and `tokens` where there are such.

    Raises
    ------
    BehindTheNoiseError
        If the arrays do not fit together, or cannot carry the guarantee.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder, which may be new")
    arrays = Arrays.open(paths).with_axes(options.axes)
    config = options.config.model_copy(update={"groups": ("token",) if "tokens" in arrays.stored else ()})
    expect_spread(score_kind(config.score, ""), arrays)
    content = inspect(arrays)
    scores.expect_support(config.support, arrays.paths["truth"].name, *content.range)
    kind = kind_of(sum(box is not None for box in content.boxes), config.unit)
    expect_units(config, kind, content)
    rules = fix(options, arrays, content)
    expect_writable(out)
    counts, units = count(config, arrays, rules, content)
    log(f"calibrate: {content.voxels} voxels, {len(ids_of(counts))} units ({kind})")
    counted = counts.counted(0)
    chosen = choose(config, counted, merging_of(config, counted), again(arrays, rules, units))
    certificate = {
        **certified(config, counts, chosen, content, rules.assumed),
        "arrays": arrays.origins(),
        "behindthenoise": __version__,
    }
    (out / "levels.csv").unlink(missing_ok=True)  # it belongs to an earlier calibration
    counts_on_disk.write(out / "scores.npz", counts)
    calibration = Calibration((rules.score,), (rules.groups,), (chosen.thresholds,))
    thresholds_on_disk.write(out / "thresholds.json", calibration, [], config.coverage)
    write_json(out / "certificate.json", certificate)
    return certificate


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
        If the arrays do not fit the calibration or each other, or would be overwritten.
    """
    certificate = certificate_of(folder)
    calibration, _ = thresholds_on_disk.read(folder / "thresholds.json")
    (score,), (groups,), (thresholds,) = calibration.scores, calibration.groups, calibration.thresholds
    support = settings(cast(Mapping[str, object], certificate["settings"])).support
    arrays = Arrays.open(paths)
    expect_spread(score.kind, arrays)
    expect_tokens(groups.tokens, arrays)
    like = arrays.stored["lower"]
    suffix = ".zarr" if arrays.paths["lower"].is_dir() else ".npy"
    targets = [out / f"{name}{suffix}" for name in ("lower", "upper")]
    for target in targets:
        if target.exists():
            raise ConfigError(f"{target} exists, and nothing is overwritten; name another folder with --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    partial = [target.with_name(f"{target.name}.partial") for target in targets]
    writers = [writer(path, like) for path in partial]
    for region, block in arrays.blocks():
        for write, ends in zip(writers, _interval(score, thresholds, support, block), strict=True):
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
        If the folder is none that `calibrate` has written.
    """
    config = settings(cast(Mapping[str, object], certificate_of(folder)["settings"]))
    counts = counts_on_disk.read(folder / "scores.npz")
    counted = counts.counted(0)
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
        raise ConfigError(f"--out {out} cannot be written ({problem.strerror}); name a folder that can") from problem


def inspect(arrays: Arrays) -> Content:
    """
    Read all arrays once.

    Raises
    ------
    SourceError
        If all voxels are masked, or one that is not holds no number or no token.
    """
    boxes: list[Box | None] = [None] * arrays.shape[0]
    voxels = crossed = tokens = 0
    least, largest = inf, -inf
    for piece in arrays.voxels():
        expect_numbers(arrays, piece)
        if not piece.chosen.any():
            continue
        image, *start = piece.corner.tolist()
        for index, chosen in enumerate(piece.chosen, image):
            boxes[index] = _around(boxes[index], box_around(chosen), start)
        lower, median, upper = piece.quantiles
        truth = piece.values["truth"]
        voxels += truth.size
        crossed += int(np.count_nonzero((lower > median) | (median > upper)))
        least, largest = float(truth.min(initial=least)), float(truth.max(initial=largest))
        tokens = int(piece.values["tokens"].max(initial=tokens)) if "tokens" in piece.values else 0
    if not voxels:
        raise SourceError(
            f"--mask {arrays.paths['mask']} is 0 everywhere, so that nothing calibrates; it must be 1 where voxels count"
        )
    return Content(boxes, voxels, (least, largest), crossed, tokens if "tokens" in arrays.stored else None)


def expect_numbers(arrays: Arrays, piece: Voxels) -> None:
    """
    Refuse voxels that calibrate and have no number or no token.

    Raises
    ------
    SourceError
        Names the array and the first such voxel.
    """
    for name, values in piece.values.items():
        if name == "tokens":
            wrong, words = (values < 1) | (values > MOST_TOKENS), f"and tokens are counted from 1 to {MOST_TOKENS}"
        else:
            wrong, words = ~np.isfinite(values), "which is no number"
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            place = np.argwhere(piece.chosen)[first] + piece.corner
            where = ", ".join(map(str, place[-len(arrays.stored[name].shape) :].tolist()))
            raise SourceError(
                f"--{name} {arrays.paths[name]} holds {values[first]} at [{where}], {words}; mend such voxels, or leave them out "
                "by a --mask that is 0 there"
            )


def expect_spread(kind: scores.Kind, arrays: Arrays) -> None:
    """
    Refuse a spread without a use, and the need of one that is not there.

    Raises
    ------
    ConfigError
        If the score and the arrays do not fit.
    """
    if (kind == "ensemble") != ("spread" in arrays.stored):
        given = "was given" if "spread" in arrays.stored else "is missing"
        raise ConfigError(f"--spread {given}, and the score is {kind!r}; the score 'ensemble', and no other, divides by it")


def expect_tokens(count: int | None, arrays: Arrays) -> None:
    """
    Refuse tokens that the calibration does not know.

    Raises
    ------
    ConfigError
        If there are tokens on one side only, or unknown ones.
    """
    if (count is None) == ("tokens" in arrays.stored):
        given = "was given" if count is None else "is missing"
        raise ConfigError(
            f"--tokens {given}, and the calibration was made {'without' if count is None else 'with'} tokens; do the same"
        )
    if count is not None:
        alone = Arrays.open({"tokens": arrays.paths["tokens"]})
        found = {end for _, block in alone.blocks() for end in (int(block["tokens"].min()), int(block["tokens"].max()))}
        if min(found) < 0 or max(found) > count:
            raise ConfigError(
                f"--tokens {arrays.paths['tokens']} holds {min(found)} to {max(found)}, and the calibration knows 1 to {count}; "
                "use the same tokens, and 0 where there is none"
            )


def expect_units(config: CalibrationConfig, kind: Kind, content: Content) -> None:
    """
    Nothing, if so many units could carry the guarantee at best: when they all look alike.

    Raises
    ------
    CalibrationError
        Says how many it takes.
    """
    present = [box for box in content.boxes if box is not None]
    edge = SMALLEST_EDGE if config.block == "auto" else config.block
    units = len(present) if kind == "image" else len(present) * prod(Units.of(kind, edge, content.boxes).grid)
    sides = Score(score_kind(config.score, ""), floor=1.0).sides
    effective = inf if kind == "block" and config.unit == "auto" else None
    expect_feasible(config, sides, units, content.voxels, effective)


def fix(options: Options, arrays: Arrays, content: Content) -> Rules:
    """Score and groups; what is not given is taken from predictions alone, never from the truth."""
    kind, groups = score_kind(options.config.score, ""), Groups(None, content.tokens)
    is_open = options.floor is None and Score(kind, floor=1.0).is_scaled
    floor = _floor(arrays) if is_open else options.floor or 0.0
    assumed = (
        f"The least width that distances are divided by, {floor:.3g}, comes from the widths predicted for the calibration data; it "
        "changes scores where a width is next to nothing. --floor sets it."
    )
    return Rules(Score(kind, floor, options.spread_weight), groups, _places(arrays, groups), (assumed,) if is_open else ())


def count(config: CalibrationConfig, arrays: Arrays, rules: Rules, content: Content) -> tuple[Scored, Units]:
    """Scores of every side and group by unit, and the units."""
    kind = kind_of(sum(box is not None for box in content.boxes), config.unit)
    parts = [] if kind == "image" else read_parts(arrays, rules, content.boxes)
    radius = max((survey.correlation_radius(side, BLOCK_MISS) for side in parts), default=0)
    edge = block_edge(radius) if config.block == "auto" else config.block
    units = Units.of(kind, edge, content.boxes)
    bits: Literal[16, 32] = 32 if content.voxels <= LOSSLESS else 16
    tallies: dict[Cell, Tally] = defaultdict(lambda: Tally(bits))
    for rows, group, unit in scored(arrays, rules, units):
        for index in np.unique(group).tolist():
            chosen = group == index
            for side, row in enumerate(rows):
                tallies[Cell(0, side, index)].update(row[chosen], unit[chosen])
    effects = np.full((1, rules.score.sides, rules.groups.count, len(survey.MISSES)), np.nan)
    if kind == "block" and config.unit == "auto":
        effects[0] = [survey.effects(side, rules.groups.count) for side in parts]
    counts = Scored(
        scores=(rules.score,),
        groups=(rules.groups,),
        places=(rules.places,),
        histograms={cell: tally.histogram() for cell, tally in sorted(tallies.items())},
        # there is no noisy scan to compare with
        noisy=(merged([]),),
        effects=effects,
        noisy_effects=np.full((1, len(survey.MISSES)), np.nan),
        unit_kind=kind,
        unit_edge=edge,
        radius=radius,
    )
    return counts, units


def scored(
    arrays: Arrays, rules: Rules, units: Units
) -> Iterator[tuple[Float32[np.ndarray, " side n"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]]:
    """Scores, groups and units of all voxels, piece by piece."""
    for piece in arrays.voxels():
        if piece.chosen.any():
            yield *score_voxels(rules, piece), piece.units(units)


def score_voxels(rules: Rules, voxels: Voxels) -> tuple[Float32[np.ndarray, " side n"], Int64[np.ndarray, " n"]]:
    """Scores and groups."""
    values = voxels.values
    token = values.get("tokens", np.zeros(len(values["median"]), np.int64))
    found = scores.scores(rules.score, voxels.quantiles, values["truth"], values.get("spread"))
    return found, rules.groups.ids(values["median"], token)


def read_parts(arrays: Arrays, rules: Rules, boxes: Sequence[Box | None]) -> list[list[survey.Part]]:
    """For every side, the part of each image that holds most voxels, with scores and groups."""
    present = [(image, box) for image, box in enumerate(boxes) if box is not None]
    parts: list[list[survey.Part]] = [[] for _ in range(rules.score.sides)]
    for image, box in present:
        window = survey.fullest(arrays.valid(image), box, survey.LARGEST // len(present))
        voxels = arrays.voxels_in((slice(image, image + 1), *window))
        rows, ids = score_voxels(rules, voxels)
        group = np.full(voxels.chosen.shape, -1, np.int16)
        group[voxels.chosen] = ids
        for side, row in zip(parts, rows, strict=True):
            found = np.zeros(voxels.chosen.shape, np.float32)
            found[voxels.chosen] = row
            side.append(survey.Part(found, group))
    return parts


def again(arrays: Arrays, rules: Rules, units: Units) -> Callable[[int, Sequence[int]], Chunks]:
    """For a side and some groups, what reads their scores again."""

    def chunks_of(side: int, members: Sequence[int]) -> Chunks:
        def chunks() -> Iterable[tuple[np.ndarray, np.ndarray]]:
            for rows, group, unit in scored(arrays, rules, units):
                chosen = np.isin(group, members)
                yield rows[side][chosen], unit[chosen]

        return chunks

    return chunks_of


def certified(
    config: CalibrationConfig, counts: Scored, chosen: Chosen, content: Content, assumed: Sequence[str]
) -> dict[str, object]:
    """The certificate, but for what it was made from."""
    counted = counts.counted(0)
    basis = words.Basis(
        kind=counts.unit_kind,
        edge=counts.unit_edge,
        radius=counts.radius,
        units=len(ids_of(counts)),
        fields=sum(box is not None for box in content.boxes),
        scans=1,
        one_field=bool(np.isfinite(counts.effects).any()) and config.guarantee == "pac",
        groups=len(chosen.merging.members),
        grouped_by=config.groups,
    )
    flagged = [finding.sentence for side in counted.whole() for finding in shift.compare_units(side) if finding.flagged]
    if content.crossed:
        flagged.append(f"{content.crossed} of {content.voxels} voxels had quantiles out of order, which were sorted.")
    return {
        "statement": words.statement(config, basis),
        "assumptions": [*words.assumptions(config, basis), *assumed],
        "warnings": words.warnings(config, basis, [*flagged, *map(words.joined, chosen.merging.sentences)]),
        "merged": list(chosen.merging.sentences),
        "settings": config.model_dump(mode="json"),
        "miscoverage": str(config.miscoverage),
        "score": asdict(counts.scores[0]),
        "basis": asdict(basis),
        "thresholds": chosen.records,
        "other_guarantees": [
            {"guarantee": name, **row, "threshold": threshold}
            for name in GUARANTEES
            for row, threshold in at(config.model_copy(update={"guarantee": name}), counted, chosen.merging)
        ],
    }


def at(config: CalibrationConfig, counted: Counted, merging: Merging) -> Iterator[tuple[dict[str, str], float | None]]:
    """Side and groups of every class in words, and its threshold; None where the guarantee cannot be given."""
    for members in merging.members:
        for side, name in enumerate(SIDES[len(counted.sides)]):
            try:
                found: float | None = counted.find(config, side, members, len(merging.members)).threshold
            except CalibrationError:
                found = None
            yield {"side": name, "groups": " and ".join(counted.names[group] for group in members)}, found


def ids_of(counts: Scored) -> Int64[np.ndarray, " unit"]:
    """Units that have scores."""
    return np.unique(np.concatenate([histogram.units for histogram in counts.histograms.values()]))


def certificate_of(folder: Path) -> dict[str, object]:
    """
    The certificate in a folder that `calibrate` has written.

    Raises
    ------
    SourceError
        If the folder is none.
    """
    names = ("certificate.json", "thresholds.json", "scores.npz")
    if missing := [name for name in names if not (folder / name).exists()]:
        raise SourceError(f"--calibration {folder} holds no {missing[0]}; give the --out of `btn calibrate`")
    certificate = read_json(folder / "certificate.json")
    if "settings" not in certificate:
        raise SourceError(
            f"--calibration {folder} belongs to the workflow, which applies it itself; give the --out of `btn calibrate`"
        )
    return certificate


def _interval(
    score: Score,
    thresholds: Float32[np.ndarray, " side group"],
    support: tuple[float | None, float | None],
    block: Mapping[str, np.ndarray],
) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
    """Ends of the intervals of a block, computed piece by piece."""
    low, high = (np.empty_like(block["lower"]) for _ in range(2))
    # what has no token has no threshold
    table = np.concatenate([np.full((len(thresholds), 1), np.nan, np.float32), thresholds], axis=1)
    for piece in regions(low.shape):
        quantiles = np.stack([block[name][piece] for name in QUANTILES])
        own = table[:, block["tokens"][piece].astype(np.int64)] if "tokens" in block else thresholds[:, 0]
        spread = block["spread"][piece] if "spread" in block else None
        low[piece], high[piece] = scores.apply(score, quantiles, own, support, spread)
    return low, high


def _around(box: Box | None, other: Box | None, start: Sequence[int]) -> Box | None:
    """The box around one, and another that is counted from a corner."""
    if other is None:
        return box
    moved = tuple(slice(part.start + shift, part.stop + shift) for part, shift in zip(other, start, strict=True))
    if box is None:
        return moved
    return tuple(slice(min(one.start, two.start), max(one.stop, two.stop)) for one, two in zip(box, moved, strict=True))


def _floor(arrays: Arrays) -> float:
    """A small part of the median of the widths that are positive, as on training voxels; 1 where none is."""
    tally = Tally(16)
    for piece in arrays.voxels():
        lower, _, upper = scores.rearrange(*piece.quantiles)
        widths = (upper - lower)[upper > lower]
        tally.update(widths, np.zeros(widths.size, np.int64))
    found = tally.histogram()
    return FLOOR * found.value(found.bucket_of_rank((found.total + 1) // 2)) if found.total else 1.0


def _places(arrays: Arrays, groups: Groups) -> Float64[np.ndarray, " group d"]:
    """Each token at the median of its predicted medians, from counts, so that the order of reading does not matter."""
    if groups.tokens is None:
        return np.zeros((1, 0))
    tally = Tally(16)
    for piece in arrays.voxels():
        tally.update(piece.values["median"], piece.values["tokens"].astype(np.int64))
    found = tally.histogram()
    middle = found.value(found.bucket_of_rank((found.total + 1) // 2))
    places = np.full((groups.count, 1), middle)
    for token, bucket in zip(found.units.tolist(), found.unit_buckets((found.sizes + 1) // 2).tolist(), strict=True):
        places[token - 1] = found.value(bucket)
    return places
