"""
False discovery proportion and power of `regions` on generated fields whose errors depend on each other inside units.

    python bench/regions.py --fields 200

A field's truth is smooth and its level differs from field to field, so that some have much above the limit and some little. Errors
are 70 % a smooth field and 30 % white, times a scale that varies over the field, times exp(0.3 u) for each field, plus an offset of
0.4 standard deviations for each field; intervals know that scale, but not exactly. All is drawn anew for each line of `--fields`:
the calibration units, and the volume. Rivals: the median above the limit; conformal p-values that take all pixels for independent
(Benjamini-Hochberg over the candidates, Jin & Candes 2023); and the whole new unit counted as false, whatever its evidence.
The second table has one stationary field to calibrate on, and another one as the volume.
"""

import argparse
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.ndimage import gaussian_filter

from behindthenoise.core import discovery
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.discovery import Limit

EDGE, FIELD = 48, 192
RULES = ("regions", "median", "pixels", "whole unit")


@dataclass(frozen=True)
class Case:
    """One line of the table: calibration units, units of the volume, share of the area above the limit."""

    units: int
    volume: int
    share: float

    @property
    def limit(self) -> Limit:
        return Limit(NormalDist().inv_cdf(1 - self.share), above=True)


@dataclass(frozen=True)
class Drawn:
    """Evidence and truth of some units, (unit, pixel), and the units' number."""

    evidence: np.ndarray
    is_true: np.ndarray


def smooth(random: np.random.Generator, count: int, reach: float) -> np.ndarray:
    """Smooth fields of unit variance."""
    field = gaussian_filter(random.normal(size=(count, EDGE, EDGE)), (0, reach, reach), mode="wrap")
    return field / field.std()


def draw(random: np.random.Generator, count: int, limit: Limit) -> Drawn:
    """Fields that are one unit each."""
    each = (count, 1, 1)
    truth = 0.8 * smooth(random, count, 6) + 0.6 * random.normal(size=each)
    scale = 0.5 * np.exp(0.3 * smooth(random, count, 8))
    inside = np.sqrt(0.7) * smooth(random, count, 4) + np.sqrt(0.3) * random.normal(size=truth.shape)
    error = np.exp(0.3 * random.normal(size=each)) * inside + 0.4 * random.normal(size=each)
    median, half = truth + scale * error, 1.645 * scale * np.exp(0.15 * smooth(random, count, 8))
    lower, median, upper = (values.reshape(count, -1).astype(np.float32) for values in (median - half, median, median + half))
    return Drawn(limit.evidence(lower, median, upper), limit.is_met(truth.reshape(count, -1).astype(np.float32)))


def selected(rule: str, calibration: Drawn, evidence: np.ndarray, level: float) -> np.ndarray:
    """Which pixels of the volume a rule selects."""
    if rule == "median":
        return evidence > 0
    wrong = calibration.evidence[(calibration.evidence > 0) & ~calibration.is_true]
    units, pixels = calibration.evidence.shape
    table = table_of(wrong, (units * pixels, None), units)
    beyond = discovery.count(table, evidence, (1, pixels))
    if rule == "regions":
        return (discovery.levels(table, beyond) <= level)[table.step(evidence)]
    candidates = (calibration.evidence > 0).sum(axis=1)
    new = candidates.max() if rule == "whole unit" else 1
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = beyond[0, 1] * (new + table.false) / (new + candidates.sum()) / beyond[0]
    expected[0] = np.inf
    return (np.minimum.accumulate(expected) <= level)[table.step(evidence)]


def table_of(wrong: np.ndarray, sizes: tuple[int, int | None], units: int) -> discovery.Table:
    """Table of the evidences of false pixels."""
    return discovery.Table.of(Histogram.of(wrong, np.zeros(wrong.size, np.int64)), sizes, units)


def draw_field(random: np.random.Generator, reach: int, limit: Limit) -> tuple[np.ndarray, np.ndarray]:
    """Evidence and truth of one stationary field; neither level nor scale is its own."""
    size = FIELD + 96  # twice four of the longest reach are cut off

    def smooth_field(reach: float) -> np.ndarray:
        field = gaussian_filter(random.normal(size=(size, size)), reach, mode="wrap") * 2 * np.sqrt(np.pi) * reach
        return field[48:-48, 48:-48]

    truth, scale = smooth_field(8), 0.4 * np.exp(0.3 * smooth_field(12))
    median = truth + scale * (np.sqrt(0.7) * smooth_field(reach) + np.sqrt(0.3) * random.normal(size=truth.shape))
    half = 1.645 * scale * np.exp(0.15 * smooth_field(12))
    lower, median, upper, truth = (values.astype(np.float32) for values in (median - half, median, median + half, truth))
    return limit.evidence(lower, median, upper), limit.is_met(truth)


def simulate_fields(share: float, reach: int, fields: int, level: float, seed: int) -> dict[str, np.ndarray]:
    """As `simulate`, with one calibration field for each volume, which is another field."""
    random, limit = np.random.default_rng(seed), Case(1, 1, share).limit
    found = {rule: np.full((2, fields), np.nan) for rule in ("regions", "median")}
    for index in range(fields):
        (evidence, is_true), (new, truth) = draw_field(random, reach, limit), draw_field(random, reach, limit)
        wrong = np.where(is_true, 0, np.maximum(evidence, 0)).astype(np.float32)
        effect = discovery.effect([(wrong[np.newaxis], np.ones(wrong.shape, bool))])
        table = table_of(wrong[wrong > 0], (wrong.size, int((evidence > 0).sum())), int(wrong.size / effect))
        by_step = discovery.levels(table, discovery.count(table, new, discovery.cube(effect, new.shape)))
        for rule, marked in (("regions", (by_step <= level)[table.step(new)]), ("median", new > 0)):
            right = int((marked & truth).sum())
            found[rule][:, index] = 1 - right / marked.sum() if marked.any() else 0.0, right / max(truth.sum(), 1)
    return found


def cell(rates: np.ndarray) -> str:
    """Mean false discovery proportion with its interval, and mean power."""
    error = 1.96 * rates[0].std() / np.sqrt(rates.shape[1])
    return f"{rates[0].mean():.3f} ± {error:.3f}, {np.nanmean(rates[1]):.2f}"


def simulate(case: Case, fields: int, level: float, seed: int) -> dict[str, np.ndarray]:
    """False discovery proportion and power, (2, fields), of each rule; a volume without anything to find has no power."""
    random = np.random.default_rng(seed)
    found = {rule: np.full((2, fields), np.nan) for rule in RULES}
    for index in range(fields):
        calibration, volume = draw(random, case.units, case.limit), draw(random, case.volume, case.limit)
        for rule, rows in found.items():
            marked = selected(rule, calibration, volume.evidence, level)
            right = int((marked & volume.is_true).sum())
            rows[0, index] = 1 - right / marked.sum() if marked.any() else 0.0
            rows[1, index] = right / volume.is_true.sum() if volume.is_true.any() else np.nan
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=200)
    parser.add_argument("--level", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"false discovery proportion (95 % interval) and power, {options.fields} fields a line, level {options.level:g}")
    print("| units | volume | above | " + " | ".join(RULES) + " |")
    print("|---" * (3 + len(RULES)) + "|")
    cases = [Case(*row) for row in ((12, 1, 0.3), (30, 1, 0.3), (100, 1, 0.3), (30, 1, 0.03), (100, 1, 0.03))]
    cases += [Case(*row) for row in ((30, 9, 0.3), (100, 9, 0.3), (12, 9, 0.03), (100, 9, 0.03))]
    for case in cases:
        cells = [cell(rates) for rates in simulate(case, options.fields, options.level, options.seed).values()]
        print(f"| {case.units} | {case.volume} | {case.share:g} | " + " | ".join(cells) + " |", flush=True)
    print("| one field, reach | above | regions | median |")
    print("|---" * 4 + "|")
    for share, reach in ((0.3, 2), (0.3, 5), (0.03, 2), (0.03, 5)):
        found = simulate_fields(share, reach, options.fields, options.level, options.seed)
        print(f"| {reach} | {share:g} | " + " | ".join(map(cell, found.values())) + " |", flush=True)


if __name__ == "__main__":
    main()
