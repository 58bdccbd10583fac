"""
How often each guarantee keeps its promise, by simulation: images, one field, blocks of that field.

An image has 64 x 64 pixels. Its residuals are exp(tau u) g + beta v with one u and one v for the image, standard normal, and g of
variance 1: 70 % a Gaussian field with covariance exp(-r²/(2 length²)), length 4 pixels, and 30 % white noise. The interval is
1.645 x 0.85 to either side, too narrow on purpose. Units are drawn with replacement from a finite population of images, so that the
true coverage of a threshold is known without error. A field has effects of no image, and its truth is the normal law.

    python bench/coverage.py
    python bench/coverage.py --repetitions 200 --images 600 --fields 50
    python bench/coverage.py --coverage 0.95 --fields 0
    python bench/coverage.py --images 0 --size 64 --lengths 3 4 6 8
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.stats import norm

from behindthenoise.core.calibration import survey
from behindthenoise.core.calibration.dependence import field_design
from behindthenoise.core.calibration.guarantees import GUARANTEES, Request
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.errors import CalibrationError

HALF_WIDTH = 1.645 * 0.85
FIELD_SHARE = 0.7
TENTH = Fraction(1, 10)
REQUEST = Request(miscoverage=TENTH, failure=TENTH, share=TENTH)
# Scores are rounded up to such steps, 1/20 of a standard deviation of the coverage: few buckets, and none of them is a bound.
STEP = 1 / 1024


class Scenario(NamedTuple):
    """Effects of an image on its residuals' spread (tau) and mean (beta); length 0 is white noise alone."""

    length: float
    tau: float
    beta: float


SCENARIOS = {
    "A": Scenario(0, 0, 0),
    "B": Scenario(4, 0, 0),
    "C": Scenario(4, 0.1, 0.15),
    "D": Scenario(4, 0.3, 0.4),
    "D2": Scenario(4, 0.6, 0.4),
}
HEADER = "{:>10} {:>5} {:>20} {:>8} {:>8} {:>8} {:>8} {:>8}"
# Edges of images that are cut: the largest has 28 times the pixels of the least.
UNEVEN = (12, 12, 12, 12, 64)


def gaussian_fields(count: int, size: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Fields of variance 1 that are periodic, which is no matter in windows that leave out four lengths; (count, size, size)."""
    decay = np.exp(-((np.pi * length * fft.fftfreq(size)) ** 2))
    transfer = np.outer(decay, decay) / np.mean(decay**2)
    white = rng.standard_normal((count, size, size))
    return fft.irfft2(fft.rfft2(white) * transfer[:, : size // 2 + 1], s=(size, size))


def residuals(count: int, size: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Residuals of variance 1 without effects of an image; (count, size, size)."""
    white = rng.standard_normal((count, size, size))
    if not length:
        return white
    whole = fft.next_fast_len(size + round(4 * length), real=True)
    field = gaussian_fields(count, whole, length, rng)[:, :size, :size]
    return np.sqrt(FIELD_SHARE) * field + np.sqrt(1 - FIELD_SHARE) * white


def scores(residual: np.ndarray) -> np.ndarray:
    """How far each residual lies outside the interval."""
    return (np.ceil((np.abs(residual) - HALF_WIDTH) / STEP) * STEP).astype(np.float32)


def population(scenario: Scenario, count: int, rng: np.random.Generator, sides: Iterable[int] = (64,)) -> Histogram:
    """Scores of images by image; each is cut to a square with one of these sides, drawn at random."""
    parts = []
    for start in range(0, count, 100):
        number = min(100, count - start)
        u, v = rng.standard_normal((2, number, 1, 1))
        found = scores(np.exp(scenario.tau * u) * residuals(number, 64, scenario.length, rng) + scenario.beta * v)
        side = rng.choice(list(sides), number)[:, None, None]
        kept = (np.arange(64)[:, None] < side) & (np.arange(64) < side)
        unit = np.broadcast_to(np.arange(start, start + number)[:, None, None], found.shape)
        parts.append((found[kept], unit[kept]))
    values, units = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Histogram.of(values, units)


def drawn(images: Histogram, count: int, rng: np.random.Generator) -> Histogram:
    """Images drawn with replacement, as units of their own."""
    rows = rng.integers(images.units.size, size=count)
    return Histogram(np.arange(count), images.upper, images.exact, images.counts[rows])


def found(guarantee: str, sample: Histogram, request: Request = REQUEST) -> float:
    """Threshold of a guarantee; infinite where there are too few units, as then all is covered."""
    try:
        return GUARANTEES[guarantee](sample, request).threshold
    except CalibrationError:
        return np.inf


def outcomes(
    images: Histogram, samples: Iterable[Histogram], request: Request = REQUEST, guarantees: Iterable[str] = tuple(GUARANTEES)
) -> dict[str, np.ndarray]:
    """By guarantee, for each sample: true mean coverage, share of new units with enough, width over the oracle's; (3, sample)."""
    covered = np.cumsum(images.pooled()) / images.total
    values = np.array([images.value(bucket) for bucket in range(images.upper.size)])
    oracle = values[np.searchsorted(covered, float(1 - request.miscoverage))]
    rows: dict[str, list[tuple[float, float, float]]] = {guarantee: [] for guarantee in guarantees}
    for sample in samples:
        for guarantee, outcome in rows.items():
            threshold = found(guarantee, sample, request)
            bucket = min(int(np.searchsorted(values, threshold)), values.size - 1)
            share = float(np.mean(images.misses(bucket) <= float(request.miscoverage) * images.sizes))
            outcome.append((covered[bucket], share, (HALF_WIDTH + threshold) / (HALF_WIDTH + oracle)))
    return {guarantee: np.array(outcome).T for guarantee, outcome in rows.items()}


def one_field(length: float, size: int, rng: np.random.Generator) -> tuple[int, dict[str, float]]:
    """Blocks three correlation radii long in one field of residuals, and thresholds from it, as a whole and in these blocks."""
    field = scores(residuals(1, size, length, rng)[0])
    whole = Histogram.of(field.ravel(), np.zeros(field.size, np.int64))
    pooled = found("pooled", whole)
    part = survey.Part(field[np.newaxis], np.zeros((1, size, size), np.int16))
    effect, count = survey.measure([part], 1)[0].at(float(TENTH))
    _, edge = survey.blocks([[part]], "auto")
    block = np.arange(size) // edge
    blocks = Histogram.of(field.ravel(), np.add.outer(block * size, block).ravel())
    missed = [((field > pooled).astype(np.float64), np.ones(field.shape, bool))]
    by_range = replace(REQUEST, design=field_design(missed, TENTH).effective_samples)
    return int(block[-1] + 1) ** 2, {
        "pooled": pooled,
        "pac, integral range": found("pac", whole, by_range),
        "pac, workflow": found("pac", whole, replace(REQUEST, design=field.size / effect, blocks=count)),
        "pac, blocks": found("pac", blocks),
        "crc, blocks": found("crc", blocks),
    }


def normal_coverage(thresholds: np.ndarray) -> np.ndarray:
    """True coverage of residuals of variance 1 without effects of an image."""
    return 2 * norm.cdf(HALF_WIDTH + thresholds) - 1


def print_images(repetitions: int, count: int, rng: np.random.Generator, request: Request) -> None:
    print(f"Images: {repetitions} repetitions, population of {count}; {request}")
    print(HEADER.format("scenario", "units", "guarantee", "none", "failure", "coverage", "sd", "width") + f" {'share':>8}")
    cases = [(name, scenario, (64,)) for name, scenario in SCENARIOS.items()]
    for name, scenario, sides in [*cases, ("D uneven", SCENARIOS["D"], UNEVEN)]:
        images = population(scenario, count, rng, sides)
        for units in (5, 10, 30, 100):
            samples = (drawn(images, units, rng) for _ in range(repetitions))
            for guarantee, (coverage, share, width) in outcomes(images, samples, request).items():
                row = line(name, units, guarantee, coverage, width, 1 - request.miscoverage)
                given = np.isfinite(width)
                print(f"{row} {share[given].mean():8.3f}" if given.any() else row, flush=True)


def print_fields(repetitions: int, size: int, lengths: Iterable[float], rng: np.random.Generator) -> None:
    print(f"One field of {size} x {size} pixels: {repetitions} repetitions")
    print(HEADER.format("length", "blocks", "method", "none", "failure", "coverage", "sd", "width"))
    for length in lengths:
        blocks, thresholds = zip(*(one_field(length, size, rng) for _ in range(repetitions)), strict=True)
        for method in thresholds[0]:
            values = np.array([found[method] for found in thresholds])
            print(
                line(
                    f"{length:g}", int(np.median(blocks)), method, normal_coverage(values), (HALF_WIDTH + values) / norm.ppf(0.95)
                ),
                flush=True,
            )


def line(name: str, units: int | str, method: str, coverage: np.ndarray, width: np.ndarray, target: Fraction = 1 - TENTH) -> str:
    """Row of a table: the rate of failure counts thresholds that do not exist, the moments do not."""
    given = np.isfinite(width)
    if not given.any():
        return f"{name:>10} {units:>5} {method:>20} {'too few units':>20}"
    moments = f"{coverage[given].mean():8.4f} {coverage[given].std():8.4f} {width[given].mean():8.3f}"
    return f"{name:>10} {units:>5} {method:>20} {1 - given.mean():8.3f} {np.mean(coverage < float(target)):8.3f} {moments}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000, help="draws of calibration images for each row")
    parser.add_argument("--images", type=int, default=3000, help="images of each population; 0 leaves them out")
    parser.add_argument("--fields", type=int, default=300, help="single fields for each correlation length")
    parser.add_argument("--size", type=int, default=512, help="pixels along each edge of a single field")
    parser.add_argument("--lengths", type=float, nargs="+", default=[4, 12], help="their correlation lengths in pixels")
    parser.add_argument("--coverage", default="0.9", help="target of the images; that of the fields is 0.9")
    parser.add_argument("--failure", default="0.1", help="accepted probability that the images mislead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    began = time.process_time()
    asked = Request(1 - Fraction(options.coverage), Fraction(options.failure), TENTH)
    if options.images:
        print_images(options.repetitions, options.images, random, asked)
    if options.fields:
        print_fields(options.fields, options.size, options.lengths, random)
    print(f"{time.process_time() - began:.0f} s of CPU time")
