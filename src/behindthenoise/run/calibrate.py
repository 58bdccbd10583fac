"""Verb `calibrate`: counted scores → thresholds, the certificate that says what they promise, and thresholds at every level."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import certificate as words
from behindthenoise.core.calibration import shift
from behindthenoise.core.calibration.guarantees import GUARANTEES
from behindthenoise.core.calibration.scores import expect_support
from behindthenoise.core.calibration.thresholds import Calibration, Chosen, choose, merging_of, request
from behindthenoise.core.calibration.units import Units
from behindthenoise.core.split import CALIBRATION
from behindthenoise.errors import CalibrationError
from behindthenoise.io import stores, tables
from behindthenoise.io.record import file_digest, log, write_json
from behindthenoise.io.tables import Value
from behindthenoise.run import scored as on_disk
from behindthenoise.run import thresholds as stored
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.scored import Rows, Scored
from behindthenoise.stages import Spec

LEVELS = tuple(range(1, 100))  # percent


def run(
    spec: Spec,
    *,
    pairs: Path,
    heldout: Path,
    labels: Path,
    shares: list[Path],
    scores: Path,
    thresholds: Path,
    certificate: Path,
    levels: Path,
) -> None:
    """Write the scores of all shares together, thresholds, certificate and the table of all levels."""
    config = spec.part("calibration", CalibrationConfig)
    source, counted = HeldOut.open(pairs, heldout, labels), on_disk.joined([on_disk.read(share) for share in shares])
    on_disk.write(scores, counted)
    channels = source.axes.channels
    expect_values_supported(config, source)
    chosen = thresholds_of(config, counted, source)
    calibration = Calibration(counted.scores, counted.groups, tuple(found.thresholds for found in chosen))
    noisy = [noisy_threshold(config, counted, channel) for channel in range(len(channels))]
    stored.write(thresholds, calibration, noisy, config.coverage)
    write_json(certificate, {**certified(config, counted, chosen, source), "spec": spec.as_data(), "scores": file_digest(scores)})
    tables.write(levels, levels_of(config, counted, chosen, channels))


def expect_values_supported(config: CalibrationConfig, source: HeldOut) -> None:
    """Refuse clean values outside the support, read block by block if there is one."""
    if config.support == (None, None):
        return
    count = len(source.axes.channels)
    least, largest = np.full(count, np.inf), np.full(count, -np.inf)
    for block in stores.blocks(source.clean):
        values = np.moveaxis(np.asarray(source.clean[block]), 1, 0).reshape(block[1].stop - block[1].start, -1)
        known = np.isfinite(values)
        least[block[1]] = np.minimum(least[block[1]], values.min(axis=1, where=known, initial=np.inf))
        largest[block[1]] = np.maximum(largest[block[1]], values.max(axis=1, where=known, initial=-np.inf))
    for channel, name in enumerate(source.axes.channels):
        expect_support(config.support, name, float(least[channel]), float(largest[channel]))


def thresholds_of(config: CalibrationConfig, counted: Scored, source: HeldOut) -> list[Chosen]:
    """Thresholds of every channel, exact: where scores were counted in buckets, the images are read again."""
    units = Units.of(counted.unit_kind, counted.unit_edge, source.boxes(int(CALIBRATION)))
    found = []
    for channel, name in enumerate(source.axes.channels):
        counts, read = counted.counted(channel), partial(rows_of, counted, source, units, channel)
        found.append(choose(config, counts, merging_of(config, counts), on_disk.again(read)))
        for row in found[-1].records:
            log(f"calibrate: {name}: " + ", ".join(f"{key} {value}" for key, value in row.items() if key != "groups"))
        for sentence in found[-1].merging.sentences:
            log(f"calibrate: {name}: {sentence}")
    return found


def rows_of(counted: Scored, source: HeldOut, units: Units, channel: int) -> Iterator[Rows]:
    """Scores of all calibration voxels in one channel."""
    for piece in source.pieces(int(CALIBRATION)):
        found = on_disk.score_piece(counted.scores, counted.groups, piece, channel)
        yield Rows(*found, units.ids(piece.image, piece.position))


def noisy_threshold(config: CalibrationConfig, counted: Scored, channel: int) -> float:
    """
    Threshold by which the noisy scan alone would hold, by the same guarantee; pooled where it cannot carry that.

    It is there for comparison: one threshold for all groups, not made exact where scores were counted in buckets.
    """
    histogram, dependence = counted.noisy[channel], counted.noisy_dependence[channel]
    asked = request(config, 1)
    if dependence.is_known:
        effect, blocks = dependence.at(float(config.miscoverage))
        asked = request(config, 1, effective=histogram.total / effect, blocks=blocks)
    try:
        return GUARANTEES[config.guarantee](histogram, asked).threshold
    except CalibrationError:
        return GUARANTEES["pooled"](histogram, asked).threshold


def certified(config: CalibrationConfig, counted: Scored, chosen: list[Chosen], source: HeldOut) -> dict[str, object]:
    """The certificate, but for what it was made from."""
    ids = np.unique(np.concatenate([histogram.units for histogram in counted.noisy]))
    groups = counted.groups[0]
    by = tuple(name for name, used in (("intensity", groups.edges is not None), ("token", groups.tokens is not None)) if used)
    basis = words.Basis(
        kind=counted.unit_kind,
        edge=counted.unit_edge,
        radius=counted.radius,
        blocks=words.fewest_blocks([row for found in chosen for row in found.records]),
        units=len(ids),
        fields=sum(box is not None for box in source.boxes(int(CALIBRATION))),
        scans=source.scans,
        one_field=counted.dependence.is_known and config.guarantee == "pac",
        groups=max(len(found.merging.members) for found in chosen),
        grouped_by=by,
    )
    channels = source.axes.channels
    flagged = [
        f"{name}: {finding.sentence}"
        for channel, name in enumerate(channels)
        for histogram in counted.counted(channel).whole()
        for finding in shift.compare_units(histogram)
        if finding.flagged
    ]
    merged_groups = by_sentence({name: found.merging.sentences for name, found in zip(channels, chosen, strict=True)})
    return {
        "statement": words.statement(config, basis),
        "assumptions": words.assumptions(config, basis),
        "warnings": words.warnings(config, basis, [*flagged, *(words.joined(line) for line in merged_groups)]),
        "checked": checked(source),
        "merged": merged_groups,
        "guarantee": config.guarantee,
        "coverage": config.coverage,
        "miscoverage": str(config.miscoverage),
        "failure": config.failure,
        "value_unit": source.axes.value_unit,
        "score": [asdict(score) for score in counted.scores],
        "basis": asdict(basis),
        "channels": [{"channel": name, **row} for name, found in zip(channels, chosen, strict=True) for row in found.records],
        "other_guarantees": others(config, counted, chosen, channels),
    }


def by_sentence(told: Mapping[str, Sequence[str]]) -> list[str]:
    """Each sentence once, after the channels that it is true of."""
    channels: dict[str, list[str]] = {}
    for name, sentences in told.items():
        for sentence in sentences:
            channels.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in channels.items()]


def checked(source: HeldOut) -> list[str]:
    """What earlier stages have made sure of; each would have refused to go on."""
    difference = source.tiling_difference
    tiles = f"differ by at most {difference:.1g} of the data's spread" if difference else "gave the same, bit for bit"
    apart = f"at least {source.gap} voxels lie between them" if source.gap else "they are different images"
    return [
        f"Training, calibration and test voxels are apart: {apart}, so that no receptive field reaches from one into another.",
        f"Predictions do not depend on tiles: two sizes {tiles}.",
        "All constants of scale come from training voxels; no image and no tile is scaled by its own values.",
    ]


def others(config: CalibrationConfig, counted: Scored, chosen: list[Chosen], channels: Sequence[str]) -> list[dict[str, object]]:
    """Thresholds that each guarantee would give for the same groups; None where the calibration data cannot carry it."""
    rows: list[dict[str, object]] = []
    for guarantee in GUARANTEES:
        asked = config.model_copy(update={"guarantee": guarantee})
        for channel, name in enumerate(channels):
            rows += [
                {"guarantee": guarantee, "channel": name, "side": side, "groups": list(members), "threshold": threshold}
                for side, members, threshold in counted.counted(channel).by_class(asked, chosen[channel].merging)
            ]
    return rows


def levels_of(config: CalibrationConfig, counted: Scored, chosen: list[Chosen], channels: Sequence[str]) -> list[dict[str, Value]]:
    """Thresholds at every level in percent, by the guarantee of the configuration and with its classes of groups."""
    rows: list[dict[str, Value]] = []
    for channel, name in enumerate(channels):
        counts = counted.counted(channel)
        for level in LEVELS:
            asked = config.model_copy(update={"coverage": level / 100})
            rows += [
                {
                    "channel": name,
                    "level": level,
                    "side": side,
                    "group": group,
                    "threshold": np.inf if threshold is None else threshold,
                }
                for side, members, threshold in counts.by_class(asked, chosen[channel].merging)
                for group in members
            ]
    return rows
