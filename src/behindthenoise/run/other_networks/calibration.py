"""
Verb `calibrate` without a specification: predictions and truth as arrays → thresholds, counted scores and the certificate.

What the workflow finds in its stores, and fixes on training voxels, comes from NPY files, Zarr arrays and options here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from behindthenoise import __version__
from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import certificate as words
from behindthenoise.core.calibration import scores, shift, survey
from behindthenoise.core.calibration.constants import FLOOR
from behindthenoise.core.calibration.dependence import equal_units
from behindthenoise.core.calibration.groups import Groups, Merging
from behindthenoise.core.calibration.guarantees import GUARANTEES
from behindthenoise.core.calibration.histogram import Histogram, Tally, merged
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.thresholds import Calibration, Chosen, Counted, choose, expect_enough, merging_of
from behindthenoise.core.calibration.thresholds import kind_of as score_kind
from behindthenoise.core.calibration.units import Box, Units, kind_of
from behindthenoise.io.record import file_digest, log, write_json
from behindthenoise.run import scored as counts_on_disk
from behindthenoise.run import thresholds as thresholds_on_disk
from behindthenoise.run.other_networks import checks
from behindthenoise.run.other_networks.arrays import Arrays, Voxels
from behindthenoise.run.other_networks.checks import Content
from behindthenoise.run.other_networks.folder import CERTIFICATE, COUNTS, THRESHOLDS, Paths, expect_no_file, expect_writable
from behindthenoise.run.scored import Rows, Scored, Tallies

# Scores that are kept one by one; beyond, they are counted in buckets, and thresholds are made exact by reading again.
LOSSLESS = 1 << 20

SIDES = {1: ("both",), 2: ("below", "above")}


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
    expect_no_file(out)
    arrays = Arrays.open(paths).with_axes(options.axes)
    config = options.config.model_copy(update={"groups": ("token",) if "tokens" in arrays.stored else ()})
    checks.expect_spread(score_kind(config.score, ""), arrays)
    content = checks.inspect(arrays)
    checks.expect_support(config, arrays, content)
    kind = kind_of(sum(box is not None for box in content.boxes), config.unit)
    checks.expect_block(config, kind, content)
    expect_enough(config, "", map(arrays.valid, range(arrays.shape[0])), 1)
    rules = fix(options, arrays, content)
    expect_writable(out)
    counts, units = count(config, arrays, rules, content)
    log(f"calibrate: {content.voxels} voxels, {len(ids_of(counts))} units ({kind})")
    if content.rounded:
        log(f"calibrate: {words.rounded(content.rounded)}")
    counted = replace(counts.counted(0), unit=kind)
    chosen = choose(config, counted, merging_of(config, counted), counts_on_disk.again(partial(scored, arrays, rules, units)))
    (out / "levels.csv").unlink(missing_ok=True)  # it belongs to an earlier calibration
    counts_on_disk.write(out / COUNTS, counts)
    calibration = Calibration((rules.score,), (rules.groups,), (chosen.thresholds,))
    thresholds_on_disk.write(out / THRESHOLDS, calibration, [], config.coverage)
    certificate = {
        **certified(config, counts, chosen, content, rules.assumed),
        "arrays": arrays.origins(),
        "files": {name: file_digest(out / name) for name in (COUNTS, THRESHOLDS)},
        "behindthenoise": __version__,
    }
    write_json(out / CERTIFICATE, certificate)
    return certificate


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
    radius, edge = survey.blocks(parts, config.block)
    units = Units.of(kind, edge, content.boxes)
    bits: Literal[16, 32] = 32 if content.voxels * rules.score.sides <= LOSSLESS else 16
    tallies = Tallies(bits)
    for rows in scored(arrays, rules, units):
        tallies.update(0, rows)
    dependence = survey.Dependence.unknown(1, rules.score.sides, rules.groups.count)
    if kind == "block" and config.unit == "auto":
        dependence = survey.stacked([survey.stacked([survey.measure(side, rules.groups.count) for side in parts])])
    counts = Scored(
        scores=(rules.score,),
        groups=(rules.groups,),
        places=(rules.places,),
        histograms=tallies.histograms(),
        # there is no noisy scan to compare with
        noisy=(merged([]),),
        dependence=dependence,
        noisy_dependence=survey.Dependence.unknown(1),
        unit_kind=kind,
        unit_edge=edge,
        radius=radius,
    )
    return counts, units


def scored(arrays: Arrays, rules: Rules, units: Units) -> Iterator[Rows]:
    """Scores, groups and units of all voxels, piece by piece."""
    for piece in arrays.voxels():
        if piece.chosen.any():
            yield Rows(*score_voxels(rules, piece), piece.units(units))


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
        window = survey.fullest(arrays.valid(image), box, survey.room(len(present), rules.score.sides))
        voxels = arrays.voxels_in((slice(image, image + 1), *window))
        rows, ids = score_voxels(rules, voxels)
        group = np.full(voxels.chosen.shape, -1, np.int16)
        group[voxels.chosen] = ids
        for side, row in zip(parts, rows, strict=True):
            found = np.zeros(voxels.chosen.shape, np.float32)
            found[voxels.chosen] = row
            side.append(survey.Part(found, group))
    return parts


def certified(
    config: CalibrationConfig, counts: Scored, chosen: Chosen, content: Content, assumed: Sequence[str]
) -> dict[str, object]:
    """The certificate, but for what it was made from."""
    counted = counts.counted(0)
    basis = words.Basis(
        kind=counts.unit_kind,
        edge=counts.unit_edge,
        radius=counts.radius,
        blocks=words.fewest_blocks(chosen.records),
        units=len(ids_of(counts)),
        fields=sum(box is not None for box in content.boxes),
        scans=1,
        one_field=counts.dependence.is_known and config.guarantee == "pac",
        groups=len(chosen.merging.members),
        grouped_by=config.groups,
    )
    rounded = [words.rounded(content.rounded)] if content.rounded else []
    flagged = [*flags(config, counted.whole(), basis, content), *map(words.joined, chosen.merging.sentences)]
    return {
        "statement": words.statement(config, basis),
        "assumptions": [*words.assumptions(config, basis), *assumed, *rounded],
        "warnings": words.warnings(config, basis, flagged),
        "merged": list(chosen.merging.sentences),
        "unseen_tokens": (1 + np.flatnonzero(counted.pixels == 0)).tolist(),
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


def flags(config: CalibrationConfig, sides: Sequence[Histogram], basis: words.Basis, content: Content) -> list[str]:
    """What the arrays show that weakens the promise, or is not what was meant."""
    found = [finding.sentence for side in sides for finding in shift.compare_units(side) if finding.flagged]
    if content.crossed:
        found.append(f"{content.crossed} of {content.voxels} voxels had quantiles out of order, which were sorted.")
    if content.exact == content.voxels:
        found.append(
            "The lower quantile, median and upper quantile of every voxel are its truth: check that --truth is what was measured. "
            "Intervals end one or two float32 numbers beyond the predictions (at 3e-45 beside 0), as they are rounded outwards."
        )
    equal = equal_units(sides[0].sizes)
    if config.guarantee == "pac" and not basis.one_field and equal < basis.units / 2:
        found.append(words.uneven(basis.kind, basis.units, equal))
    if basis.kind == "image" and config.block != "auto":
        found.append(f"--block {config.block} was not used: the {basis.units} images are the units.")
    return found


def at(config: CalibrationConfig, counted: Counted, merging: Merging) -> Iterator[tuple[dict[str, str], float | None]]:
    """Side and groups of every class in words, and its threshold; None where the guarantee cannot be given."""
    names = SIDES[len(counted.sides)]
    for side, members, found in counted.by_class(config, merging):
        yield {"side": names[side], "groups": " and ".join(counted.names[group] for group in members)}, found


def ids_of(counts: Scored) -> Int64[np.ndarray, " unit"]:
    """Units that have scores."""
    return np.unique(np.concatenate([histogram.units for histogram in counts.histograms.values()]))


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
