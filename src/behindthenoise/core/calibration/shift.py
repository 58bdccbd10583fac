"""
Signs that units are not exchangeable: calibration units with each other by their scores, a new volume with them by its inputs.

A guarantee holds for what is exchangeable with the calibration units, and no test can show that something is. These find what
plainly is not. Units and blocks are the samples, never voxels: with a million dependent voxels any two images differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer
from scipy.optimize import nnls
from scipy.spatial.distance import cdist
from scipy.special import stdtr

from behindthenoise.core.calibration.histogram import Histogram

Voxels = Float[np.ndarray, " voxel"]
SIGNIFICANCE = 0.05
USUAL = (0.005, 0.995)  # share 0.01 of the calibration voxels lies beyond
PERMUTATIONS = 1999  # p values down to 1/2000, so that Holm's correction of a hundred tests still lets one speak
MOST_BLOCKS = 500  # of each side; more would find differences that do not matter


@dataclass(frozen=True)
class Finding:
    """
    Outcome of one check, whether it found something or not.

    Attributes
    ----------
    name
        What was checked, e.g. "unit 7" or the name of a `Quantity`.
    p_value
        Probability of a difference this large if there were none, adjusted for the other checks made with it (Holm).
    effect
        How large the difference is; each check says in what terms.
    sentence
        In plain words.
    """

    name: str
    p_value: float
    effect: float
    sentence: str

    @property
    def flagged(self) -> bool:
        """Whether the difference is too large for chance."""
        return self.p_value <= SIGNIFICANCE


@dataclass(frozen=True, eq=False)
class Quantity:
    """
    What is known before any truth, of the calibration units and of a new volume: a channel's predicted median, or its width.

    Attributes
    ----------
    name
        In the words of a sentence, e.g. "predicted median of channel Fe".
    calibration, volume
        Mean in each calibration unit, and in each block of the volume of the same size.
    outside
        Share of the volume's voxels beyond the `usual_range` of the calibration voxels.
    """

    name: str
    calibration: Float[np.ndarray, " unit"]
    volume: Float[np.ndarray, " block"]
    outside: float


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Share of each token in each calibration unit and in each block of a new volume of the same size: `token_frequencies`."""

    calibration: Float[np.ndarray, " unit token"]
    volume: Float[np.ndarray, " block token"]


def block_means(values: Voxels, blocks: Integer[np.ndarray, " voxel"]) -> Float64[np.ndarray, " block"]:
    """Mean of each block, in the order of the ids."""
    _, place, counts = np.unique(blocks, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(place, values) / counts)


def token_frequencies(
    tokens: Integer[np.ndarray, " voxel"], blocks: Integer[np.ndarray, " voxel"], count: int
) -> Float64[np.ndarray, " block token"]:
    """Share of each of the tokens 1 to `count` in each block, in the order of the ids; voxels without a token (0) are left out."""
    assigned = tokens > 0
    _, place, sizes = np.unique(blocks[assigned], return_inverse=True, return_counts=True)
    cells = place * count + tokens[assigned] - 1
    return np.asarray(np.bincount(cells, minlength=sizes.size * count).reshape(-1, count) / sizes[:, None])


def usual_range(values: Voxels) -> tuple[float, float]:
    """What 99 % of the voxels lie in, half of the rest on either side."""
    low, high = np.quantile(values, USUAL, method="inverted_cdf")
    return float(low), float(high)


def count_outside(values: Voxels, usual: tuple[float, float]) -> int:
    """Voxels beyond a `usual_range`; the counts of several chunks add up."""
    return int(((values < usual[0]) | (values > usual[1])).sum())


def mean_ranks(histogram: Histogram) -> Float[np.ndarray, " unit"]:
    """Mean over the scores of each unit of the share of all scores that are smaller, ties counted half; 1/2 on average."""
    pooled = histogram.pooled()
    middle = (np.cumsum(pooled) - pooled / 2) / histogram.total
    return np.asarray(histogram.counts @ middle / histogram.sizes)


def compare_units(histogram: Histogram) -> list[Finding]:
    """
    For each calibration unit, whether its scores are larger or smaller throughout than those of the other units.

    The mean rank of each unit is compared with those of the others. With n scores in a unit its variance is taken as a + b/n,
    fitted to all units, so that a small unit may lie further off; the studentised residual has Student's distribution. One of K
    exchangeable units always is the most extreme one, so a band that allows for the number of units has to assume a
    distribution; means of ranks are close to normal. Fewer than three units cannot be compared, and give no finding.

    Parameters
    ----------
    histogram
        Scores of the calibration units; buckets of 16 bits will do.

    Returns
    -------
    list of Finding
        One for each unit, `effect` its mean rank: 1/2 is as expected, 1 larger than all others.

    References
    ----------
    Cook & Weisberg (1982), Residuals and Influence in Regression, section 2.2, for outliers by studentised residuals.
    """
    if histogram.units.size < 3:
        return []
    ranks = mean_ranks(histogram)
    deviation = _studentised(ranks, _rank_variance(ranks, histogram.sizes))
    chances = _holm(2 * stdtr(ranks.size - 2, -np.abs(deviation)))
    return [_unit_finding(*row) for row in zip(histogram.units.tolist(), chances.tolist(), ranks.tolist(), strict=True)]


def compare_volume(quantities: Sequence[Quantity], tokens: Frequencies | None, rng: np.random.Generator) -> list[Finding]:
    """
    For each quantity, whether blocks of a new volume differ from the calibration units, by the energy distance of their means.

    The p value is that of permuted blocks. It is exact if blocks are exchangeable, so it also finds that blocks of one image are
    more alike than those of several: the effect tells whether that matters.

    Parameters
    ----------
    quantities
        Medians and widths by channel.
    tokens
        Frequencies of the tokens, compared all at once by their square roots (Hellinger's distance), or None.
    rng
        Source of the permutations, and of the blocks that are compared where there are many.

    Returns
    -------
    list of Finding
        One for each quantity, `effect` the share of the volume's voxels beyond what 99 % of the calibration voxels keep to; then
        one for the tokens, `effect` the share of the volume's voxels that would have to be of another token (total variation).

    References
    ----------
    Szekely & Rizzo (2013), J. Stat. Plan. Inference 143, 1249-1272, for the distance and its permutation test.
    """
    names = [one.name for one in quantities]
    chances = [_chance(one.calibration[:, None], one.volume[:, None], rng) for one in quantities]
    effects = [one.outside for one in quantities]
    meanings = ["lie outside the range that 99 % of the calibration voxels keep to, where 1 % is expected"] * len(quantities)
    if tokens is not None:
        names.append("token frequencies")
        chances.append(_chance(np.sqrt(tokens.calibration), np.sqrt(tokens.volume), rng))
        effects.append(float(np.abs(tokens.calibration.mean(axis=0) - tokens.volume.mean(axis=0)).sum() / 2))
        meanings.append("are of another token than in the calibration units")
    adjusted = _holm(np.array(chances, np.float64)).tolist()
    return [_volume_finding(*row) for row in zip(names, adjusted, effects, meanings, strict=True)]


def _unit_finding(unit: int, p_value: float, rank: float) -> Finding:
    """With its sentence."""
    verdict = "unlike the other calibration units" if p_value <= SIGNIFICANCE else "like the other calibration units"
    sentence = (
        f"unit {unit} is {verdict} (p = {p_value:.2g}): on average its scores are larger than {100 * rank:.3g} % of all scores, "
        "where 50 % are expected"
    )
    return Finding(f"unit {unit}", p_value, rank, sentence)


def _volume_finding(name: str, p_value: float, effect: float, meaning: str) -> Finding:
    """With its sentence."""
    verdict = "the volume differs from" if p_value <= SIGNIFICANCE else "no sign that the volume differs from"
    sentence = f"{name}: {verdict} the calibration units (p = {p_value:.2g}); {100 * effect:.3g} % of its voxels {meaning}"
    return Finding(name, p_value, effect, sentence)


def _rank_variance(ranks: Float64[np.ndarray, " unit"], sizes: Int64[np.ndarray, " unit"]) -> Float64[np.ndarray, " unit"]:
    """Variance of each unit's mean rank: a + b/size, by least squares on all units; that of independent scores at least."""
    relative = sizes / sizes.mean()
    # Times the size, so that small units, whose squares scatter most, do not decide.
    squares = relative * np.square(ranks - np.median(ranks))
    (between, within), _ = nnls(np.column_stack([relative, np.ones(sizes.size)]), squares)
    return np.asarray(np.maximum(between + within / relative, 1 / (12 * sizes)))


def _studentised(values: Float64[np.ndarray, " unit"], variances: Float64[np.ndarray, " unit"]) -> Float64[np.ndarray, " unit"]:
    """Distance of each value from the mean of the others, in standard errors that are estimated without it."""
    weights, freedom = 1 / variances, values.size - 1
    residuals = values - weights @ values / weights.sum()
    squares = np.square(residuals) * weights / (1 - weights / weights.sum())
    left = (np.square(residuals) @ weights - squares) / (freedom - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = np.sign(residuals) * np.sqrt(squares / np.maximum(left, 0))
    return np.asarray(np.where(squares > 0, studentised, 0))


def _holm(chances: Float64[np.ndarray, " check"]) -> Float64[np.ndarray, " check"]:
    """P values that hold for all checks at once (Holm 1979, Scand. J. Stat. 6, 65-70)."""
    order = np.argsort(chances)
    adjusted = np.empty(chances.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(chances[order] * np.arange(chances.size, 0, -1)), 1)
    return adjusted


def _chance(
    calibration: Float[np.ndarray, " unit feature"], volume: Float[np.ndarray, " block feature"], rng: np.random.Generator
) -> float:
    """Share of the permutations whose energy distance is at least that of the two samples."""
    first, second = (rng.permutation(sample)[:MOST_BLOCKS] for sample in (calibration, volume))
    points = np.concatenate([first, second])
    distances = cdist(points, points)
    weights = np.r_[np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))]
    shuffled = np.concatenate([weights[None], rng.permuted(np.tile(weights, (PERMUTATIONS, 1)), axis=1)])
    energies = -np.einsum("pi,pi->p", shuffled @ distances, shuffled)
    # The samples themselves are one of the permutations; what equals them up to a rounding is as large.
    return float((energies >= energies[0] - 1e-9 * distances.max()).mean())
