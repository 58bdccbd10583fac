"""Constants that put noisy and clean images into standard units and back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Scale:
    """
    Constants from the training voxels, one per channel: `(value - shift) / scale` is standardised.

    `gain` and `offset` put a fast scan on the clean image's scale: `(noisy - offset) / gain`, for comparison only.
    """

    noisy_shift: tuple[float, ...]
    noisy_scale: tuple[float, ...]
    clean_shift: tuple[float, ...]
    clean_scale: tuple[float, ...]
    gain: tuple[float, ...]
    offset: tuple[float, ...]

    def standardise_noisy(
        self, noisy: Float[np.ndarray, " *shape"], mask: Bool[np.ndarray, " *reduced"], axis: int
    ) -> Float[np.ndarray, " *shape"]:
        """Noisy values in standard units, masked voxels 0; `axis` is that of the channels."""
        values = (noisy - _along(self.noisy_shift, axis, noisy.ndim)) / _along(self.noisy_scale, axis, noisy.ndim)
        return np.where(np.expand_dims(mask, axis), values, np.float32(0))

    def standardise_clean(self, clean: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Clean values in standard units."""
        return np.asarray((clean - _along(self.clean_shift, axis, clean.ndim)) / _along(self.clean_scale, axis, clean.ndim))

    def restore_clean(self, values: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Standard units back into those of the clean image."""
        return np.asarray(values * _along(self.clean_scale, axis, values.ndim) + _along(self.clean_shift, axis, values.ndim))

    def stretch_clean(self, values: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Differences in standard units back into those of the clean image."""
        return np.asarray(values * _along(self.clean_scale, axis, values.ndim))

    def match_noisy(self, noisy: Float[np.ndarray, " *shape"], axis: int) -> Float[np.ndarray, " *shape"]:
        """Noisy values on the clean image's scale."""
        return np.asarray((noisy - _along(self.offset, axis, noisy.ndim)) / _along(self.gain, axis, noisy.ndim))


def _along(values: tuple[float, ...], axis: int, ndim: int) -> np.ndarray:
    """Per-channel constants, shaped to broadcast along one axis."""
    return np.asarray(values, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(ndim)])
