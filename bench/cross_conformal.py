"""
Few images: give up a part of them for calibration, or score each by the members that did not train on it? By simulation.

There are K units in all: images of 48 x 48 pixels. A clean image has two soft-edged phases; the noisy one has noise that grows
with the signal. In the scenario "images", each image has its own noise, contrast and offset, so that images are the units; in
"field" they are blocks of one field and differ by chance alone. A member is a ridge regression of the clean pixel, and of the
logarithm of its error on the training pixels, on a random third of the columns: a 7 x 7 patch and 150 random features of it. An
ensemble averages its members' quantiles.

    split     all members train on some of the units, the rest calibrates: a half, a quarter, or just the five images that count
    folds     each member leaves out one of at most 10 folds; a unit is scored by the members that left it out
    bags      each member leaves out 3 of 10 units, drawn at random; scored likewise

New pixels get the interval of all members; or of the committee that scored one calibration unit, drawn at random (as many members
as at calibration); or the one that counts all committees with their scores (CV+, Barber et al. 2021, arXiv:1905.02928). As in
the pipeline, images are the units from five calibration images on. With fewer, and always in a field, pac takes the integral range
of the misses, and crc takes quarters of the images for units.

Columns: units, images or quarters; members at calibration and test; root mean square error of the median, and width at the
threshold that is exact on new pixels, both over those of an ensemble trained on all units; coverage without a guarantee (pooled);
then for pac and crc the share of repetitions without a threshold, with coverage below 0.9, mean coverage, and width over that of
the ensemble trained on all units at its exact threshold. Means and widths leave out repetitions without a threshold.

    python bench/cross_conformal.py
    python bench/cross_conformal.py --members 40 --units 12 20 --repetitions 100
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from coverage import REQUEST, gaussian_fields
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit

from behindthenoise.core.calibration.dependence import field_design
from behindthenoise.core.calibration.guarantees import GUARANTEES, Request
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.calibration.units import ENOUGH_IMAGES
from behindthenoise.errors import CalibrationError

EDGE, PATCH = 48, 7
QUARTER = EDGE // 2
# Members learn from every fourth pixel along each axis, so that they have about as many coefficients as a unit has such pixels.
STRIDE, SEEN = 4, 0.3
NORMAL_95 = 1.6449
# Mean of log |z| for a standard normal z.
LOG_NORMAL = -0.6352
FOLDS, LEFT_OUT = 10, 0.3
TARGET = float(1 - REQUEST.miscoverage)
# A CV+ interval needs all scores at each pixel: few pixels, and quantiles of the scores of a unit.
CV_PIXELS, CV_QUANTILES = 500, 64
# Streams of randomness of one seed; those from 4 on are the numbers of units.
NEW, BANK, LEAST = 1, 2, 4
PROMISES = ("pac", "crc")
HEADER = f"{'':>6} {'K':>3} {'way':>12} units   members   rmse  exact pooled" + "".join(
    f" | {guarantee:>5} fail   cover  width" for guarantee in PROMISES
)


class Scenario(NamedTuple):
    """Effects of an image on noise (tau, logarithmic), contrast (gamma, logarithmic) and mean (beta, in units of contrast)."""

    tau: float
    gamma: float
    beta: float
    images: bool


SCENARIOS = {"images": Scenario(0.3, 0.3, 0.05, True), "field": Scenario(0, 0, 0, False)}


class Pixels(NamedTuple):
    """Features (unit, pixel, feature) and clean values (unit, pixel)."""

    features: np.ndarray
    clean: np.ndarray


class Learner(NamedTuple):
    """Weights of the random features of a patch (column, feature), used beside the patch itself; number of members; penalty."""

    weights: np.ndarray
    members: int
    ridge: float


class Members(NamedTuple):
    """Median and half width of each member, (..., member)."""

    median: np.ndarray
    half: np.ndarray

    def averaged(self, shares: np.ndarray) -> "Members":
        """By committees, each a column of weights that sum to 1; (..., committee)."""
        return Members(self.median @ shares, self.half @ shares)


def images(scenario: Scenario, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a margin for patches, and clean ones without; (count, edge, edge)."""
    whole, margin = EDGE + PATCH - 1, PATCH // 2
    u, v, w = rng.standard_normal((3, count, 1, 1))
    phase = expit(4 * gaussian_fields(count, whole + 26, 4.0, rng)[:, :whole, :whole])
    clean = np.exp(scenario.gamma * w) * phase
    noise = 0.4 * np.exp(scenario.tau * u) * (0.5 + phase) * rng.standard_normal(clean.shape)
    inner = slice(margin, -margin)
    return clean + noise, (clean + scenario.beta * v)[:, inner, inner]


def pixels(scenario: Scenario, learner: Learner, count: int, rng: np.random.Generator, kept: int = EDGE * EDGE) -> Pixels:
    """Features and clean values of `kept` pixels of each of new images."""
    noisy, clean = images(scenario, count, rng)
    patches = sliding_window_view(noisy, (PATCH, PATCH), axis=(1, 2)).reshape(count, EDGE * EDGE, PATCH * PATCH)
    clean = clean.reshape(count, -1)
    if kept < EDGE * EDGE:
        chosen = rng.permuted(np.tile(np.arange(EDGE * EDGE), (count, 1)), axis=1)[:, :kept]
        patches, clean = np.take_along_axis(patches, chosen[:, :, None], 1), np.take_along_axis(clean, chosen, 1)
    patches = patches.astype(np.float32)
    linear = np.concatenate([np.ones((*patches.shape[:2], 1), np.float32), patches], axis=2)
    return Pixels(np.concatenate([linear, np.maximum(linear @ learner.weights, 0)], axis=2), clean.astype(np.float32))


def learner_of(features: int, members: int, ridge: float, rng: np.random.Generator) -> Learner:
    """A bank of ReLU features that look at smooth parts of a patch, at random levels."""
    offset = np.linspace(-1, 1, PATCH)
    centre, reach = rng.uniform(-0.6, 0.6, (2, features)), rng.uniform(0.2, 1, features)
    bell = np.exp(-((offset[:, None, None] - centre[0]) ** 2 + (offset[None, :, None] - centre[1]) ** 2) / (2 * reach**2))
    bell = (bell * (1 + 0.5 * rng.standard_normal(bell.shape))).reshape(-1, features)
    sign = rng.choice([-1, 1], features)
    slopes = sign * bell / bell.sum(axis=0)
    level = -sign * rng.uniform(-0.2, 1.2, features)
    return Learner(np.concatenate([level[None], slopes]).astype(np.float32), members, ridge)


def trained(learner: Learner, data: Pixels, uses: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the median and of the logarithm of the error, (feature, member); `uses`: (member, unit)."""
    lattice = np.arange(0, EDGE, STRIDE)
    chosen = np.add.outer(EDGE * lattice, lattice).ravel()
    features, clean, used = data.features[:, chosen], data.clean[:, chosen, None], uses.astype(np.float64)
    size = features.shape[2]
    seen = rng.permuted(np.tile(np.arange(1, size), (len(uses), 1)), axis=1)[:, : round(SEEN * size)]
    seen = np.concatenate([np.zeros((len(uses), 1), int), seen], axis=1)
    gram = np.tensordot(used, features.transpose(0, 2, 1) @ features, axes=1)
    gram = gram[np.arange(len(uses))[:, None, None], seen[:, :, None], seen[:, None, :]]
    inverse = np.linalg.inv(gram + learner.ridge * np.eye(seen.shape[1]))

    def fitted(targets: np.ndarray) -> np.ndarray:
        products = np.einsum("mk,kpm->mp", used, features.transpose(0, 2, 1) @ targets)
        coefficients = np.zeros((size, len(uses)), np.float32)
        values = inverse @ np.take_along_axis(products, seen, axis=1)[:, :, None]
        np.put_along_axis(coefficients, seen.T, values[:, :, 0].T.astype(np.float32), axis=0)
        return coefficients

    median = fitted(np.repeat(clean, len(uses), axis=2))
    return median, fitted(np.log(np.abs(clean - features @ median) + np.float32(1e-3)))


def predicted(coefficients: tuple[np.ndarray, np.ndarray], features: np.ndarray) -> Members:
    """What each member says of pixels; no error is taken for more than 1, twice the spread of the clean values."""
    median, error = np.split(features @ np.concatenate(coefficients, axis=1), 2, axis=-1)
    return Members(median, np.float32(NORMAL_95) * np.exp(np.minimum(error - np.float32(LOG_NORMAL), 0)))


class Test(NamedTuple):
    """New pixels, far more of them than any ensemble is trained on; (pixel, feature) and (pixel,)."""

    features: np.ndarray
    clean: np.ndarray


class Outcome(NamedTuple):
    """What intervals do on new pixels."""

    coverage: float
    width: float


def tested(said: Members, test: Test, threshold: float) -> Outcome:
    """Of the committees in the columns, one of which is drawn at random."""
    half = np.maximum(said.half + np.float32(threshold), 0)
    return Outcome(float(np.mean(np.abs(test.clean[:, None] - said.median) <= half)), float(2 * half.mean()))


def exact_threshold(said: Members, test: Test) -> float:
    """Threshold with exactly the target's coverage on the new pixels."""
    return float(np.quantile(np.abs(test.clean[:, None] - said.median) - said.half, TARGET))


def rmse(said: Members, test: Test) -> float:
    return float(np.sqrt(np.mean((test.clean[:, None] - said.median) ** 2)))


class Calibration(NamedTuple):
    """Scores by image and pixel, number of units, and by guarantee a threshold and its rank: infinite and 0 if there is none."""

    scores: np.ndarray
    units: int
    thresholds: dict[str, tuple[float, int]]


def calibrated(said: Members, clean: np.ndarray, scenario: Scenario) -> Calibration:
    """From predictions of the calibration images, (image, pixel), by what the pipeline takes for units."""
    scores = np.abs(clean - said.median) - said.half
    count, field = len(scores), not scenario.images or len(scores) < ENOUGH_IMAGES
    unit = np.repeat(np.arange(count), EDGE * EDGE)
    if field:
        half = np.arange(EDGE) // QUARTER
        unit = 4 * unit + np.tile(np.add.outer(2 * half, half).ravel(), count)
    order = np.argsort(unit, kind="stable")
    histogram = Histogram.of(scores.ravel()[order], unit[order])
    pooled = GUARANTEES["pooled"](histogram, REQUEST).threshold
    request = replace(REQUEST, design=worth(scores, pooled)) if field else REQUEST
    return Calibration(
        scores, histogram.units.size, {name: threshold_of(name, histogram, request) for name in ("pooled", *PROMISES)}
    )


def worth(scores: np.ndarray, threshold: float) -> float:
    """Independent pixels that the images are worth, by the integral range of their misses."""
    fields = [(miss.astype(np.float64), np.ones(miss.shape, bool)) for miss in (scores > threshold).reshape(-1, EDGE, EDGE)]
    return field_design(fields, REQUEST.miscoverage).effective_samples


def threshold_of(guarantee: str, histogram: Histogram, request: Request) -> tuple[float, int]:
    """Threshold and rank; infinite and 0 where there are too few units."""
    try:
        found = GUARANTEES[guarantee](histogram, request)
    except CalibrationError:
        return np.inf, 0
    return found.threshold, int(str(found.record["rank"]))


def cv_plus(said: Members, test: Test, scores: np.ndarray, level: float) -> Outcome:
    """Intervals that hold a share `level` of all committees' ends; a column of `said` is the committee of a row of `scores`."""
    steps = (np.arange(CV_QUANTILES) + 0.5) / CV_QUANTILES
    # Weights of units are equal, as their sizes are.
    values = np.quantile(scores, steps, axis=1).astype(np.float32)
    place = int(np.clip(round(level * values.size - 0.5), 0, values.size - 1))
    ends = [
        np.partition((sign * said.median[:, None, :] + said.half[:, None, :] + values).reshape(len(said.half), -1), place)[:, place]
        for sign in (1, -1)
    ]
    upper, lower = ends[0], np.minimum(-ends[1], ends[0])
    inside = (lower <= test.clean) & (test.clean <= upper)
    return Outcome(float(inside.mean()), float((upper - lower).mean()))


def corrected(outcome: Outcome, part: Outcome, whole: Outcome) -> Outcome:
    """An outcome on few pixels, freed from the chance of these by another one on few and on all."""
    return Outcome(outcome.coverage - part.coverage + whole.coverage, outcome.width * whole.width / part.width)


class Row(NamedTuple):
    """What one repetition says of one way to calibrate."""

    units: int
    members: float
    final: float
    rmse: float
    own: float
    pooled: float
    promises: tuple[float, ...]


def split_uses(units: int, members: int, used: int) -> np.ndarray:
    """All members use the first units."""
    return np.tile(np.arange(units) < used, (members, 1))


def shares_of(scenario: Scenario, units: int) -> dict[str, int]:
    """Names of the splits, and how many units train; the last leaves just as many images as count as units."""
    shares = {"split 50%": units // 2, "split 75%": 3 * units // 4}
    rest = units - ENOUGH_IMAGES
    return shares | {"split, 5 cal": rest} if scenario.images and rest > 0 and rest not in shares.values() else shares


def fold_uses(units: int, members: int) -> np.ndarray:
    """Member m leaves out the units of fold m modulo the number of folds."""
    folds = min(units, members, FOLDS)
    return np.arange(members)[:, None] % folds != np.arange(units) % folds


def bag_uses(units: int, members: int, rng: np.random.Generator) -> np.ndarray:
    """Members leave out random units; all units are left out about equally often."""
    out = max(1, round(LEFT_OUT * units))
    order = np.concatenate([rng.permutation(units) for _ in range(-(-members * out // units))])
    uses = np.ones((members, units), bool)
    np.put_along_axis(uses, order[: members * out].reshape(members, out), False, axis=1)
    return uses


class Reference(NamedTuple):
    """Of the ensemble that is trained on all units: error of its median, width of its exact intervals."""

    rmse: float
    width: float


def committees(uses: np.ndarray) -> np.ndarray:
    """For each unit, the weights of the members that left it out; (member, unit)."""
    return (~uses / (~uses).sum(axis=0)).astype(np.float32)


def row(said: Members, test: Test, calibration: Calibration, reference: Reference, sizes: tuple[float, float]) -> Row:
    """An ensemble, or committees of which one is drawn; `sizes`: members at calibration and at test."""
    own = tested(said, test, exact_threshold(said, test)).width / reference.width
    pooled = tested(said, test, calibration.thresholds["pooled"][0]).coverage
    promises: list[float] = []
    for guarantee in PROMISES:
        threshold, _ = calibration.thresholds[guarantee]
        outcome = tested(said, test, threshold) if np.isfinite(threshold) else Outcome(1.0, np.inf)
        promises += [outcome.coverage, outcome.width / reference.width]
    return Row(calibration.units, *sizes, rmse(said, test) / reference.rmse, own, pooled, tuple(promises))


def cv_row(by_unit: Members, test: Test, calibration: Calibration, every: Row, width: float) -> Row:
    """CV+, judged on few pixels by how it differs from a committee drawn at random; its median is that of all members."""
    few = slice(None, None, max(1, len(test.clean) // CV_PIXELS))
    part, some = Members(by_unit.median[few], by_unit.half[few]), Test(test.features[few], test.clean[few])
    outcomes = []
    for guarantee in ("pooled", *PROMISES):
        threshold, rank = calibration.thresholds[guarantee]
        if not np.isfinite(threshold):
            outcomes.append(Outcome(1.0, np.inf))
            continue
        found = cv_plus(part, some, calibration.scores, rank / calibration.scores.size)
        outcomes.append(corrected(found, tested(part, some, threshold), tested(by_unit, test, threshold)))
    promises = tuple(value for outcome in outcomes[1:] for value in (outcome.coverage, outcome.width / width))
    return every._replace(pooled=outcomes[0].coverage, own=np.nan, promises=promises)


def splits(
    scenario: Scenario, learner: Learner, data: Pixels, test: Test, rng: np.random.Generator
) -> tuple[Reference, dict[str, Row]]:
    """Rows of the ways that give up data, and the ensemble that is trained on all of them."""
    units, everyone = len(data.clean), np.full((learner.members, 1), 1 / learner.members, np.float32)
    whole = trained(learner, data, split_uses(units, learner.members, units), rng)
    best = predicted(whole, test.features).averaged(everyone)
    reference = Reference(rmse(best, test), tested(best, test, exact_threshold(best, test)).width)
    rows = {}
    for name, used in shares_of(scenario, units).items():
        uses = split_uses(units, learner.members, used)
        ensemble, held = trained(learner, data, uses, rng), ~uses[0]
        said = predicted(ensemble, data.features[held]).averaged(everyone)
        calibration = calibrated(Members(said.median[..., 0], said.half[..., 0]), data.clean[held], scenario)
        new = predicted(ensemble, test.features).averaged(everyone)
        rows[name] = row(new, test, calibration, reference, (learner.members, learner.members))
    return reference, rows


def crossed(
    scenario: Scenario, learner: Learner, data: Pixels, test: Test, rng: np.random.Generator, reference: Reference
) -> dict[str, Row]:
    """Rows of the ways in which every unit is scored by members that left it out."""
    units, rows = len(data.clean), {}
    everyone = np.full((learner.members, 1), 1 / learner.members, np.float32)
    for name, uses in (("folds", fold_uses(units, learner.members)), ("bags", bag_uses(units, learner.members, rng))):
        ensemble, shares = trained(learner, data, uses, rng), committees(uses)
        said = predicted(ensemble, data.features)
        scored = Members(*(np.einsum("kpm,mk->kp", part, shares) for part in said))
        calibration = calibrated(scored, data.clean, scenario)
        new = predicted(ensemble, test.features)
        few = float((~uses).sum(axis=0).mean())
        by_unit = new.averaged(shares)
        every = row(new.averaged(everyone), test, calibration, reference, (few, learner.members))
        rows[f"{name}, all"] = every
        rows[f"{name}, drawn"] = row(by_unit, test, calibration, reference, (few, few))
        rows[f"{name}, CV+"] = cv_row(by_unit, test, calibration, every, reference.width)
    return rows


def repeated(scenario: Scenario, learner: Learner, options: argparse.Namespace) -> Iterable[tuple[int, dict[str, list[Row]]]]:
    """For each number of units, the rows of all repetitions by way; the same whatever other numbers are asked for."""
    rng = np.random.default_rng([options.seed, NEW])
    parts = [pixels(scenario, learner, 50, rng, options.pixels) for _ in range(0, options.images, 50)]
    test = Test(*(np.concatenate([part[i].reshape(-1, *part[i].shape[2:]) for part in parts]) for i in (0, 1)))
    for units in options.units:
        rng = np.random.default_rng([options.seed, units])
        found: dict[str, list[Row]] = {}
        for _ in range(options.repetitions):
            data = pixels(scenario, learner, units, rng)
            reference, rows = splits(scenario, learner, data, test, rng)
            rows |= crossed(scenario, learner, data, test, rng, reference)
            for name, one in rows.items():
                found.setdefault(name, []).append(one)
        yield units, found


def line(rows: list[Row]) -> str:
    """Means over repetitions; what is below the target counts all, widths only the thresholds that exist."""
    text = f"{rows[0].units:5} {rows[0].members:4.1f}/{rows[0].final:4.1f}"
    text += "".join(f" {np.mean([getattr(one, name) for one in rows]):6.3f}" for name in ("rmse", "own", "pooled"))
    values = np.array([one.promises for one in rows])
    for coverage, width in zip(values.T[::2], values.T[1::2], strict=True):
        given = np.isfinite(width)
        moments = f"{coverage[given].mean():6.4f} {width[given].mean():6.3f}" if given.any() else f"{'':13}"
        text += f" | {1 - given.mean():5.2f} {np.mean(coverage < TARGET):5.3f} {moments}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=[4, 6, 8, 12, 20], help="units in all")
    parser.add_argument("--repetitions", type=int, default=120, help="fresh data sets for each row")
    parser.add_argument("--members", type=int, default=10, help="members of an ensemble")
    parser.add_argument("--features", type=int, default=150, help="random features in the bank beside the patch itself")
    parser.add_argument("--ridge", type=float, default=0.3, help="penalty; smaller overfits more")
    parser.add_argument("--images", type=int, default=1000, help="new images")
    parser.add_argument("--pixels", type=int, default=30, help="pixels of each new image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(*options.units, options.members) < LEAST:
        parser.error(
            f"fewer than {LEAST} units or members cannot leave each unit out once and train on the rest; use {LEAST} or more"
        )
    began = time.process_time()
    learner = learner_of(options.features, options.members, options.ridge, np.random.default_rng([options.seed, BANK]))
    print(f"{options.repetitions} repetitions; {options}; {REQUEST}")
    print(HEADER)
    for name, scenario in SCENARIOS.items():
        for units, found in repeated(scenario, learner, options):
            for way, rows in found.items():
                print(f"{name:>6} {units:>3} {way:>12} {line(rows)}", flush=True)
    print(f"{time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
