"""Floats rounded to fewer bits, which compress to less: intervals outwards, so that they hold what they held."""

from math import ceil, log2
from typing import Literal

import numpy as np
from jaxtyping import Float32

MANTISSA = 23  # bits of a float32 behind its leading one
Direction = Literal["down", "nearest", "up"]


def rounded(values: Float32[np.ndarray, " *shape"], error: float, direction: Direction) -> Float32[np.ndarray, " *shape"]:
    """
    Values with as few bits as a relative error allows; the trailing bits are 0.

    Rounding keeps the order of values, and what is rounded down never lies above what is rounded up or to the nearest.

    Parameters
    ----------
    error
        Largest relative error, below 1; 0 changes nothing. Infinities and NaN stay, and so does what is smaller than 1e-38.
    direction
        Towards minus infinity, the nearest value, or plus infinity. To the nearest makes half the error.
    """
    dropped = MANTISSA - ceil(-log2(error)) if error else 0
    if dropped <= 0:
        return values
    bits = values.view(np.int32)
    last = np.int32((1 << dropped) - 1)
    if direction == "nearest":
        added: np.ndarray | np.int32 = np.int32(1 << (dropped - 1))
    else:  # bits without the sign hold the magnitude
        added = np.where((values < 0) == (direction == "down"), last, np.int32(0))
    found = ((bits + added) & ~last).view(np.float32)
    return np.where(np.abs(values) >= np.finfo(np.float32).tiny, np.where(np.isfinite(values), found, values), values)
