"""What scores and groups need to know beforehand, fixed on training voxels so that no calibration voxel is spent on it."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float32

from behindthenoise.core.calibration.scores import Kind, Score, apply, rearrange, scores
from behindthenoise.core.metrics.sharpness import interval_score

FLOOR = 1e-3  # of the median width: below it a width is noise, and would blow up what is divided by it
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
JUDGED_AT = Fraction(1, 10)  # misses at which weights are compared, whatever coverage is asked for later

Quantiles = Float32[np.ndarray, " 3 n"]
Values = Float32[np.ndarray, " n"]


def fit_score(kind: Kind, quantiles: Quantiles, truth: Values, spread: Values) -> Score:
    """
    A score with its constants from training voxels of one channel.

    Parameters
    ----------
    quantiles
        The ensemble's lower, median and upper.
    truth
        The clean values; only `ensemble` reads them, to choose the weight of the members' spread by the mean interval score.
    spread
        Standard deviation of the members' medians.
    """
    lower, _, upper = rearrange(*quantiles)
    widths = upper - lower
    positive = widths[widths > 0]
    floor = FLOOR * float(np.median(positive)) if positive.size else 1.0
    if kind != "ensemble":
        return Score(kind, floor)
    candidates = [Score(kind, floor, weight) for weight in WEIGHTS]
    return min(candidates, key=lambda score: _interval_score(score, quantiles, truth, spread))


def fit_edges(median: Values, bins: int) -> Float[np.ndarray, " edge"]:
    """Inner borders of bins that are filled alike; fewer where values are tied, so that no bin is empty."""
    # Borders are values that occur; one interpolated between two of them could leave its bin empty.
    edges = np.unique(np.quantile(median, np.arange(1, bins) / bins, method="higher"))
    return np.asarray(edges[edges > median.min()])


def _interval_score(score: Score, quantiles: Quantiles, truth: Values, spread: Values) -> float:
    """Mean interval score once the score's threshold gives these very voxels their coverage."""
    found = scores(score, quantiles, truth, spread)
    threshold = np.quantile(found, 1 - float(JUDGED_AT), axis=1, method="inverted_cdf").astype(np.float32)
    return interval_score(*apply(score, quantiles, threshold, (None, None), spread), truth, JUDGED_AT)
