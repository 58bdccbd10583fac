"""Colours that keep their meaning: those of tokens, and the embedding in false colours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from behindthenoise.core.palette import colour
from behindthenoise.core.tokens import TokenTree

SHOWN = 3  # components, as red, green and blue
CUT_PERCENT = 0.5  # of the sample, at either end of a component, lie beyond what colours can tell apart
NO_DATA, DARKEST, MIDDLE, BRIGHTEST = 0, 1, 128, 255


def token_colours(tree: TokenTree, count: int) -> list[str]:
    """
    Colour of each of so many tokens of a tree.

    A token has that of its largest finest token, at every level of detail: of two tokens that become one, the larger one's stays.
    So few tokens have the colours that are told apart best, also by the colour-blind.
    """
    places: dict[int, int] = {}
    for level in range(1, len(tree.levels) + 1):
        for finest in tree.largest(level).tolist():
            places.setdefault(finest, len(places))
    return [colour(places[finest]) for finest in tree.largest(count).tolist()]


@dataclass(frozen=True, eq=False)
class FalseColours:
    """
    How the first components of an embedding become red, green and blue, in every volume alike.

    Attributes
    ----------
    low, high
        Ends of the scale of each component that is shown.
    explained
        Share of the latents' variance that each of them holds.
    """

    low: Float32[np.ndarray, " component"]
    high: Float32[np.ndarray, " component"]
    explained: Float[np.ndarray, " component"]

    @classmethod
    def of_sample(cls, embedding: Float[np.ndarray, " n component"], explained: Float[np.ndarray, " component"]) -> "FalseColours":
        """Scales that leave out half a percent of the sample at either end."""
        low, high = np.percentile(embedding[:, :SHOWN].astype(np.float32), (CUT_PERCENT, 100 - CUT_PERCENT), axis=0)
        return cls(low.astype(np.float32), high.astype(np.float32), explained[:SHOWN])

    def of(self, embedding: Float[np.ndarray, " component *space"]) -> UInt8[np.ndarray, " 3 *space"]:
        """
        Red, green and blue of every voxel, from 1 to 255; 0 where masked (NaN).

        Where there are fewer than three components, the others stand in the middle; so does one that does not vary.
        """
        found = np.full((SHOWN, *embedding.shape[1:]), MIDDLE, np.uint8)
        masked = np.isnan(embedding[0])
        for component, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if high > low:
                share = (np.nan_to_num(embedding[component].astype(np.float32)) - low) / (high - low)
                found[component] = np.rint(DARKEST + (BRIGHTEST - DARKEST) * np.clip(share, 0, 1))
        found[:, masked] = NO_DATA
        return found


def mean_colour(values: UInt8[np.ndarray, " *shape"], axis: tuple[int, ...] | None = None) -> UInt8[np.ndarray, " *rest"]:
    """Mean over the voxels that carry data, 0 where none does; dask calls it without axes to see what type it returns."""
    counts = (values != NO_DATA).sum(axis=axis)
    return np.asarray(np.rint(values.sum(axis=axis, dtype=np.float64) / np.maximum(counts, 1)), dtype=np.uint8)
