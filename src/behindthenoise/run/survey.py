"""Verb `survey`: held-out quantiles and truth → what scores are counted by: their constants, groups, units, and dependence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import constants, survey, thresholds
from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.units import Box, kind_of
from behindthenoise.core.split import CALIBRATION
from behindthenoise.io import stores
from behindthenoise.io.record import log
from behindthenoise.run import models, scored, token_models
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.models import Sample
from behindthenoise.run.scored import Scored
from behindthenoise.stages import Spec


def run(spec: Spec, *, pairs: Path, heldout: Path, labels: Path, tokens: Path, latents: list[Path], rules: Path) -> None:
    """Write the rules: scores without counts."""
    config = spec.part("calibration", CalibrationConfig)
    source = HeldOut.open(pairs, heldout, labels)
    centres = token_models.read(tokens).centres
    fixed = fit(config, source, pairs, [sample.of_training for sample in models.read_samples(latents)], len(centres))
    boxes = source.boxes(int(CALIBRATION))
    kind = kind_of(sum(box is not None for box in boxes), config.unit)
    parts, noisy_parts = ([], []) if kind == "image" else read_parts(source, fixed, boxes)
    radius, edge = survey.blocks((rows for sides in parts for rows in sides), config.block)
    dependence, noisy_dependence = survey.Dependence.unknown(*shape_of(fixed)), survey.Dependence.unknown(len(fixed.scores))
    if kind == "block" and config.unit == "auto":
        dependence, noisy_dependence = measured(parts, fixed), survey.stacked([survey.measure(rows, 1)[0] for rows in noisy_parts])
    log(f"survey: {source.voxels(int(CALIBRATION))} voxels in {sum(box is not None for box in boxes)} images; a unit is one {kind}")
    if kind == "block":
        log(f"survey: misses are correlated over {radius} voxels, blocks of {edge}")
    places = tuple(groups.places(bins, centres) for groups, bins in zip(fixed.groups, fixed.intensities, strict=True))
    scored.write(rules, Scored(fixed.scores, fixed.groups, places, {}, (), dependence, noisy_dependence, kind, edge, radius))


@dataclass(frozen=True)
class Rules:
    """What is fixed on training voxels: scores and groups of every channel, and where the groups lie."""

    scores: tuple[Score, ...]
    groups: tuple[Groups, ...]
    intensities: tuple[Float64[np.ndarray, " _"], ...]


def fit(config: CalibrationConfig, source: HeldOut, pairs: Path, samples: list[Sample], tokens: int) -> Rules:
    """The rules, from the ensemble's quantiles on sampled training voxels."""
    kind = thresholds.kind_of(config.score, source.axes.value_unit)
    quantiles = np.mean([sample.quantiles for sample in samples], axis=0)
    spread = np.std([sample.quantiles[1] for sample in samples], axis=0)
    truth = clean_at(pairs, samples[0].voxels)
    scores, groups, intensities = [], [], []
    for channel in range(len(truth)):
        median = quantiles[1, channel]
        scores.append(constants.fit_score(kind, quantiles[:, channel], truth[channel], spread[channel]))
        edges = constants.fit_edges(median, config.intensity_bins) if "intensity" in config.groups else None
        groups.append(Groups(edges, tokens if "token" in config.groups else None))
        part = np.zeros(median.size, int) if edges is None else np.searchsorted(edges, median, side="right")
        means = np.bincount(part, median, groups[-1].bins) / np.maximum(np.bincount(part, minlength=groups[-1].bins), 1)
        intensities.append((means - median.mean()) / (median.std() or 1.0))
    return Rules(tuple(scores), tuple(groups), tuple(intensities))


def clean_at(pairs: Path, voxels: np.ndarray) -> np.ndarray:
    """Clean values of every channel at flat indices into (image, *space), (c, n)."""
    clean = stores.whole_array(stores.open_group(pairs), "clean")
    image, *position = np.unravel_index(voxels, (clean.shape[0], *clean.shape[2:]))
    found = np.empty((clean.shape[1], voxels.size), np.float32)
    for index in np.unique(image).tolist():
        chosen = image == index
        found[:, chosen] = np.asarray(clean[index])[(slice(None), *(axis[chosen] for axis in position))]
    return found


def read_parts(
    source: HeldOut, rules: Rules, boxes: list[Box | None]
) -> tuple[list[list[list[survey.Part]]], list[list[survey.Part]]]:
    """Middle of each field with scores and groups, for every channel and side; and that of the noisy scan, for every channel."""
    present = [(image, box) for image, box in enumerate(boxes) if box is not None]
    largest = survey.room(len(present), source.scans * sum(1 + score.sides for score in rules.scores)) if present else 0
    parts: list[list[list[survey.Part]]] = [[[] for _ in range(score.sides)] for score in rules.scores]
    noisy_parts: list[list[survey.Part]] = [[] for _ in rules.scores]
    for image, box in present:
        chosen = np.asarray(source.role[image]) == CALIBRATION
        window = survey.fullest(chosen, box, largest)
        shape, start = tuple(part.stop - part.start for part in window), np.array([part.start for part in window])[:, None]
        values = [np.zeros((score.sides, source.scans, *shape), np.float32) for score in rules.scores]
        group = np.full((len(rules.scores), source.scans, *shape), -1, np.int16)
        noisy = np.zeros((len(rules.scores), source.scans, *shape), np.float32)
        for piece in source.pieces(int(CALIBRATION), (image, window)):
            where = tuple(piece.position - start)
            noisy[(slice(None), piece.scan, *where)] = np.abs(piece.noisy - piece.truth)
            for channel, found in enumerate(values):
                found[(slice(None), piece.scan, *where)], group[(channel, piece.scan, *where)] = scored.score_piece(
                    rules.scores, rules.groups, piece, channel
                )
        for channel, found in enumerate(values):
            for side, rows in enumerate(found):
                parts[channel][side].append(survey.Part(rows, group[channel]))
            noisy_parts[channel].append(survey.Part(noisy[channel], np.minimum(group[channel], 0)))
    return parts, noisy_parts


def measured(parts: list[list[list[survey.Part]]], rules: Rules) -> survey.Dependence:
    """Dependence of misses by channel, side and group."""
    _, _, groups = shape_of(rules)
    return survey.stacked([survey.stacked([survey.measure(rows, groups) for rows in sides]) for sides in parts])


def shape_of(rules: Rules) -> tuple[int, int, int]:
    """Channels, sides, and groups of the channel that has most."""
    return len(rules.scores), rules.scores[0].sides, max(groups.count for groups in rules.groups)
