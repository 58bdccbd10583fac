"""How alike two images are. Every array holds the valid voxels alone, in one row, without NaN."""

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " voxel"]


def pearson(a: Values, b: Values) -> float:
    """Correlation coefficient of two images, in [-1, 1]; NaN where one of them is constant."""
    if _is_constant(a) or _is_constant(b):
        return float("nan")
    # float32 sums over millions of voxels lose digits.
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(a: Values, b: Values) -> float:
    """Rank correlation, in [-1, 1], ties at their mean rank; NaN where one is constant. `subsample` large images first."""
    return pearson(_ranks(a), _ranks(b))


def psnr(estimate: Values, truth: Values) -> float:
    """
    Peak signal-to-noise ratio in dB; infinite for a perfect estimate, NaN where the truth is constant.

    The peak is the truth's range, largest minus least value: counts have no fixed full scale. It thus depends on the truth
    alone, and compares estimates of one truth, not different images.
    """
    if _is_constant(truth):
        return float("nan")
    error = np.mean(np.square(estimate.astype(np.float64) - truth))
    return float(20 * np.log10(np.ptp(truth.astype(np.float64))) - 10 * np.log10(error)) if error else float("inf")


def match_intensity(noisy: Values, clean: Values) -> tuple[float, float]:
    """
    Gain and offset with noisy = gain * clean + offset, so that (noisy - offset) / gain is in the clean image's units.

    Noisy is regressed on clean, never the other way round: noise in the regressor would flatten the line. Where the slope is
    not positive, mean and spread are matched; where an image is constant, the mean alone. Voxels that are not finite in both
    are left out.
    """
    valid = np.isfinite(noisy) & np.isfinite(clean)
    x, y = clean[valid].astype(np.float64), noisy[valid].astype(np.float64)
    if not x.size:
        return 1.0, 0.0
    if _is_constant(x) or _is_constant(y):
        return 1.0, float(y.mean() - x.mean())
    centred = x - x.mean()
    gain = float(centred @ (y - y.mean()) / (centred @ centred))
    if gain <= 0:
        gain = float(y.std() / x.std())
    return gain, float(y.mean() - gain * x.mean())


def _is_constant(values: Values) -> bool:
    """Whether there is nothing to correlate with; exact, where a variance would be a rounding error."""
    return bool(values.size == 0 or values.min() == values.max())


def _ranks(values: Values) -> Values:
    """As of `scipy.stats.rankdata`, which every job that imports it would wait for half a second."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Values = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
