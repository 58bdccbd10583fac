"""How strange a true value is to its predicted quantiles, and the interval that holds whatever is not too strange."""

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from behindthenoise.errors import CalibrationError

Kind = Literal["cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"]


@dataclass(frozen=True)
class Score:
    """
    A kind of score with its constants, which are fixed on training voxels.

    With lower, median and upper sorted, the truth is (lower - truth)/a below and (truth - upper)/b above the interval; both are
    negative inside. The score is the larger of the two, but for `asymmetric`, which keeps both apart.

    ============  ====================================================  ==================================================
    kind          a and b, the latter three at least `floor`            source
    ============  ====================================================  ==================================================
    cqr           1                                                     Romano, Patterson & Candes (2019), equation 6
    asymmetric    1                                                     the same, theorem 2
    cqr-r         upper - lower                                         Sesia & Candes (2020), arXiv:1909.05433
    cqr-m         median - lower, upper - median                        Kivaranovic, Johnson & Leeb (2020), arXiv:1905.10634
    ensemble      upper - lower + `spread_weight` * spread of members   widths as in cqr-r
    ============  ====================================================  ==================================================

    Attributes
    ----------
    kind
        Name of the score.
    floor
        Least a and b, in units of the image; read by the kinds that divide by a width, which ask for more than 0.
    spread_weight
        Weight of the members' spread in `ensemble`.

    Raises
    ------
    CalibrationError
        If a constant is out of its range.
    """

    kind: Kind
    floor: float = 0.0
    spread_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.is_scaled and not 0 < self.floor < inf:
            raise CalibrationError(
                f"floor {self.floor:g} of score {self.kind!r} must be positive and finite, as widths of zero are divided by it; "
                "take it from training voxels"
            )
        if not 0 <= self.spread_weight < inf:
            raise CalibrationError(
                f"spread_weight {self.spread_weight:g} must be 0 or more and finite; choose it on training voxels, or use 0"
            )

    @property
    def sides(self) -> int:
        """Thresholds that the score needs: two, below and above, for `asymmetric`, else one."""
        return 2 if self.kind == "asymmetric" else 1

    @property
    def is_scaled(self) -> bool:
        """Whether distances are divided by a predicted width; then the score has no unit, else that of the image."""
        return self.kind in ("cqr-r", "cqr-m", "ensemble")


def rearrange(
    lower: Float32[np.ndarray, " *shape"], median: Float32[np.ndarray, " *shape"], upper: Float32[np.ndarray, " *shape"]
) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
    """
    The three quantiles of each voxel in rising order; all NaN where one is NaN.

    References
    ----------
    Chernozhukov, Fernandez-Val & Galichon (2010), Econometrica 78, 1093-1125: sorting crossed quantiles never harms.
    """
    if (lower <= median).all() and (median <= upper).all():
        return lower, median, upper
    # Not np.sort, which moves a NaN to the upper end and leaves two numbers that look valid.
    small, large = np.minimum(lower, median), np.maximum(lower, median)
    return np.minimum(small, upper), np.maximum(small, np.minimum(large, upper)), np.maximum(large, upper)


def scores(
    score: Score,
    quantiles: Float32[np.ndarray, " 3 *shape"],
    truth: Float32[np.ndarray, " *shape"],
    spread: Float32[np.ndarray, " *shape"] | None = None,
) -> Float32[np.ndarray, " side *shape"]:
    """
    How far the truth lies outside its interval, on each side of the score; negative inside.

    Parameters
    ----------
    score
        Kind and constants.
    quantiles
        Predicted lower, median and upper quantile, in units of the image; finite, in any order.
    truth
        The clean image. Some 2^16 to 2^18 voxels at a time stay in the processor's cache and take a third of the time; scaled
        scores need up to 48 bytes a voxel meanwhile.
    spread
        Standard deviation of the members' medians, in units of the image; read by `ensemble` alone.

    Returns
    -------
    Float32[np.ndarray, " side *shape"]
        One row, or for `asymmetric` below and above. In units of the image, or without unit where the score is scaled. NaN
        where anything is NaN; infinite where float32 ends.

    Raises
    ------
    CalibrationError
        If `ensemble` gets no spread.
    """
    ordered = rearrange(*quantiles)
    lower, _, upper = ordered
    result = np.empty((score.sides, *truth.shape), np.float32)
    with np.errstate(over="ignore"):
        if score.is_scaled:
            widths = _widths(score, *ordered, spread)
            below, above = np.subtract(lower, truth, dtype=np.float64), np.subtract(truth, upper, dtype=np.float64)
            below /= widths[0]
            above /= widths[1]
        else:  # a single difference has the same bits whether it is rounded to float32 at once or by way of float64
            below, above = lower - truth, truth - upper
        if score.sides == 2:
            result[0], result[1] = below, above
        else:
            np.maximum(below, above, out=result[0], casting="same_kind")
    return result


def apply(
    score: Score,
    quantiles: Float32[np.ndarray, " 3 *shape"],
    thresholds: Float32[np.ndarray, " side *groups"],
    support: tuple[float | None, float | None],
    spread: Float32[np.ndarray, " *shape"] | None = None,
) -> tuple[Float32[np.ndarray, " *shape"], Float32[np.ndarray, " *shape"]]:
    """
    Ends of the calibrated interval: every float32 value whose scores are at most the thresholds lies inside, to the last bit.

    The ends are rounded outwards. Where a negative threshold turns an interval inside out, no value scores that low, and the
    median alone is left.

    Parameters
    ----------
    score
        Kind and constants, the same as for the scores that the thresholds were chosen from.
    quantiles
        Predicted lower, median and upper quantile, in units of the image, in any order; NaN stays NaN.
    thresholds
        One for each side of the score, or one for each side and voxel; infinite where nothing can be promised, which gives the
        ends of the support; NaN gives NaN.
    support
        Least and largest possible value of the clean image, or None; cutting there loses no possible value.
    spread
        As for `scores`.

    Raises
    ------
    CalibrationError
        If the number of thresholds is not that of the score's sides, or `ensemble` gets no spread.
    """
    if len(thresholds) != score.sides:
        raise CalibrationError(f"score {score.kind!r} takes {score.sides} thresholds and got {len(thresholds)}; one for each side")
    ordered = rearrange(*quantiles)
    lower, median, upper = ordered
    widths = _widths(score, *ordered, spread) if score.is_scaled else (np.ones(()), np.ones(()))
    low = _moved(lower, thresholds[0], widths[0], -1)
    high = _moved(upper, thresholds[-1], widths[1], 1)
    crossed = low > high
    np.copyto(low, median, where=crossed)
    np.copyto(high, median, where=crossed)
    least, largest = (None if end is None else np.float32(end) for end in support)
    return np.clip(low, least, largest, out=low), np.clip(high, least, largest, out=high)


def expect_support(support: tuple[float | None, float | None], channel: str, least: float, largest: float) -> None:
    """
    Nothing, if no clean value lies outside the support, where intervals are cut off.

    Raises
    ------
    CalibrationError
        Names the channel and the value.
    """
    low, high = support
    # in float32, as the image is: 0.1 there is a little more than 0.1
    below = low is not None and np.float32(least) < np.float32(low)
    above = high is not None and np.float32(largest) > np.float32(high)
    outside = least if below else largest if above else None
    if outside is not None:
        raise CalibrationError(
            f"channel {channel!r} of the clean image holds {outside:g}, outside calibration.support {list(support)}; "
            "intervals are cut there and would miss it; widen the support or use null"
        )


def _widths(
    score: Score,
    lower: Float32[np.ndarray, " *shape"],
    median: Float32[np.ndarray, " *shape"],
    upper: Float32[np.ndarray, " *shape"],
    spread: Float32[np.ndarray, " *shape"] | None,
) -> tuple[Float[np.ndarray, " *shape"], Float[np.ndarray, " *shape"]]:
    """What distances below and above the interval are divided by; one array twice where both are the same."""
    if score.kind == "cqr-m":
        halves = np.subtract(median, lower, dtype=np.float64), np.subtract(upper, median, dtype=np.float64)
        return np.maximum(halves[0], score.floor, out=halves[0]), np.maximum(halves[1], score.floor, out=halves[1])
    whole = np.subtract(upper, lower, dtype=np.float64)
    if score.kind == "ensemble":
        if spread is None:
            raise CalibrationError("score 'ensemble' needs the spread of the members' medians and got none; use 'cqr-r' instead")
        whole += np.multiply(spread, score.spread_weight, dtype=np.float64)
    np.maximum(whole, score.floor, out=whole)
    return whole, whole


def _moved(
    end: Float32[np.ndarray, " *shape"],
    threshold: Float32[np.ndarray, " *groups"] | np.float32,
    width: Float[np.ndarray, " *widths"],
    direction: Literal[-1, 1],
) -> Float32[np.ndarray, " *shape"]:
    """
    The end of an interval moved outwards by threshold * width, and on to the next float32.

    A score may have been rounded down to the threshold. The next threshold in float32 makes up for that, and for the roundings
    of float64 along with it: half a step of float32 is 2^28 times as much. From there on rounding cannot lose a value, because
    it keeps the order of the float32 numbers; the last step makes the interval hold in exact arithmetic too.
    """
    with np.errstate(over="ignore"):
        reach = np.nextafter(threshold, np.float32(inf)) * np.float64(direction)
        moved: Float32[np.ndarray, " *shape"] = np.add(end, reach * width).astype(np.float32)
        np.nextafter(moved, np.float32(direction * inf), out=moved)
    return moved
